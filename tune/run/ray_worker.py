"""The functions that Ray's workers run: they do a job, and report to the driver through Ray."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import Any

import ray.tune

from tune.run.protocol import Job, Outcome
from tune.run.timing import time_inference
from tune.run.training import train
from tune.run.worker import Link, Work, carry_out
from tune.store.failure import Failure
from tune.store.locks import Locks
from tune.store.storage import Storage

STOP_EVERY_S = 0.5
"""Interval at which a worker checks whether its sweep is stopping: on NFS, that asks the server."""


def train_trial(config: dict[str, Any]) -> None:
    """Train a trial's runs, from their newest checkpoint if any, and write each run's result to the storage."""
    carry_out_in_ray(config, train)


def time_trial(config: dict[str, Any]) -> None:
    """Measure a trial's timings, and write each one's result to the storage."""
    carry_out_in_ray(config, time_inference)


def carry_out_in_ray(config: dict[str, Any], work: Work, *, lock: bool = True) -> None:
    """Do the job of a Ray configuration (`Job.to_config`), and report its outcome.

    An exception is reported and raised again, so that Ray starts another attempt.
    """
    warnings.start()
    job = Job.from_config(config)
    stop = StopLock(Storage(job.storage).locks, job.sweep)
    try:
        report(carry_out(job, work, Link(report, stop.is_held), lock=lock))
    except Exception as error:
        # to the driver rather than the storage, which may itself have failed
        report(Outcome(raised=Failure.of(error)))
        raise


def report(outcome: Outcome) -> None:
    """Send the outcome to the driver, with the warnings logged since the last report."""
    ray.tune.report(replace(outcome, warnings=warnings.taken()).to_result())


class StopLock:
    """A lock that a driver takes when its sweep is stopping. Workers on all nodes see it, at once even on NFS.

    Args:
        locks: the storage's.
        sweep: the sweep's name.
    """

    def __init__(self, locks: Locks, sweep: str) -> None:
        self.locks = locks
        self.name = f"stopping {sweep}"
        self._due = 0.0

    def take(self) -> None:
        """Tell all workers to stop."""
        self.locks.take([self.name], patience_s=5)

    def give_back(self) -> None:
        """The sweep has stopped."""
        self.locks.give_back([self.name])

    def is_held(self) -> bool:
        """Whether the driver holds it; asks at most once every `STOP_EVERY_S`."""
        if time.monotonic() < self._due:
            return False
        self._due = time.monotonic() + STOP_EVERY_S
        return self.locks.held_elsewhere(self.name)


class _Warnings(logging.Handler):
    """Collects a worker's warnings for its reports, so that the driver can show them."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._texts: list[str] = []

    def start(self) -> None:
        self._texts.clear()
        for room in ("rme", "tune"):
            logging.getLogger(room).addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self._texts.append(record.getMessage())

    def taken(self) -> tuple[str, ...]:
        """The warnings collected since the last call."""
        texts = tuple(self._texts)
        self._texts.clear()
        return texts


warnings = _Warnings()
