"""How a sweep handles runs that another one trains, with real locks of a real process."""

from __future__ import annotations

import pytest

from tests.tune.plan.test_grid import spec
from tests.tune.plan.test_plan import finish
from tests.tune.store.test_locks import Owner
from tune.plan.trials import trials
from tune.run import other_sweeps as others
from tune.run.other_sweeps import OtherSweeps
from tune.run.schedule import Schedule
from tune.store.failure import Failure
from tune.store.storage import Storage

RUNS = [spec(seed=seed) for seed in range(4)]


class Sweep:
    """A schedule of two trials of two runs each, both started; `left` and `ended` record the callbacks."""

    def __init__(self, storage: Storage) -> None:
        self.schedule = Schedule.of(trials(RUNS, 2))
        self.left: list = []
        self.ended: list = []
        self.others = OtherSweeps(
            self.schedule, storage, self.left.append, lambda trial, failures: self.ended.append((trial, failures))
        )
        self.first, self.second = self.schedule.next(), self.schedule.next()


@pytest.fixture
def storage(tmp_path) -> Storage:
    return Storage(tmp_path)


@pytest.fixture
def sweep(storage, monkeypatch) -> Sweep:
    monkeypatch.setattr(others, "LOOK_EVERY_S", 0)
    return Sweep(storage)


@pytest.fixture
def owner(storage):
    """Another process that is training the second run."""
    process = Owner(storage.locks.path, RUNS[1].key)
    assert process.took
    yield process
    process.kill()


def test_a_trial_waits_while_one_of_its_runs_is_trained_elsewhere(sweep, owner, storage):
    assert sweep.others.have(sweep.first) and not sweep.others.have(sweep.second)
    assert sweep.left == [sweep.first] and sweep.schedule.elsewhere == [sweep.first]
    sweep.others.look()
    assert sweep.schedule.elsewhere == [sweep.first], "the lock is still held"
    finish(storage, RUNS[1])
    owner.kill()
    sweep.others.look()
    # only one of its runs is finished, so the trial starts here; its worker skips the finished one
    assert sweep.schedule.next() == sweep.first and sweep.ended == []


def test_a_trial_that_another_sweep_finished_has_ended(sweep, owner, storage):
    assert sweep.others.have(sweep.first)
    failure = Failure("NaN", lasting=True)
    storage.save_failure(RUNS[0].key, failure)
    finish(storage, RUNS[1])
    sweep.others.look()
    assert sweep.ended == [(sweep.first, {RUNS[0].key: failure})]
    assert sweep.schedule.elsewhere == [] and sweep.schedule.failed_runs == {RUNS[0].key: "NaN"}


def test_a_trial_whose_owner_died_is_taken_over(sweep, owner):
    assert sweep.others.have(sweep.first)
    owner.kill()
    sweep.others.look()
    assert sweep.schedule.elsewhere == [] and sweep.schedule.next() == sweep.first


def test_a_trial_finished_by_another_sweep_since_the_plan_is_not_repeated(sweep, storage):
    finish(storage, *RUNS[:2])
    assert sweep.others.have(sweep.first)
    assert sweep.ended == [(sweep.first, {})] and sweep.left == []
