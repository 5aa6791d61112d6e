"""Runs a schedule's trials with Ray Tune, until each one has ended here or in another sweep."""

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

from tune.run import cluster  # sets Ray's environment, so it comes before Ray

# isort: split
import ray.tune

from tune.plan.grid import Trial
from tune.plan.kinds import TIMING, TRAINING, Kind
from tune.run.display import Display
from tune.run.options import Resources
from tune.run.other_sweeps import LOOK_EVERY_S, OtherSweeps
from tune.run.protocol import Job
from tune.run.schedule import Schedule, State
from tune.run.searcher import GridSearcher, Watcher
from tune.run.timing_trainable import time_trial
from tune.run.trainable import train_trial
from tune.store.failure import Failure
from tune.store.storage import Storage

log = logging.getLogger(__name__)

TRAINABLES: dict[str, Callable[[dict[str, Any]], None]] = {TRAINING.name: train_trial, TIMING.name: time_trial}
"""What a worker does with a trial, by the kind of its grid."""


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
        resources: where trials run, and what each one gets.
        data_dir: where the workers find the data sets.
        schedule: the trials.
        storage: where results, checkpoints and locks are.
        display: is told of starts and progress.
        on_end: called with each trial that ended, and the failures of its runs by key.
        kind: of the trials' grid.
        trainable: what a worker does; None: what the kind says.

    Returns whether it was interrupted. Raises ClusterError before anything starts.
    """
    cluster.check_resources(resources, kind)
    cluster.connect(resources.address)
    try:
        gpus = cluster.gpus_of(resources, kind, [entry.trial.runs for entry in schedule.entries.values()])
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
                device="cuda" if on_gpus else "cpu",  # a trial that was given no GPU takes none
                gpus=gpus(trial.runs),
            )

        def failed(trial: Trial, raised: Failure | None) -> dict[str, Failure]:
            reason = raised or Failure(cluster.WORKER_DIED)
            return {spec.key: reason for spec in trial.runs if not storage.has_result(spec.key)}

        def fit() -> None:
            """Run what may start now, and what that lets start."""
            name = experiment_name()
            tuner = ray.tune.Tuner(
                ray.tune.with_resources(trainable or TRAINABLES[kind.name], resources_of),
                tune_config=ray.tune.TuneConfig(
                    search_alg=GridSearcher(schedule, job, others, on_end, failed),
                    num_samples=-1,
                    # a worker takes a second or two to start; but one that is reused keeps its GPU memory
                    reuse_actors=not on_gpus,
                    trial_dirname_creator=lambda trial: trial.config["key"],
                ),
                run_config=run_config(name, storage, Watcher(display.started, display.progressed)),
            )
            try:
                tuner.fit()
            except (OSError, EOFError, UnpicklingError) as error:
                # Ray's own notes, on a disk that may be full; nothing is lost with them
                log.warning("Ray Tune: %s: %s", type(error).__name__, error)
            shutil.rmtree(storage.ray_folder / name, ignore_errors=True)

        try:
            while not schedule.exhausted:
                others.look()
                if schedule.ready:
                    fit()
                    if schedule.ready or schedule.count(State.RUNNING):
                        break  # Ctrl-C: Ray Tune has stopped the trials, and raises nothing
                else:
                    time.sleep(LOOK_EVERY_S)  # all that is left is trained by other sweeps
        except KeyboardInterrupt:
            return True
        return not schedule.exhausted or schedule.count(State.RUNNING) > 0
    finally:
        cluster.disconnect()


def experiment_name() -> str:
    """A name for Ray's notes, which are deleted at the end."""
    return time.strftime("%Y%m%d-%H%M%S") + f"-{os.getpid()}"


def run_config(name: str, storage: Storage, watcher: Watcher) -> ray.tune.RunConfig:
    """Where Ray keeps its notes, and how often it restarts a trial whose worker failed."""
    return ray.tune.RunConfig(
        name=name,
        storage_path=str(storage.ray_folder),
        failure_config=ray.tune.FailureConfig(max_failures=cluster.MAX_FAILURES),
        callbacks=[watcher],
        verbose=0,
    )


def resources_of(config: dict[str, Any]) -> ray.tune.PlacementGroupFactory:
    """What Ray reserves for a job, from its configuration."""
    return _reserved(config["threads"], config["gpus"])


@cache  # Ray compares the signatures of all that differ; equal ones that are one object are quick
def _reserved(cpus: int, gpus: float) -> ray.tune.PlacementGroupFactory:
    return ray.tune.PlacementGroupFactory([{"CPU": cpus, "GPU": gpus}])
