"""A grid held against what is there: what is trained, what is only recorded, what is left alone."""

from __future__ import annotations

import pytest

from rme.result import MARKER
from tests.tune.plan.test_grid import spec
from tune.plan.grid import AbsentCell, Grid, Trial, trials, with_parents
from tune.plan.plan import Plan, make_plan
from tune.store.failure import Failure
from tune.store.storage import Storage

WANTED = tuple(spec(method, order, seed) for method, order in (("vae", None), ("rme", 2)) for seed in range(4))


@pytest.fixture
def storage(tmp_path) -> Storage:
    return Storage(tmp_path)


def finish(storage: Storage, *runs) -> None:
    """Leave what says that these runs have results."""
    for run in runs:
        storage.run_folder(run.key).mkdir(parents=True)
        (storage.run_folder(run.key) / MARKER).touch()


def plan(storage: Storage, recorded=(), runs=WANTED) -> Plan:
    return make_plan(Grid("g", "", tuple(runs), ()), 2, {run.key for run in recorded}, storage)


def names(found) -> list[str]:
    return [f"{t.runs[0].method_label} {','.join(str(run.seed) for run in t.runs)}" for t in found]


def test_all_is_trained_where_nothing_is_there(storage):
    assert names(plan(storage).to_train) == ["VAE 0,1", "VAE 2,3", "RME(2) 0,1", "RME(2) 2,3"]


def test_a_plan_that_knows_of_no_failures_trains_all():
    found = Plan(Grid("g", "", WANTED, ()), tuple(trials(WANTED, 2)), frozenset(), frozenset(), 0)
    assert found.to_train == list(found.trials)


def test_what_is_recorded_is_left_alone(storage):
    finish(storage, *WANTED)
    found = plan(storage, WANTED)
    assert found.to_train == [] and found.to_record == []
    assert found.counts()["done_runs"] == 8


def test_what_lies_on_the_storage_is_only_recorded(storage):
    finish(storage, *WANTED[:2])
    found = plan(storage, WANTED[2:4])
    assert found.to_record == list(WANTED[:2])
    assert "VAE 0,1" not in names(found.to_train)


def test_a_starting_point_whose_models_were_deleted_is_trained_again(storage):
    """Recorded, but of no use to the runs that start from it."""
    assert names(plan(storage, WANTED[:4]).to_train) == ["VAE 0,1", "VAE 2,3", "RME(2) 0,1", "RME(2) 2,3"]
    # and of no need either, once those are done
    assert plan(storage, WANTED).to_train == []


def test_starting_points_that_the_grid_does_not_name_are_added(storage):
    found = plan(storage, runs=WANTED[4:])
    assert names(found.to_train) == ["VAE 0,1", "VAE 2,3", "RME(2) 0,1", "RME(2) 2,3"]
    assert found.counts()["starting_points"] == 4 and found.counts()["runs"] == 4
    order = [run.key for trial in found.trials for run in trial.runs]
    assert all(order.index(run.parent.key) < order.index(run.key) for run in with_parents(WANTED) if run.parent)


def test_a_trial_under_way_stays_the_array_that_it_was(storage):
    """Its rounding is the array's, so what was interrupted goes on with all of its runs."""
    finish(storage, WANTED[0])
    assert "VAE 1" in names(plan(storage).to_train), "it never began: the finished run is left out"
    storage.trial_folder(Trial(WANTED[:2]).key).mkdir(parents=True)
    assert names(plan(storage).to_train)[0] == "VAE 0,1"


# ---------------------------------------------------------------------- runs that failed before
DIVERGED = Failure("DivergedError: NaN", "Traceback", lasting=True)


def test_what_failed_is_held_back_with_what_starts_from_it(storage):
    storage.save_failure(WANTED[0].key, DIVERGED)
    found = plan(storage)
    assert names(found.to_train) == ["VAE 1", "VAE 2,3", "RME(2) 1", "RME(2) 2,3"]
    assert found.held_back[WANTED[0].key] == DIVERGED
    assert WANTED[0].run_name in found.held_back[WANTED[4].key].reason
    assert len(found.held_back) == 2


