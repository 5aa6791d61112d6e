"""Runs a schedule's trials with Ray Tune until all have ended, here or in another sweep."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from analysis.words import counted
from tune.run import cluster  # before Ray, whose environment variables it sets

# isort: split
import ray.tune

from tune.plan.kinds import TIMING, TRAINING, Kind
from tune.plan.trials import Trial
from tune.run.dispatcher import Dispatcher
from tune.run.display import Display
from tune.run.machine import available, check_machine
from tune.run.options import Resources
from tune.run.other_sweeps import LOOK_EVERY_S
from tune.run.protocol import Job
from tune.run.ray_worker import StopLock, time_trial, train_trial
from tune.run.resources import gpus_of
from tune.run.schedule import State
from tune.run.searcher import GridSearcher, Watcher
from tune.run.stopping import Stopping, in_main_thread
from tune.run.worker_failure import MAX_FAILURES
from tune.store.storage import Storage

log = logging.getLogger(__name__)

TRAINABLES: dict[str, Callable[[dict[str, Any]], None]] = {TRAINING.name: train_trial, TIMING.name: time_trial}
"""The worker's function, by the kind of the grid."""


def run_trials(
    dispatcher: Dispatcher,
    resources: Resources,
    data_dir: Path,
    display: Display,
    stopping: Stopping,
    kind: Kind,
    trainable: Callable[[dict[str, Any]], None] | None = None,
) -> None:
    """Run the schedule to its end, or until it is stopped.

    Args:
        dispatcher: of the trials; those that were stopped are left running in its schedule.
        resources: where trials run, and each trial's cores and GPUs.
        data_dir: the data sets' folder, for the workers.
        display: notified of starts and progress.
        stopping: whether to stop.
        kind: of the trials' grid.
        trainable: the worker's function; None: the kind's.

    Raises CommandError before anything starts.
    """
    check_machine(resources, kind)
    here = f"starting Ray, {counted(available()['cpu'], 'core')}"
    place = here if resources.address is None else f"joining Ray at {resources.address}"
    display.doing(place)
    cluster.connect(resources.address, lambda: display.stopping("stopping: no training has started"))
    display.doing("starting the first worker")
    display.look_at = f"look at `top` (ray::ImplicitFunc) and the logs in {cluster.logs()}"
    name = experiment_name()
    schedule, storage = dispatcher.schedule, dispatcher.storage
    try:
        gpus = gpus_of(resources, kind, [entry.trial.runs for entry in schedule.entries.values()])
        on_gpus = any(gpus(entry.trial.runs) for entry in schedule.entries.values())

        def job(trial: Trial) -> Job:
            # not "auto": without a share of a GPU, a trial must not use one
            device = "cuda" if on_gpus else "cpu"
            share = gpus(trial.runs)
            return Job.of_trial(trial, storage, data_dir, threads=resources.cpus, device=device, gpus=share, sweep=name)

        def fit() -> None:
            """Run all trials that may start now, and those that they unblock."""
            searcher = GridSearcher(dispatcher, job, stopping)

            def on_start(key: str) -> None:
                searcher.started.add(key)
                display.started(key)

            tuner = ray.tune.Tuner(
                ray.tune.with_resources(trainable or TRAINABLES[kind.name], resources_of),
                tune_config=ray.tune.TuneConfig(
                    search_alg=searcher,
                    num_samples=-1,
                    # saves the second or two that a worker takes to start; but a reused one does not free GPU memory
                    reuse_actors=not on_gpus,
                    trial_dirname_creator=lambda trial: trial.config["key"],
                ),
                run_config=run_config(name, storage, Watcher(on_start, display.progressed)),
            )
            try:
                tuner.fit()
            except (OSError, EOFError, UnpicklingError) as error:
                # from Ray's own files, for example on a full disk; the sweep does not need them
                log.warning("Ray Tune: %s: %s", type(error).__name__, error)
            shutil.rmtree(storage.ray_folder / name, ignore_errors=True)

        with stopping_ray(stopping, storage, name), suppress(KeyboardInterrupt):
            while not schedule.exhausted and not stopping.requested:
                dispatcher.others.look()
                if schedule.ready:
                    fit()
                    if schedule.ready or schedule.count(State.RUNNING):
                        break  # Ray Tune stopped the trials
                else:
                    time.sleep(LOOK_EVERY_S)  # other sweeps train all that is left
        display.doing("stopping Ray")
    finally:
        cluster.disconnect()


@contextmanager
def stopping_ray(stopping: Stopping, storage: Storage, sweep: str) -> Iterator[None]:
    """`stopping`, for trials in Ray: their workers are told by a lock, and Ray stops what has not ended in time.

    Args:
        stopping: not entered yet.
        storage: of the lock.
        sweep: the jobs' `sweep`.
    """
    lock = StopLock(storage.locks, sweep)
    stopping.on_request = lock.take
    before = None
    if in_main_thread():
        # Ray Tune kills its trials' workers at this signal, which without its handler would end the process
        before = signal.signal(signal.SIGUSR1, lambda signum, frame: None)
        stopping.on_expired = lambda: os.kill(os.getpid(), signal.SIGUSR1)
    try:
        with stopping:
            yield
    finally:
        if before is not None:
            signal.signal(signal.SIGUSR1, before)
        lock.give_back()


def experiment_name() -> str:
    """A unique name for the folder of Ray's own files, which are deleted at the end."""
    return time.strftime("%Y%m%d-%H%M%S") + f"-{os.getpid()}"


def run_config(name: str, storage: Storage, watcher: Watcher) -> ray.tune.RunConfig:
    """Ray's settings: the folder of its own files, and how often a trial whose worker failed is restarted."""
    return ray.tune.RunConfig(
        name=name,
        storage_path=str(storage.ray_folder),
        failure_config=ray.tune.FailureConfig(max_failures=MAX_FAILURES),
        callbacks=[watcher],
        verbose=0,
    )


def resources_of(config: dict[str, Any]) -> ray.tune.PlacementGroupFactory:
    """The cores and GPUs that Ray reserves for a job, from the job's configuration."""
    return _reserved(config["threads"], config["gpus"])


@cache  # Ray compares all requests that are different objects, which is slow
def _reserved(cpus: int, gpus: float) -> ray.tune.PlacementGroupFactory:
    return ray.tune.PlacementGroupFactory([{"CPU": cpus, "GPU": gpus}])
