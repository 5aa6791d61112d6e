"""A plan: which runs are trained, which are only recorded, and which are held back."""

from __future__ import annotations

import pytest

from rme.result import MARKER
from tests.tune.plan.test_grid import spec
from tune.plan.grid import AbsentCell, Grid
from tune.plan.plan import Plan, make_plan
from tune.plan.trials import Trial, trials, with_parents
from tune.store.failure import Failure
from tune.store.storage import Storage

WANTED = tuple(spec(method, order, seed) for method, order in (("vae", None), ("rme", 2)) for seed in range(4))


@pytest.fixture
def storage(tmp_path) -> Storage:
    return Storage(tmp_path)


def finish(storage: Storage, *runs) -> None:
    """Mark these runs as having results on the storage."""
    for run in runs:
        storage.run_folder(run.key).mkdir(parents=True)
        (storage.run_folder(run.key) / MARKER).touch()


def plan(storage: Storage, recorded=(), runs=WANTED) -> Plan:
    return make_plan(Grid("g", "", tuple(runs), ()), 2, {run.key for run in recorded}, storage)


def names(found) -> list[str]:
    return [f"{t.runs[0].method_label} {','.join(str(run.seed) for run in t.runs)}" for t in found]


def test_without_results_every_trial_is_trained(storage):
    assert names(plan(storage).to_train) == ["VAE 0,1", "VAE 2,3", "RME(2) 0,1", "RME(2) 2,3"]


def test_a_plan_without_failures_trains_every_trial():
    found = Plan(Grid("g", "", WANTED, ()), tuple(trials(WANTED, 2)), frozenset(), frozenset(), 0)
    assert found.to_train == list(found.trials)


def test_recorded_runs_are_skipped(storage):
    finish(storage, *WANTED)
    found = plan(storage, WANTED)
    assert found.to_train == [] and found.to_record == []
    assert found.counts()["done_runs"] == 8


def test_runs_with_results_on_the_storage_are_only_recorded(storage):
    finish(storage, *WANTED[:2])
    found = plan(storage, WANTED[2:4])
    assert found.to_record == list(WANTED[:2])
    assert "VAE 0,1" not in names(found.to_train)


def test_a_starting_point_whose_models_were_deleted_is_trained_again(storage):
    """It is recorded, but the runs that start from it need its models."""
    assert names(plan(storage, WANTED[:4]).to_train) == ["VAE 0,1", "VAE 2,3", "RME(2) 0,1", "RME(2) 2,3"]
    # they do not need them once they are done
    assert plan(storage, WANTED).to_train == []


def test_starting_points_that_the_grid_does_not_name_are_added(storage):
    found = plan(storage, runs=WANTED[4:])
    assert names(found.to_train) == ["VAE 0,1", "VAE 2,3", "RME(2) 0,1", "RME(2) 2,3"]
    assert found.counts()["starting_points"] == 4 and found.counts()["runs"] == 4
    order = [run.key for trial in found.trials for run in trial.runs]
    assert all(order.index(run.parent.key) < order.index(run.key) for run in with_parents(WANTED) if run.parent)


def test_an_interrupted_trial_keeps_all_of_its_runs(storage):
    """Its rounding depends on the array, so it must be resumed as the same array."""
    finish(storage, WANTED[0])
    assert "VAE 1" in names(plan(storage).to_train), "the trial never began, so the finished run is left out"
    storage.trial_folder(Trial(WANTED[:2]).key).mkdir(parents=True)
    assert names(plan(storage).to_train)[0] == "VAE 0,1"


# ---------------------------------------------------------------------- runs that failed before
DIVERGED = Failure("DivergedError: NaN", "Traceback", lasting=True)


def test_failed_runs_and_their_children_are_held_back(storage):
    storage.save_failure(WANTED[0].key, DIVERGED)
    found = plan(storage)
    assert names(found.to_train) == ["VAE 1", "VAE 2,3", "RME(2) 1", "RME(2) 2,3"]
    assert found.held_back[WANTED[0].key] == DIVERGED
    assert WANTED[0].run_name in found.held_back[WANTED[4].key].reason
    assert len(found.held_back) == 2


