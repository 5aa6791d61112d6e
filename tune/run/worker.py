"""What all workers share, in Ray or in the sweep's own process: locks, the device, a link to the sweep."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from rme.checkpoint import CorruptFile
from rme.config import RunSpec
from rme.device import pick_device
from rme.training import StopTraining
from tune.run.protocol import Job, Outcome
from tune.store.storage import Storage

LOCK_PATIENCE_S = 0.3
"""How long to wait for a lock: a driver that checks whether it is free holds it for a moment."""


@dataclass(frozen=True)
class Link:
    """A worker's link to its sweep.

    Attributes:
        report: sends the sweep an outcome.
        stop: whether the sweep is stopping.
    """

    report: Callable[[Outcome], None]
    stop: Callable[[], bool]

    def check(self) -> None:
        """Raise StopTraining if the sweep is stopping."""
        if self.stop():
            raise StopTraining


Work = Callable[[Job, Storage, Link], Outcome]
"""Does a job and returns its last outcome. It calls `Link.check` often, and lets StopTraining propagate."""


def carry_out(job: Job, work: Work, link: Link, *, lock: bool = True) -> Outcome:
    """Do a job and return its outcome; what `work` raises propagates, except StopTraining.

    Args:
        job: the job.
        work: does it.
        link: to the sweep.
        lock: whether to hold the runs' locks meanwhile; if another process holds one, the job is not done.
    """
    storage = Storage(job.storage)
    keys = [spec.key for spec in job.runs] if lock else []
    if not storage.locks.take(keys, patience_s=LOCK_PATIENCE_S):
        return Outcome(held_elsewhere=True)
    try:
        link.check()
        return work(job, storage, link)
    except StopTraining:
        return Outcome(stopped=True)
    finally:
        storage.locks.give_back(keys)  # now: another attempt may start before this process ends


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
