"""Runs a schedule's trials in this process, one after another, without Ray: `--inline`."""

from __future__ import annotations

import gc
import logging
import os
import signal
import threading
import time
from functools import partial
from pathlib import Path

import torch

from rme.device import is_lost, pick_device
from tune.plan.kinds import TIMING, TRAINING, Kind
from tune.run.dispatcher import Dispatcher
from tune.run.display import Display
from tune.run.machine import check_machine
from tune.run.options import Resources
from tune.run.other_sweeps import LOOK_EVERY_S
from tune.run.protocol import Job, Outcome
from tune.run.stopping import Stopping, in_main_thread
from tune.run.timing import time_inference
from tune.run.training import train
from tune.run.worker import Link, Work, carry_out
from tune.run.worker_failure import MAX_FAILURES
from tune.store.failure import Failure

log = logging.getLogger(__name__)

WORKS: dict[str, Work] = {TRAINING.name: train, TIMING.name: time_inference}
"""What a worker does, by the kind of the grid."""


class GPULost(Exception):
    """This process cannot use its GPU any more; the failure of the trial that it was running."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.reason)
        self.failure = failure


def run_inline(
    dispatcher: Dispatcher, resources: Resources, data_dir: Path, display: Display, stopping: Stopping, kind: Kind
) -> None:
    """Run the schedule to its end, or until it is stopped or the GPU is lost.

    Args:
        dispatcher: of the trials; those that were stopped are left running in its schedule.
        resources: the cores, and the GPU or the share of it, that all trials use.
        data_dir: the data sets' folder.
        display: notified of starts and progress.
        stopping: whether to stop.
        kind: of the trials' grid.

    Raises ResourceError before anything starts.
    """
    check_machine(resources, kind)
    schedule = dispatcher.schedule
    display.look_at = f"`py-spy dump --pid {os.getpid()}` (pip install py-spy) shows where"
    if in_main_thread():
        # as a second Ctrl-C does, in the middle of an epoch
        stopping.on_expired = partial(signal.pthread_kill, threading.get_ident(), signal.SIGINT)
    device = pick_device("cpu" if resources.gpus == 0 else "auto")

    job = partial(
        Job.of_trial,
        storage=dispatcher.storage,
        data_dir=data_dir,
        threads=resources.cpus,
        device=device.type,
        gpus=float(resources.gpus or 1) if device.type == "cuda" else 0.0,
    )
    try:
        with stopping:
            while not schedule.exhausted and not stopping.requested:
                trial = dispatcher.next()
                if trial is None:
                    time.sleep(LOOK_EVERY_S)  # other sweeps train all that is left
                    continue
                display.started(trial.key)
                link = Link(partial(display.progressed, trial.key), lambda: stopping.requested)
                try:
                    outcome, raised = _in_attempts(job(trial), WORKS[kind.name], link)
                except GPULost as lost:
                    dispatcher.ended(trial, Outcome(), lost.failure)
                    log.warning("this process has lost its GPU: start the same command again, which resumes")
                    return
                if outcome.stopped:
                    display.stopped(trial.key)
                dispatcher.ended(trial, outcome, raised)
                _free_memory(device)
    except KeyboardInterrupt:
        return


def _in_attempts(job: Job, work: Work, link: Link) -> tuple[Outcome, Failure | None]:
    """Do a job, as often as Ray would try. Returns its outcome and, if each attempt raised, the last failure."""
    for attempt in range(MAX_FAILURES + 1):
        try:
            return carry_out(job, work, link), None
        except Exception as error:
            failure = Failure.of(error)  # as text, which keeps no frame and so no tensor alive
            if is_lost(error):
                raise GPULost(failure) from None
        if attempt < MAX_FAILURES:
            log.warning("%s: trying again: %s", job.name, failure.reason)
            _free_memory(torch.device(job.device))
    return Outcome(), failure


def _free_memory(device: torch.device) -> None:
    """Free the memory of the trial before, whose engine and graphs refer to each other."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