def test_a_failed_run_that_is_finished_later_is_done(storage):
    storage.save_failure(WANTED[0].key, DIVERGED)
    finish(storage, *WANTED[:2])
    found = plan(storage)
    assert found.held_back == {} and names(found.to_train) == ["VAE 2,3", "RME(2) 0,1", "RME(2) 2,3"]


def test_retry_failed_trains_only_failed_runs_and_their_children(storage):
    """The rest of the grid waits for the command without --retry-failed."""
    finish(storage, WANTED[1])
    storage.save_failure(WANTED[0].key, DIVERGED)
    found = make_plan(Grid("g", "", WANTED, ()), 1, set(), storage, retry_failed=True)
    assert names(found.to_train) == ["VAE 0", "RME(2) 0"]
    assert found.retried == {WANTED[0].key} and found.held_back == {}
    storage.forget_failure(WANTED[0].key)
    assert make_plan(Grid("g", "", WANTED, ()), 1, set(), storage, retry_failed=True).to_train == []


def test_a_damaged_failure_file_is_ignored(storage, caplog):
    storage.save_failure(WANTED[0].key, DIVERGED)
    (note,) = (storage.root / "failures").iterdir()
    note.write_text(note.read_text()[:10])
    assert plan(storage).held_back == {} and note.name in caplog.text


def test_a_child_keeps_its_own_failure_and_a_finished_child_is_not_held_back(storage):
    own = Failure("its own", lasting=True)
    for run, failure in ((WANTED[0], DIVERGED), (WANTED[1], DIVERGED), (WANTED[4], own)):
        storage.save_failure(run.key, failure)
    finish(storage, WANTED[5])
    found = plan(storage)
    assert found.held_back == {WANTED[0].key: DIVERGED, WANTED[1].key: DIVERGED, WANTED[4].key: own}


def test_retry_failed_skips_finished_children_and_runs_that_never_failed(storage):
    storage.save_failure(WANTED[0].key, DIVERGED)
    storage.save_failure(WANTED[5].key, DIVERGED)
    finish(storage, WANTED[1])
    found = make_plan(Grid("g", "", WANTED, ()), 1, {WANTED[4].key}, storage, retry_failed=True)
    assert names(found.to_train) == ["VAE 0", "RME(2) 1"]


# ---------------------------------------------------------------------- counts
def counted_plan(storage: Storage, absent_seeds: int, size=2) -> Plan:
    runs = [spec("vae", seed=seed, dataset="mnist", dim=50, restarts=3) for seed in range(3)]
    runs.append(spec("vae-more", seed=0, restarts=2))
    unknown = AbsentCell({"method": "unheard-of", "dataset": "mnist", "dim": 50}, absent_seeds, 4, "no such method")
    return make_plan(Grid("g", "", tuple(runs), (unknown,)), size, {runs[2].key, "a run of another grid"}, storage)


def test_counts_include_absent_cells(storage):
    """By hand: 3 + 1 + 5 runs, in 2 + 1 + 3 arrays of two; the control starts from a VAE that no row names."""
    assert counted_plan(storage, 5).counts() == {
        "cells": 3, "paper_cells": 1, "control_cells": 1, "runs": 9, "trainings": 3 * 3 + 2 + 5 * 4, "trials": 6,
        "done_runs": 1, "to_train_trials": 3, "to_train_runs": 4, "starting_points": 1,
    }  # fmt: skip


@pytest.mark.parametrize(("absent_seeds", "arrays"), [(1, 1), (2, 1), (4, 2), (5, 3)])
def test_absent_cells_are_counted_in_arrays_of_the_same_size(storage, absent_seeds, arrays):
    assert counted_plan(storage, absent_seeds).absent_trials == arrays
    assert counted_plan(storage, absent_seeds, lambda spec: 3).absent_trials == 1
