"""What Tab offers after `rme-sweep` and `rme`: argcomplete's answer to a command line, as bash receives it."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from functools import partial

import argcomplete
import pytest

import rme.completion
import tune.completion
from rme import RunSpec, commands, data, methods
from tests import ROOT
from tests.sweeping import write_grid
from tune.command_line import parser

WORD_BREAKS = " \t\n\"'><=;|&(:"
"""bash's."""


class Finder(argcomplete.CompletionFinder):
    """argcomplete's own, which would take a file descriptor of pytest for its log."""

    def _init_debug_stream(self) -> None:
        pass


class Ended(BaseException):
    """argcomplete ends the program."""


def end(status: int) -> None:
    raise Ended


@pytest.fixture
def offered(monkeypatch):
    """A function of a command line that returns what can follow."""

    def of(line: str) -> list[str]:
        output = io.StringIO()
        asking = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": "\n", "_ARGCOMPLETE_COMP_WORDBREAKS": WORD_BREAKS,
                  "COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_TYPE": "9"}  # fmt: skip
        for name, value in asking.items():
            monkeypatch.setenv(name, value)
        answer = partial(Finder(), exit_method=end, output_stream=output)
        monkeypatch.setattr(tune.completion, "autocomplete", answer)
        monkeypatch.setattr(rme.completion, "autocomplete", answer)
        with pytest.raises(Ended):
            rme.completion.complete("rme") if line.startswith("rme ") else tune.completion.complete(parser())
        return output.getvalue().split("\n")

    return of


@pytest.mark.parametrize(("typed", "expected"), [
    ("--mi", ["--minutes "]),
    ("--grid pap", ["paper "]),
    ("--grid demo --only met", ["method="]),
    ("--grid demo --only method=", ["vae", "vae-more", "rme"]),
    ("--grid demo --only method=vae,r", ["vae,rme "]),
    ("--grid smoke --only method=vl", ["vlae "]),
    ("--grid nosuch --only method=vl", ["vlae "]),
    ("--grid demo --only seed=", ["0-5 "]),
    ("--grid demo --set stage_keep=", ["best", "last"]),
    ("--grid demo --set nothing=", [""]),
    ("--early-stopping a", ["asha "]),
    ("--members a", ["auto "]),
    ("--search optuna --space v", ["vae "]),
])  # fmt: skip
def test_the_sweep_s_options_and_values(offered, monkeypatch, tmp_path, typed, expected):
    monkeypatch.chdir(tmp_path)
    assert offered(f"rme-sweep {typed}") == expected


def test_every_field_method_and_data_set_is_offered(offered, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert {each.rstrip("=") for each in offered("rme-sweep --set ")} == {*RunSpec.model_fields} - {"options"}
    assert sorted(offered("rme-sweep --set method=")) == methods.names()
    assert sorted(offered("rme-sweep --dataset ")) == data.names()


def test_files_and_their_values(offered, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    write_grid(tmp_path / "mine.yaml", [{"method": "vae"}, {"method": "rme", "order": [2, 3]}], dataset="digits")
    (tmp_path / "mine.npz").touch()
    assert offered("rme-sweep --grid mi") == ["mine.yaml "]
    assert offered("rme-sweep --dataset mi") == ["mine.npz "]
    assert offered("rme-sweep --grid mine.yaml --only order=") == ["2", "3"]


def test_the_commands_of_rme_and_their_options(offered):
    assert set(offered("rme ")) - {"--help"} == set(commands.COMMANDS)
    assert offered("rme score --mod") == ["--model "]
    assert sorted(offered("rme export --format ")) == ["onnx", "torch"]


def test_the_program_answers_on_the_descriptor_that_bash_reads():
    line = "sweep.py --grid pil"
    environment = {**os.environ, "_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)),
                   "_ARGCOMPLETE_COMP_WORDBREAKS": WORD_BREAKS}  # fmt: skip
    command = f"{sys.executable} tune/sweep.py 8>&1 >/dev/null 9>/dev/null"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout == "pilot "
