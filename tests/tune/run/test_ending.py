"""The last lines of a sweep say how many runs are done, and where to look next."""

from __future__ import annotations

import io
import shlex

import pandas as pd
import pytest
from rich.console import Console

from tune.run.ending import _look_next, runs_are
from tune.run.options import Options


def lines(runs: pd.DataFrame, tmp_path, uri: str, monkeypatch) -> list[str]:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///default.db")
    options = Options("", "demo", "storage", tmp_path, uri, report=tmp_path / "report")
    console = Console(file=io.StringIO(), width=40, force_terminal=False)
    _look_next(options, "demo", runs, "#/page", console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


@pytest.fixture
def runs() -> pd.DataFrame:
    """Two runs, of which the second is the better by validation, and the worse by test."""
    return pd.DataFrame(
        {
            "dataset": "digits", "dim": 10, "decoder": "conv", "seed": [0, 1], "method_label": ["VAE", "RME(2)"],
            "val_iwae": [80.0, 90.0], "test_iwae": [95.0, 91.0], "mlflow_run_id": ["a" * 32, "b" * 32],
        }
    )  # fmt: skip


def test_the_best_run_is_the_one_by_validation(runs, tmp_path, monkeypatch):
    mlflow, best, report = lines(runs, tmp_path, "sqlite:///default.db", monkeypatch)
    command, address = mlflow.removeprefix("MLflow: ").split(", then ")
    assert command == "`mlflow server --backend-store-uri sqlite:///default.db`"
    assert address == "http://localhost:5000/#/page"
    assert best.startswith("best by validation, RME(2) seed 1: ") and best.endswith(f'rme.load("runs:/{"b" * 32}")')
    assert report == f"report: {tmp_path / 'report' / 'index.html'}"


def test_the_database_is_named_as_a_shell_and_python_read_it(runs, tmp_path, monkeypatch):
    uri = "sqlite:////a folder/mlflow.db"
    mlflow, best, _ = lines(runs, tmp_path, uri, monkeypatch)
    assert shlex.split(mlflow.split("`")[1]) == ["mlflow", "server", "--backend-store-uri", uri]
    assert best.endswith(f"tracking_uri={uri!r})")


def test_a_server_is_named_by_its_address(runs, tmp_path, monkeypatch):
    assert lines(runs, tmp_path, "http://host:5000", monkeypatch)[0] == "MLflow: http://host:5000/#/page"


def test_no_run_is_the_best_of_several_columns(runs, tmp_path, monkeypatch):
    found = lines(runs.assign(dim=[10, 20]), tmp_path, "sqlite:///default.db", monkeypatch)
    assert len(found) == 2 and not any("rme.load" in line for line in found)


def test_plurals():
    assert [runs_are(count) for count in (0, 1, 2)] == ["0 runs are", "1 run is", "2 runs are"]
