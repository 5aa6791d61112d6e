"""What all kinds of workers share: locks, the device's set-up, reports, and forwarded warnings and errors."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

import ray.tune
import torch
from torch import Tensor

from rme.checkpoint import CorruptFile
from rme.config import RunSpec
from rme.device import pick_device
from tune.run.protocol import Job, Outcome
from tune.store.failure import Failure
from tune.store.locks import RETRY_S
from tune.store.storage import Storage


def carry_out(config: dict[str, Any], work: Callable[[Job, Storage], Outcome], *, lock: bool = True) -> None:
    """Do a job and report its outcome.

    An exception is reported and raised again, so that Ray starts another attempt.

    Args:
        config: from `Job.to_config`.
        work: does the job and returns its outcome.
        lock: whether to hold the runs' locks meanwhile; if another process holds one, the job is not done.
    """
    warnings.start()
    job = Job.from_config(config)
    storage = Storage(job.storage)
    keys = [spec.key for spec in job.runs] if lock else []
    try:
        if not _take(storage, keys):
            report(Outcome(held_elsewhere=True))
            return
        try:
            outcome = work(job, storage)
        finally:
            storage.locks.give_back(keys)  # now: Ray may start another attempt before this process ends
        report(outcome)
    except Exception as error:
        # to the driver rather than the storage, which may itself have failed
        report(Outcome(raised=Failure.of(error)))
        raise


def report(outcome: Outcome) -> None:
    """Send the outcome to the driver, with the warnings logged since the last report."""
    ray.tune.report(replace(outcome, warnings=warnings.taken()).to_result())


def device_of(job: Job) -> torch.device:
    """The device that a job runs on. Also limits this process to the job's threads and share of GPU memory."""
    torch.set_num_threads(job.threads)
    device = pick_device(job.device)
    if device.type == "cuda" and 0 < job.gpus < 1:
        # so that a trial that needs more than its share runs out of memory itself, instead of its neighbours
        torch.cuda.set_per_process_memory_fraction(job.gpus, device)
    return device


def parent_models(storage: Storage, specs: Collection[RunSpec]) -> list[list[dict[str, Tensor]]] | None:
    """For each run the finished models that it starts from; None for runs from scratch.

    Raises CorruptFile if a parent's result is damaged. The result is discarded, so that the same command trains it
    again.
    """
    found = []
    for spec in specs:
        if spec.parent is None:
            return None
        try:
            found.append(storage.models(spec.parent))
        except CorruptFile:
            storage.discard(spec.parent.key)
            raise
    return found


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


def _take(storage: Storage, keys: list[str]) -> bool:
    """Lock the runs, in up to three tries: a driver that checks whether a lock is free holds it for a moment."""
    for _ in range(3):
        if storage.locks.take(keys):
            return True
        time.sleep(RETRY_S)
    return False
