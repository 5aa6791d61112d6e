"""The command line's options: what is refused while they are parsed, and the frozen values that they become."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from rme import RunSpec
from tests import ROOT
from tune import sweep
from tune.command_line import options_of, parse, parser
from tune.plan.grid_files import GRIDS
from tune.plan.grid_options import chosen_grid
from tune.run.options import Options, Resources, Search


def parsed(*arguments: str) -> Options:
    return options_of(parse(["--grid", "demo", *arguments]), "the command")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        # NaN would compare as if this machine had enough GPUs, and Ray would wait forever
        *((("--gpus-per-trial", value), f"--gpus-per-trial {value}: must be a number, 0 or more, or auto")
          for value in ("nan", "inf", "-1", "some")),
        (("--minutes", "x"), "--minutes x: must be a number, more than 0"),
        (("--minutes", "0"), "--minutes 0: must be a number, more than 0"),
        (("--samples", "1.5"), "--samples 1.5: must be a whole number, 1 or more"),
        (("--members", "few"), "--members few: must be a whole number, 1 or more, or auto"),
        (("--early-stopping", "ash"), "--early-stopping ash: did you mean asha? valid values are asha, none"),
        (("--search", "x"), "--search x: valid values are optuna"),
        (("--minuts", "3"), "--minuts: no such option; did you mean --minutes?"),
        (("--gird=demo",), "--gird: no such option; did you mean --grid?"),
        (("paper",), "paper: not an option; did you mean --grid paper?"),
        (("--storage",), "--storage: its value is missing; expected DIR"),
        (("--plan=yes",), "--plan: it takes no value"),
        (("--experiment", "a/b"), "--experiment 'a/b': must be a plain name, without / and not starting with a dot"),
        (("--register", "a:b"), "--register 'a:b': must be a plain name, without / : @ and quotes"),
        (("--s", "3"), "ambiguous option: --s could match --set"),
        *(((option, ""), f"{option} '': it is empty; expected ")
          for option in ("--grid", "--only", "--set", "--dataset", "--experiment", "--storage", "--data-dir",
                         "--tracking-uri", "--report", "--address", "--register", "--space")),
        (("--minutes", " "), "--minutes '': it is empty; expected N"),
    ],
)  # fmt: skip
def test_a_mistyped_option_is_refused_in_one_line(arguments, line, capsys):
    assert sweep.main(["--grid", "demo", *arguments]) == 2
    said = capsys.readouterr()
    assert said.err.startswith(f"sweep: {line}") and said.err.count("\n") == 1 and said.out == ""


@pytest.mark.parametrize(("arguments", "named"), [([], "valid values are"), (["--plan"], "demo"), (["--gird", "x"],
    "--gird: no such option")])  # fmt: skip
def test_a_missing_grid_is_said_after_a_mistyped_option(arguments, named, capsys):
    assert sweep.main(arguments) == 2
    line = capsys.readouterr().err
    assert named in line and ("--grid is missing" in line) == ("--gird" not in line)


@pytest.mark.parametrize(("arguments", "both"), [
    (["--inline", "--tracking-uri", "u"], ["--inline", "--tracking-uri"]),
    (["--record", "--plan"], ["--record", "--plan"]),
    (["--plan", "--minutes", "3"], ["--minutes", "--plan"]),
    (["--plan", "--search", "optuna", "--space", "rme"], ["--plan", "--search"]),
    (["--members", "2", "--seeds-per-trial", "2"], ["--members", "--seeds-per-trial"]),
    (["--json"], ["--json", "--plan"]),
    (["--samples", "3"], ["--samples", "--search"]),
    (["--search", "optuna"], ["--search", "--space"]),
    (["--inline", "--gpus-per-trial", "2"], ["--gpus-per-trial 2", "--inline"]),
])  # fmt: skip
def test_options_that_exclude_or_need_each_other(arguments, both, capsys):
    assert sweep.main(["--grid", "demo", *arguments]) == 2
    line = capsys.readouterr().err
    assert all(option in line for option in both[:1]) and both[1].removeprefix("--") in line
    assert line.count("\n") == 1


# ---------------------------------------------------------------------- help
@pytest.fixture(scope="module")
def help_text() -> str:
    """Printed by a program that then fails if torch, Ray or MLflow has been imported."""
    code = (
        "import atexit, os, sys; sys.argv = ['sweep.py', '--help']; from tune import sweep\n"
        "atexit.register(lambda: os._exit(3 if {'torch', 'ray', 'mlflow', 'pandas'} & set(sys.modules) else 0))\n"
        "sweep.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""
    return done.stdout


def test_the_help_fits_a_terminal_and_has_every_option_grid_and_field(help_text):
    assert max(map(len, help_text.splitlines())) <= 80
    first_words = [line.split()[0] for line in help_text.splitlines() if line.startswith("  -")]
    options = [action.option_strings[0] for action in parser()._actions]
    assert [word.rstrip(",") for word in first_words] == options
    named = {line.split()[0] for line in help_text.splitlines() if line.startswith("  ") and line[2] != " "}
    assert {path.stem for path in GRIDS.glob("*.yaml")} <= named
    assert set(RunSpec.model_fields) <= named
    flat = " ".join(help_text.split())
    assert all(" ".join((info.description or "").split()) in flat for info in RunSpec.model_fields.values())


def test_the_examples_of_the_help_are_commands(help_text):
    text = help_text.partition("\nexamples:")[2].partition("\ndocumentation:")[0].replace("\\\n", "")
    commands = [shlex.split(line)[2:] for line in text.splitlines() if line.strip().startswith("python ")]
    assert len(commands) == 3
    for command in commands:
        asked = parse(command)
        assert chosen_grid(asked.grid, asked.only, asked.set).runs


# ---------------------------------------------------------------------- the reader of standard output
def test_a_reader_that_has_ended_is_no_traceback():
    """As in `--plan --json | head`; what is printed stands for a plan, so that the child need not import torch."""
    code = (
        "import sys, types; sys.argv = ['rme-sweep', '--grid', 'demo', '--plan']\n"
        "sys.modules['tune.carry_out'] = types.SimpleNamespace(carry_out=lambda *_: print('plan') or 0)\n"
        "from tune import sweep; sys.exit(sweep.command())"
    )
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


# ---------------------------------------------------------------------- the frozen options
def test_defaults_are_filled_in_and_only_what_was_typed_is_given(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    plain = parsed()
    assert (plain.storage, plain.data_dir, plain.tracking_uri) == ("storage", Path("data"), "sqlite:///mlflow.db")
    assert plain.resources == Resources(None, 1, None) and plain.search is None and plain.given == {}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://elsewhere:5000")
    asked = parsed("--storage", "storage", "--gpus-per-trial", "0.5", "--search", "optuna", "--space", "rme")
    assert asked.tracking_uri == "http://elsewhere:5000"
    assert asked.given == {"--storage": "storage", "--gpus-per-trial": "0.5"}
    assert asked.resources.gpus == 0.5 and asked.search == Search("rme", 20, early_stopping=True)


def test_options_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        parsed().storage = "elsewhere"  # type: ignore[misc]
