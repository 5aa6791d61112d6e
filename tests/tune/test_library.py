"""A sweep from Python: what it returns, warns of and raises, and that the program around it stays as it was."""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pandas as pd
import pytest
import torch
from mlflow import MlflowClient

from rme import RunSpec, hooks, nets
from rme.result import MARKER, Result
from tests import ROOT
from tests.databases import blank_database
from tests.sweeping import SMALL, processes_of, write_grid
from tests.tiny import write_npz
from tests.tune.run.test_inline import at
from tune.library import sweep
from tune.plan.grid import GridError
from tune.run.stopping import Terminated

ROWS = [{"method": "vae"}, {"method": "rme", "order": 2}]

SCRIPT = """
import gc, json, os, signal, sys, threading

def state():
    signals = [repr(signal.getsignal(number)) for number in sorted(signal.valid_signals())]
    blocked = sorted(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, [])))
    return [signals, blocked, gc.get_threshold(), gc.isenabled(), list(sys.path), os.environ.get("PYTHONBREAKPOINT"),
            repr(sys.excepthook), torch.get_num_threads()]

import torch
from tune.library import sweep

torch.set_num_threads(2)
before = state()
first = sweep("spots.yaml", only={"method": "rme"}, gpus_per_trial=0, tracking_uri=sys.argv[1])
first.to_pickle("first.pkl")
print("again", file=sys.stderr, flush=True)
again = sweep("spots.yaml", only={"method": "rme"}, gpus_per_trial=0, tracking_uri=sys.argv[1])
json.dump([before, state(), first.equals(again)], open("state.json", "w"))
"""
"""A program without `if __name__ == "__main__"`, which sweeps twice."""


class Script:
    """The program after it has ended: its folder, its output, and MLflow's runs."""

    def __init__(self, folder: Path, ray_folder: Path) -> None:
        dataset = write_npz(folder / "spots.npz")
        write_grid(folder / "spots.yaml", ROWS, dataset=str(dataset), seed="0-1", epochs=1)
        (folder / "program.py").write_text(SCRIPT)
        self.uri = blank_database(folder / "mlflow.db")
        environment = {
            **os.environ, "RAY_TMPDIR": str(ray_folder), "RAY_worker_niceness": "0", "PYTHONPATH": str(ROOT),
            "XDG_CACHE_HOME": str(folder / "cache"),
        }  # fmt: skip
        self.done = subprocess.run(
            [sys.executable, "program.py", self.uri], cwd=folder, env=environment, capture_output=True, text=True
        )
        assert self.done.returncode == 0, self.done.stderr
        self.folder, self.ray_folder = folder, ray_folder
        self.frame = pd.read_pickle(folder / "first.pkl")
        client = MlflowClient(self.uri)
        experiment = client.get_experiment_by_name("spots")
        assert experiment is not None
        found = client.search_runs([experiment.experiment_id], "tags.run_key != ''")
        self.runs = {run.info.run_id: run for run in found}


@pytest.fixture(scope="module")
def script(tmp_path_factory, ray_folder) -> Script:
    return Script(tmp_path_factory.mktemp("script"), ray_folder)


@pytest.mark.slow
def test_the_frame_has_the_runs_of_the_grid_and_mlflow_those_that_they_start_from_too(script):
    assert [run.data.params["method"] for run in script.runs.values()].count("vae") == 2 and len(script.runs) == 4
    assert script.frame["method_label"].tolist() == ["RME(2)", "RME(2)"] and script.frame["seed"].tolist() == [0, 1]
    for row in script.frame.to_dict("records"):
        run = script.runs[row["mlflow_run_id"]]
        assert run.data.tags["run_key"] == row["run_key"]
        assert run.data.metrics["test/iwae"] == row["test_iwae"]
        scores = Result.load(script.folder / "storage" / "runs" / row["run_key"]).test_iwae
        assert row["test_iwae"] == pytest.approx(scores.numpy().mean(), rel=1e-6)


@pytest.mark.slow
def test_the_same_call_again_skips_finished_runs_and_returns_the_same(script):
    first, again = script.done.stderr.split("again\n")
    assert first.count("started") == 2 and "started" not in again
    assert "4 runs are done already" in again
    assert json.loads((script.folder / "state.json").read_text())[2]


@pytest.mark.slow
def test_the_program_keeps_its_signals_collector_path_and_threads(script):
    before, after, _ = json.loads((script.folder / "state.json").read_text())
    assert before == after


@pytest.mark.slow
def test_nothing_of_ray_is_left_and_no_traceback_is_printed(script):
    assert not processes_of(script.ray_folder) and not list((script.folder / "storage" / "ray").glob("*"))
    assert "Traceback" not in script.done.stderr and script.done.stdout == ""
    assert not (script.folder / "report").exists()


