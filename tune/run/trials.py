"""Runs a schedule's trials with Ray Tune until all have ended, here or in another sweep."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from tune.run import cluster  # before Ray, whose environment variables it sets

# isort: split
import ray.tune

from tune.plan.kinds import TIMING, TRAINING, Kind
from tune.plan.trials import Trial
from tune.run.display import Display
from tune.run.options import Resources
from tune.run.other_sweeps import LOOK_EVERY_S, OtherSweeps
from tune.run.protocol import Job
from tune.run.resources import check_resources, gpus_of
from tune.run.schedule import Schedule, State
from tune.run.searcher import GridSearcher, Watcher
from tune.run.timing_trainable import time_trial
from tune.run.trainable import train_trial
from tune.run.worker_failure import failures_of, restarts
from tune.store.failure import Failure
from tune.store.storage import Storage

log = logging.getLogger(__name__)

TRAINABLES: dict[str, Callable[[dict[str, Any]], None]] = {TRAINING.name: train_trial, TIMING.name: time_trial}
"""The worker's function, by the kind of the grid."""


def run_trials(
    resources: Resources,
    data_dir: Path,
    schedule: Schedule,
    storage: Storage,
    display: Display,
    on_end: Callable[[Trial, dict[str, Failure]], None],
    kind: Kind = TRAINING,
    trainable: Callable[[dict[str, Any]], None] | None = None,
) -> bool:
    """Run the schedule to its end.

    Args:
        resources: where trials run, and each trial's cores and GPUs.
        data_dir: the data sets' folder, for the workers.
        schedule: the trials.
        storage: of results, checkpoints and locks.
        display: notified of starts and progress.
        on_end: called with each trial that ended, and the failures of its runs by key.
        kind: of the trials' grid.
        trainable: the worker's function; None: the kind's.

    Returns whether the sweep was interrupted. Raises ClusterError before anything starts.
    """
    check_resources(resources, kind)
    cluster.connect(resources.address)
    try:
        gpus = gpus_of(resources, kind, [entry.trial.runs for entry in schedule.entries.values()])
        on_gpus = any(gpus(entry.trial.runs) for entry in schedule.entries.values())
        others = OtherSweeps(schedule, storage, display.left_to_another, on_end)

        def job(trial: Trial) -> Job:
            return Job(
                key=trial.key,
                name=trial.name,
                runs=trial.runs,
                storage=storage.root,
                folder=storage.trial_folder(trial.key),
                data_dir=data_dir,
                threads=resources.cpus,
                device="cuda" if on_gpus else "cpu",  # not "auto": without a share of a GPU, a trial must not use one
                gpus=gpus(trial.runs),
            )

        def failed(trial: Trial, raised: Failure | None) -> dict[str, Failure]:
            return failures_of(trial.runs, raised, storage)

        def fit() -> None:
            """Run all trials that may start now, and those that they unblock."""
            name = experiment_name()
            tuner = ray.tune.Tuner(
                ray.tune.with_resources(trainable or TRAINABLES[kind.name], resources_of),
                tune_config=ray.tune.TuneConfig(
                    search_alg=GridSearcher(schedule, job, others, on_end, failed),
                    num_samples=-1,
                    # saves the second or two that a worker takes to start; but a reused one does not free GPU memory
                    reuse_actors=not on_gpus,
                    trial_dirname_creator=lambda trial: trial.config["key"],
                ),
                run_config=run_config(name, storage, Watcher(display.started, display.progressed)),
            )
            try:
                tuner.fit()
            except (OSError, EOFError, UnpicklingError) as error:
                # from Ray's own files, for example on a full disk; the sweep does not need them
                log.warning("Ray Tune: %s: %s", type(error).__name__, error)
            shutil.rmtree(storage.ray_folder / name, ignore_errors=True)

        try:
            while not schedule.exhausted:
                others.look()
                if schedule.ready:
                    fit()
                    if schedule.ready or schedule.count(State.RUNNING):
                        break  # Ctrl-C: Ray Tune stopped the trials and returned normally
                else:
                    time.sleep(LOOK_EVERY_S)  # other sweeps train all that is left
        except KeyboardInterrupt:
            return True
        return not schedule.exhausted or schedule.count(State.RUNNING) > 0
    finally:
        cluster.disconnect()


def experiment_name() -> str:
    """A unique name for the folder of Ray's own files, which are deleted at the end."""
    return time.strftime("%Y%m%d-%H%M%S") + f"-{os.getpid()}"


def run_config(name: str, storage: Storage, watcher: Watcher) -> ray.tune.RunConfig:
    """Ray's settings: the folder of its own files, and how often a trial whose worker failed is restarted."""
    return ray.tune.RunConfig(
        name=name,
        storage_path=str(storage.ray_folder),
        failure_config=restarts(),
        callbacks=[watcher],
        verbose=0,
    )


def resources_of(config: dict[str, Any]) -> ray.tune.PlacementGroupFactory:
    """The cores and GPUs that Ray reserves for a job, from the job's configuration."""
    return _reserved(config["threads"], config["gpus"])


@cache  # Ray compares all requests that are different objects, which is slow
def _reserved(cpus: int, gpus: float) -> ray.tune.PlacementGroupFactory:
    return ray.tune.PlacementGroupFactory([{"CPU": cpus, "GPU": gpus}])
