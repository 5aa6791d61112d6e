"""What all workers share, with a real storage; their reports to Ray are recorded."""

from __future__ import annotations

import logging

import pytest

from rme.checkpoint import CorruptFile
from rme.result import MARKER
from tests.tune.plan.test_grid import spec
from tests.tune.plan.test_plan import finish
from tests.tune.store.test_locks import Owner
from tune.run import worker
from tune.run.protocol import Job, Outcome
from tune.store.storage import Storage

RUNS = (spec(seed=0), spec(seed=1))


@pytest.fixture
def reported(monkeypatch) -> list[Outcome]:
    found: list[Outcome] = []
    monkeypatch.setattr(worker.ray.tune, "report", lambda result: found.append(Outcome.from_result(result)))
    monkeypatch.setattr(worker, "RETRY_S", 0)
    return found


@pytest.fixture
def job(tmp_path) -> Job:
    return Job("key", "name", RUNS, tmp_path, tmp_path / "trials", tmp_path, 1, "cpu", 0.0)


def is_free(storage: Storage, name: str) -> bool:
    """Whether another process can take the lock."""
    owner = Owner(storage.locks.path, name)
    owner.kill()
    return owner.took


def test_an_exception_is_reported_and_raised_and_the_locks_are_released(job, reported):
    def work(given: Job, storage: Storage) -> Outcome:
        assert given == job and not any(is_free(storage, run.key) for run in RUNS)
        raise RuntimeError("a bad day\nof many lines")

    with pytest.raises(RuntimeError):
        worker.carry_out(job.to_config(), work)
    (outcome,) = reported
    assert outcome.raised is not None and outcome.raised.reason == "RuntimeError: a bad day"
    assert "in work" in outcome.raised.traceback
    assert all(is_free(Storage(job.storage), run.key) for run in RUNS)


def test_warnings_are_sent_once_with_the_next_report(job, reported):
    def work(given: Job, storage: Storage) -> Outcome:
        logging.getLogger("rme.somewhere").warning("look: %s", 3)
        logging.getLogger("elsewhere").warning("not ours")
        worker.report(Outcome(epoch=1))
        return Outcome(epoch=2)

    worker.carry_out(job.to_config(), work)
    assert [outcome.warnings for outcome in reported] == [("look: 3",), ()]


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