@pytest.mark.slow
def test_the_recorded_command_is_the_call(script):
    (command,) = {run.data.tags["command"] for run in script.runs.values()}
    call = ast.parse(command, mode="eval").body
    assert isinstance(call, ast.Call) and ast.unparse(call.func) == "rme.sweep"
    assert [ast.literal_eval(each) for each in call.args] == ["spots.yaml"]
    given = {each.arg: ast.literal_eval(each.value) for each in call.keywords}
    assert given == {"tracking_uri": script.uri, "only": {"method": "rme"}, "gpus_per_trial": 0}


# ---------------------------------------------------------------------- in this process
class Inline:
    """`sweep` in this process, with a data set and a grid of four runs in the current folder."""

    def __init__(self, folder: Path, monkeypatch) -> None:
        monkeypatch.chdir(folder)
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder))  # FLOPs of the networks below are of no use to others
        self.monkeypatch = monkeypatch
        tables = nets.convolutions
        # few channels, which train several times as fast
        monkeypatch.setattr(nets, "convolutions", lambda shape: (tables(shape)[0], [2] * len(tables(shape)[1]), 8))
        self.dataset = str(write_npz(folder / "spots.npz"))
        write_grid(folder / "spots.yaml", ROWS, dataset=self.dataset, seed="0-1", epochs=3, stage_epochs=5)

    def __call__(self, grid="spots.yaml", on_epoch=None, **arguments) -> pd.DataFrame:
        """Sweep with a function that is called after each epoch."""
        self.monkeypatch.setattr(hooks, "on_epoch", lambda: on_epoch)
        return sweep(grid, inline=True, **arguments)

    def spec(self, method: str = "vae", order: int | None = None, **fields) -> RunSpec:
        return RunSpec(**{"method": method, "order": order, "dataset": self.dataset, **SMALL, **fields})


@pytest.fixture
def inline(tmp_path, monkeypatch) -> Inline:
    return Inline(tmp_path, monkeypatch)


def fail(engine) -> None:
    if engine.spec.method == "rme":
        raise ZeroDivisionError("a new idea")  # after each epoch: fewer attempts than epochs


@pytest.mark.slow
def test_inline_rows_are_of_the_storage(inline, script):
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    frame = inline(only={"seed": [1]}, overrides={"epochs": 1})
    assert torch.get_num_threads() == 2
    torch.set_num_threads(threads)
    assert list(frame.columns) == list(script.frame.columns)
    assert frame["method"].tolist() == ["rme", "vae"] and set(frame["epochs"]) == {1} and set(frame["seed"]) == {1}
    for row in frame.to_dict("records"):
        scores = Result.load(Path("storage/runs") / row["run_key"]).test_iwae
        assert row["test_iwae"] == pytest.approx(scores.numpy().mean(), rel=1e-6)
    assert not Path("mlflow.db").exists()
    # another sweep on the same storage returns only its own
    assert inline(inline.spec(epochs=1))["epochs"].tolist() == [1]
    assert len(list(Path("storage").glob(f"runs/*/{MARKER}"))) == 3


def test_a_list_of_runs_is_trained_in_its_own_experiment(inline):
    runs = [inline.spec("rme", 2, seed=seed, epochs=1) for seed in (0, 1, 0)]
    assert inline(iter(runs))["run_key"].tolist() == [runs[0].key, runs[1].key]
    assert inline(runs[0])["run_key"].tolist() == [runs[0].key]


def test_a_range_or_a_list_replaces_the_grid_s_seeds(inline):
    for seeds in (range(2, 4), [2, 3], "2-3"):
        assert inline(only={"method": "vae"}, overrides={"epochs": 1, "seed": seeds})["seed"].tolist() == [2, 3]


def test_failures_are_warned_of_and_trained_again_when_asked(inline):
    with pytest.warns(UserWarning, match="2 of 4 runs are done; 2 runs failed, the first: spots d3 RME") as caught:
        frame = inline(on_epoch=fail)
    assert frame["method"].tolist() == ["vae", "vae"]
    text = str(caught[0].message)
    assert "ZeroDivisionError: a new idea" in text and "retry_failed=True" in text and caught[0].filename == __file__
    assert str(Path("storage/failures").resolve()) in text
    with pytest.warns(UserWarning, match="2 runs failed"):
        assert len(inline()) == 2, "a failed run is left alone"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(inline(retry_failed=True)) == 4


def test_a_run_that_cannot_start_has_a_reason_too(inline):
    """Of two failures the one named is the parent's, not its child's."""
    with pytest.warns(UserWarning, match=r"2 runs failed, the first: spots d3 VAE seed 0: ValueError"):

        def of_parents(engine) -> None:
            raise ValueError("no")

        assert inline(on_epoch=of_parents, only={"seed": 0}, overrides={"epochs": 5}).empty


