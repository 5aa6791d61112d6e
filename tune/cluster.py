"""Runs a schedule's trials on Ray: one that is started here and stopped again, or a cluster that is there."""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import time
from collections.abc import Callable
from typing import Any

# before Ray is imported, which reads some of them then
for _name, _value in {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # a CSV, a JSON and a TensorBoard file for each trial
    "TUNE_MAX_PENDING_TRIALS_PG": "8",  # else a custom searcher's trials start one by one
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # Ray's own state is never read back
    "TUNE_WARN_THRESHOLD_S": "30",
}.items():
    os.environ.setdefault(_name, _value)

import ray
import ray.tune

from tune.display import Display
from tune.grid import Trial
from tune.schedule import Schedule, State
from tune.searcher import GridSearcher, Watcher
from tune.storage import Storage
from tune.trainable import job, train_trial

MAX_FAILURES = 3
"""How often a trial is started again, from its newest checkpoint, after its worker failed."""

OBJECT_STORE_BYTES = 128 << 20
"""Trials pass nothing through Ray's object store; its default would take a third of the memory."""


def run_trials(
    options: argparse.Namespace,
    schedule: Schedule,
    storage: Storage,
    display: Display,
    on_end: Callable[[Trial, dict[str, str]], None],
) -> bool:
    """Run the schedule to its end. Returns whether it was interrupted."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    local: dict[str, Any] = {"num_cpus": cores, "object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": False}
    ray.init(
        address=options.address or "local",
        log_to_driver=False,
        logging_level=logging.ERROR,
        **({} if options.address else local),
    )
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        gpus = options.gpus_per_trial
        if gpus is None:
            gpus = 1.0 if ray.cluster_resources().get("GPU") else 0.0
        resources = {"cpu": options.cpus_per_trial, "gpu": gpus}
        searcher = GridSearcher(
            schedule,
            lambda trial: job(trial, storage, options.data_dir, options.cpus_per_trial),
            on_end,
            lambda trial: _why(storage, trial),
        )
        interrupted = False
        name = time.strftime("%Y%m%d-%H%M%S") + f"-{os.getpid()}"

        tuner = ray.tune.Tuner(
            ray.tune.with_resources(train_trial, resources),
            tune_config=ray.tune.TuneConfig(
                search_alg=searcher,
                num_samples=-1,
                reuse_actors=False,  # a reused actor keeps its GPU memory
                trial_dirname_creator=lambda trial: trial.config["key"],
            ),
            run_config=ray.tune.RunConfig(
                name=name,
                storage_path=str(storage.ray_folder),
                failure_config=ray.tune.FailureConfig(max_failures=MAX_FAILURES),
                callbacks=[Watcher(display.started, display.progressed)],
                verbose=0,
            ),
        )
        try:
            tuner.fit()
        except KeyboardInterrupt:
            interrupted = True
        shutil.rmtree(storage.ray_folder / name, ignore_errors=True)
        return interrupted or not schedule.exhausted or schedule.count(State.RUNNING) > 0
    finally:
        ray.shutdown()


def _why(storage: Storage, trial: Trial) -> str:
    """The last line of what the worker left, or that it left nothing."""
    try:
        lines = storage.error_file(trial.key).read_text().strip().splitlines()
        return f"{lines[-1]} (see {storage.error_file(trial.key)})"
    except (OSError, IndexError):
        return f"its worker died {MAX_FAILURES + 1} times without a word: killed, or out of memory"
