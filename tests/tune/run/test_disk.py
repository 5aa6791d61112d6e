"""A sweep that does not fit on a disk is told so when it starts."""

from __future__ import annotations

import shutil

import pytest

from tune.command_line import options_of, parse
from tune.cost.disk import recorded_bytes, result_bytes
from tune.plan.trials import Trial
from tune.run import disk
from tune.run.options import Options
from tune.run.stopping import Stopping
from tune.store.storage import Storage, StorageError


def options(tmp_path, *more: str) -> Options:
    places = ("--storage", str(tmp_path / "s"), "--tracking-uri", f"sqlite:///{tmp_path}/m.db")
    return options_of(parse(["--grid", "demo", *places, *more]))


def watched(tmp_path, trials: list[Trial], *more: str) -> list[str]:
    """What is said of these trials before they start."""
    said: list[str] = []
    disk.watch(options(tmp_path, *more), Storage(tmp_path / "s"), trials, [], Stopping(said.append), said.append)
    return said


def test_a_sweep_that_fits_is_not_spoken_of(tmp_path, small):
    assert watched(tmp_path, [Trial((small.spec(),))]) == []


def test_a_sweep_that_is_too_large_for_the_disk_is_warned_of(tmp_path, small):
    trial = Trial((small.spec(restarts=50),))
    count = shutil.disk_usage(tmp_path).free // result_bytes(trial.runs[0]) + 100
    (line,) = watched(tmp_path, [trial] * count, "--inline")
    assert f"--storage {tmp_path}/s" in line and "the sweep will write about" in line and "B are free" in line


def test_a_sweep_that_cannot_save_what_runs_is_refused(tmp_path, small):
    count = shutil.disk_usage(tmp_path).free // 100_000_000 + 1  # a model has more than a megabyte
    with pytest.raises(StorageError, match=r"--storage .*/s.*: .*B are free, and saving .* needs .*B"):
        watched(tmp_path, [Trial((small.spec(restarts=100),) * count)])


def test_models_in_mlflow_are_counted_where_they_are_written(tmp_path, small):
    spec = small.spec()
    trials = [Trial((spec,)), Trial((small.spec(seed=1),))]
    # one trial at once in both
    (both,) = disk.places(options(tmp_path, "--cpus-per-trial", "100000"), Storage(tmp_path / "s"), trials, [spec])
    (alone,) = disk.places(options(tmp_path, "--inline"), Storage(tmp_path / "s"), trials, [])
    assert both.needed == alone.needed + 3 * recorded_bytes(spec)
    assert f"{tmp_path}/m.db" in both.named and "MLflow" not in alone.named


def test_how_many_trials_run_at_once(tmp_path):
    assert disk.trials_at_once(options(tmp_path, "--inline"), 5) == 1
    assert disk.trials_at_once(options(tmp_path, "--address", "auto"), 500) == disk.ON_A_CLUSTER
    assert disk.trials_at_once(options(tmp_path, "--cpus-per-trial", "100000"), 5) == 1
    assert disk.trials_at_once(options(tmp_path), 0) == 0