def test_ctrl_c_is_raised_and_the_same_call_resumes(inline):
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match="the same call resumes"):
        inline(on_epoch=at(2, "vae", lambda engine: os.kill(os.getpid(), signal.SIGINT)))
    assert signal.getsignal(signal.SIGINT) is handler
    epochs: list[int] = []
    assert len(inline(on_epoch=lambda engine: epochs.append(engine.epoch))) == 4
    assert epochs == [3, 1, 2, 3, 4, 5]


def test_sigterm_reaches_the_program_once_the_trainings_are_saved(inline):
    received: list[list[Path]] = []
    before = signal.signal(signal.SIGTERM, lambda *_: received.append(list(Path("storage").glob("trials/*/epoch-*"))))
    try:
        with pytest.raises(Terminated):
            inline(on_epoch=at(2, "vae", lambda engine: os.kill(os.getpid(), signal.SIGTERM)))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert len(received) == 1 and received[0]


def test_the_end_of_the_time_is_warned_of(inline, monkeypatch):
    monkeypatch.setattr("tune.run.stopping.GRACE_S", 0.05)
    with pytest.warns(UserWarning, match="the time is over: 0 of 4 runs are done; the same call resumes"):
        assert inline(minutes=0.01, on_epoch=at(1, "vae", lambda engine: time.sleep(1))).empty


def test_two_runs_in_conflict_are_named_by_their_places(inline):
    runs = [inline.spec(), inline.spec(seed=1), inline.spec(epochs=5)]
    with pytest.raises(GridError, match=r"^grid, runs 1 and 3: spots d3 VAE with two settings \(epochs 2 and 5\)"):
        inline(runs)
    assert not Path("storage").exists()


@pytest.mark.parametrize(("grid", "arguments", "named"), [
    ("nosuch", {}, "--grid nosuch: no such grid"),
    ("nosuch.yaml", {}, "--grid nosuch.yaml: file not found"),
    ([], {}, "the list is empty"),
    (5, {}, "grid=5: expected a grid's name or file"),
    ("smoke", {"only": "seed=0"}, "only='seed=0': expected a mapping"),
    (["smoke"], {}, "item 1: 'smoke' must be an rme.RunSpec"),
    ("smoke", {"only": {"dim": 7}}, "--only dim=7: the grid has dim 10"),
    ("smoke", {"only": {"method": ["vae", "vaee"]}}, "--only method=vaee"),
    ("smoke", {"overrides": {"epoch": 1}}, "--set epoch=1: no such field"),
    ("smoke", {"overrides": {"epochs": 0}}, "epochs=0"),
    ("smoke", {"overrides": {"seed": "5-0"}}, "--set seed=5-0: the range is empty; write 0-5"),
    ("smoke", {"overrides": {"epochs": [1, 2]}}, "--set epochs=[1, 2]: digits d10 BVI-ER1(2) with two settings"),
    ("smoke", {"tracking_uri": ""}, "--tracking-uri '': it is empty"),
    ("smoke", {"cpus_per_trial": 0}, "--cpus-per-trial 0: must be a whole number, 1 or more"),
    ("smoke", {"cpus_per_trial": 100000}, "--cpus-per-trial 100000"),
    ("smoke", {"seeds_per_trial": 1.5}, "--seeds-per-trial 1.5: must be a whole number, 1 or more"),
    ("smoke", {"gpus_per_trial": "some"}, "--gpus-per-trial"),
    ("smoke", {"gpus_per_trial": "auto"}, "--gpus-per-trial auto"),
    ("smoke", {"minutes": float("nan")}, "--minutes nan: must be a number, more than 0"),
    ("smoke", {"experiment": "a/b"}, "--experiment 'a/b': must be a plain name"),
    ("smoke", {"tracking_uri": "sqlite:///x.db"}, "--inline and --tracking-uri"),
    ("smoke", {"report": "report"}, "--inline and --report"),
    ("smoke", {"storage": "s3://bucket"}, "--storage s3://bucket: only folders"),
])  # fmt: skip
def test_bad_input_is_refused_before_anything_starts(tmp_path, monkeypatch, grid, arguments, named):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError) as raised:
        sweep(grid, inline=True, **arguments)
    assert named in str(raised.value) and "\n" not in str(raised.value)
    assert not list(tmp_path.glob("storage/runs/*"))


@pytest.mark.parametrize("arguments", [{"only": {"seed": 0}}, {"overrides": {"epochs": 1}}])
def test_a_list_of_runs_takes_no_choice_of_fields(inline, arguments):
    with pytest.raises(GridError, match="change the list of runs instead"):
        inline([inline.spec()], **arguments)
