"""The command line's options: what is refused while they are parsed, and the frozen values that they become."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from tune.run.options import Options, Resources, Search
from tune.sweep import options_of, parser


def parsed(*arguments: str) -> Options:
    return options_of(parser().parse_args(["--grid", "demo", *arguments]), "the command")


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "some"])
def test_gpus_that_are_no_number_of_gpus_are_refused(value, capsys):
    """NaN would compare as if this machine had enough, and Ray would wait forever."""
    with pytest.raises(SystemExit) as ended:
        parsed("--gpus-per-trial", value)
    assert ended.value.code == 2 and "--gpus-per-trial" in capsys.readouterr().err


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