def test_what_failed_and_then_was_done_is_done(storage):
    storage.save_failure(WANTED[0].key, DIVERGED)
    finish(storage, *WANTED[:2])
    found = plan(storage)
    assert found.held_back == {} and names(found.to_train) == ["VAE 2,3", "RME(2) 0,1", "RME(2) 2,3"]


def test_just_what_failed_is_retried(storage):
    """And what starts from it: the rest of the grid waits for the command without --retry-failed."""
    finish(storage, WANTED[1])
    storage.save_failure(WANTED[0].key, DIVERGED)
    found = make_plan(Grid("g", "", WANTED, ()), 1, set(), storage, retry_failed=True)
    assert names(found.to_train) == ["VAE 0", "RME(2) 0"]
    assert found.retried == {WANTED[0].key} and found.held_back == {}
    storage.forget_failure(WANTED[0].key)
    assert make_plan(Grid("g", "", WANTED, ()), 1, set(), storage, retry_failed=True).to_train == []


def test_a_damaged_note_of_a_failure_is_none(storage, caplog):
    storage.save_failure(WANTED[0].key, DIVERGED)
    (note,) = (storage.root / "failures").iterdir()
    note.write_text(note.read_text()[:10])
    assert plan(storage).held_back == {} and note.name in caplog.text


def test_what_failed_for_want_of_its_parent_is_told_by_the_first_cause(storage):
    """A child with a failure of its own keeps it; one that is done is held back by nothing."""
    own = Failure("its own", lasting=True)
    for run, failure in ((WANTED[0], DIVERGED), (WANTED[1], DIVERGED), (WANTED[4], own)):
        storage.save_failure(run.key, failure)
    finish(storage, WANTED[5])
    found = plan(storage)
    assert found.held_back == {WANTED[0].key: DIVERGED, WANTED[1].key: DIVERGED, WANTED[4].key: own}


def test_with_retry_what_is_done_is_not_done_again(storage):
    """Of what starts from a run that failed, the recorded one needs nothing; nor does what never failed."""
    storage.save_failure(WANTED[0].key, DIVERGED)
    storage.save_failure(WANTED[5].key, DIVERGED)
    finish(storage, WANTED[1])
    found = make_plan(Grid("g", "", WANTED, ()), 1, {WANTED[4].key}, storage, retry_failed=True)
    assert names(found.to_train) == ["VAE 0", "RME(2) 1"]


# ---------------------------------------------------------------------- counted
def counted_plan(storage: Storage, absent_seeds: int, size=2) -> Plan:
    runs = [spec("vae", seed=seed, dataset="mnist", dim=50, restarts=3) for seed in range(3)]
    runs.append(spec("vae-more", seed=0, restarts=2))
    unknown = AbsentCell({"method": "unheard-of", "dataset": "mnist", "dim": 50}, absent_seeds, 4, "no such method")
    return make_plan(Grid("g", "", tuple(runs), (unknown,)), size, {runs[2].key, "a run of another grid"}, storage)


def test_a_plan_is_counted_with_what_is_absent(storage):
    """By hand: 3 + 1 + 5 runs; arrays of two are 2 + 1 + 3; the control starts from a VAE that no row names."""
    assert counted_plan(storage, 5).counts() == {
        "cells": 3, "paper_cells": 1, "control_cells": 1, "runs": 9, "trainings": 3 * 3 + 2 + 5 * 4, "trials": 6,
        "done_runs": 1, "to_train_trials": 3, "to_train_runs": 4, "starting_points": 1,
    }  # fmt: skip


@pytest.mark.parametrize(("absent_seeds", "arrays"), [(1, 1), (2, 1), (4, 2), (5, 3)])
def test_arrays_of_what_is_absent_are_as_large_as_the_others(storage, absent_seeds, arrays):
    assert counted_plan(storage, absent_seeds).absent_trials == arrays
    assert counted_plan(storage, absent_seeds, lambda spec: 3).absent_trials == 1
