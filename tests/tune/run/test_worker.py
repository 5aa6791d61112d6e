"""What all workers share, with a real storage; their reports to Ray are recorded."""

from __future__ import annotations

import logging

import pytest

from rme.checkpoint import CorruptFile
from rme.result import MARKER
from rme.training import StopTraining
from tests.tune.plan.test_grid import spec
from tests.tune.plan.test_plan import finish
from tests.tune.store.test_locks import Owner
from tune.run import ray_worker, worker
from tune.run.protocol import Job, Outcome
from tune.run.ray_worker import StopLock, carry_out_in_ray
from tune.run.worker import Link, carry_out
from tune.store.storage import Storage

RUNS = (spec(seed=0), spec(seed=1))


@pytest.fixture
def reported(monkeypatch) -> list[Outcome]:
    found: list[Outcome] = []
    monkeypatch.setattr(ray_worker.ray.tune, "report", lambda result: found.append(Outcome.from_result(result)))
    return found


@pytest.fixture
def job(tmp_path) -> Job:
    return Job("key", "name", RUNS, tmp_path, tmp_path / "trials", tmp_path, 1, "cpu", 0.0, "a sweep")


def is_free(storage: Storage, name: str) -> bool:
    """Whether another process can take the lock."""
    owner = Owner(storage.locks.path, name)
    owner.kill()
    return owner.took


def are_free(job: Job) -> bool:
    return all(is_free(Storage(job.storage), run.key) for run in RUNS)


def test_an_exception_is_reported_and_raised_and_the_locks_are_released(job, reported):
    def work(given: Job, storage: Storage, link: Link) -> Outcome:
        assert given == job and not any(is_free(storage, run.key) for run in RUNS)
        raise RuntimeError("a bad day\nof many lines")

    with pytest.raises(RuntimeError):
        carry_out_in_ray(job.to_config(), work)
    (outcome,) = reported
    assert outcome.raised is not None and outcome.raised.reason == "RuntimeError: a bad day"
    assert "in work" in outcome.raised.traceback
    assert are_free(job)


def test_warnings_are_sent_once_with_the_next_report(job, reported):
    def work(given: Job, storage: Storage, link: Link) -> Outcome:
        logging.getLogger("rme.somewhere").warning("look: %s", 3)
        logging.getLogger("elsewhere").warning("not ours")
        link.report(Outcome(epoch=1))
        return Outcome(epoch=2)

    carry_out_in_ray(job.to_config(), work)
    assert [outcome.warnings for outcome in reported] == [("look: 3",), ()]


def test_a_worker_learns_from_the_lock_that_its_sweep_is_stopping(job, reported, monkeypatch):
    monkeypatch.setattr(ray_worker, "STOP_EVERY_S", 0)
    locks = Storage(job.storage).locks
    began = []

    def work(given: Job, storage: Storage, link: Link) -> Outcome:
        began.append(given.key)
        assert not link.stop()
        driver = Owner(locks.path, StopLock(locks, "another sweep").name)
        link.check()
        driver.kill()
        driver = Owner(locks.path, StopLock(locks, "a sweep").name)
        try:
            link.check()
        finally:
            driver.kill()
        raise AssertionError("not stopped")

    carry_out_in_ray(job.to_config(), work)
    assert reported == [Outcome(stopped=True)] and began and are_free(job)


def test_a_job_that_comes_while_the_sweep_is_stopping_is_not_begun(job):
    def work(given: Job, storage: Storage, link: Link) -> Outcome:
        raise AssertionError("begun")

    assert carry_out(job, work, Link(print, lambda: True)) == Outcome(stopped=True)


def test_a_job_of_which_another_process_holds_a_run_is_not_begun(job):
    owner = Owner(Storage(job.storage).locks.path, RUNS[1].key)
    try:
        assert carry_out(job, pytest.fail, Link(print, lambda: False)) == Outcome(held_elsewhere=True)
    finally:
        owner.kill()


def test_stop_is_raised_only_while_stopping():
    Link(print, lambda: False).check()
    with pytest.raises(StopTraining):
        Link(print, lambda: True).check()


def test_a_damaged_parent_is_discarded_so_that_it_is_trained_again(tmp_path):
    storage = Storage(tmp_path)
    child = spec("rme", 2)
    damaged = child.parent
    assert damaged is not None and worker.parent_models(storage, RUNS) is None
    finish(storage, damaged)
    (storage.run_folder(damaged.key) / MARKER).write_bytes(b"not a result")
    with pytest.raises(CorruptFile):
        worker.parent_models(storage, [child])
    assert not storage.has_result(damaged.key)
