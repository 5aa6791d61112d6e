"""Runs a schedule's trials on Ray: one that is started here and stopped again, or a cluster that is there."""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import socket
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
import torch

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


class ClusterError(ValueError):
    """Ray cannot be had as asked for, or not what a trial is to get."""


def run_trials(
    options: argparse.Namespace,
    schedule: Schedule,
    storage: Storage,
    display: Display,
    on_end: Callable[[Trial, dict[str, str]], None],
) -> bool:
    """Run the schedule to its end. Returns whether it was interrupted; raises ClusterError before it begins."""
    _check_resources(options)
    _connect(options.address)
    try:
        resources = _resources(options)
        device = "cuda" if resources["gpu"] else "cpu"  # a trial that was given no GPU takes none
        searcher = GridSearcher(
            schedule,
            lambda trial: job(trial, storage, options.data_dir, options.cpus_per_trial, device),
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


def _connect(address: str | None) -> None:
    """Start Ray here, or join the cluster at `address`."""
    local: dict[str, Any] = {
        "num_cpus": _here()["cpu"], "object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": False
    }  # fmt: skip
    logging.getLogger("ray").setLevel(logging.ERROR)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address and ":" in address and "://" not in address:
            # Ray itself tries for a minute and then ends the process
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address=address or "local", **quiet, **({} if address else local))
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ClusterError(f"--address {address}: {reason}" if address else f"Ray does not start: {reason}") from error


def _here() -> dict[str, int]:
    """This machine's cores and GPUs."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {"cpu": cores, "gpu": torch.cuda.device_count()}


def _check_resources(options: argparse.Namespace) -> None:
    """Raises ClusterError when a trial is to get more than this machine has, for then Ray would wait for ever."""
    if options.address is not None:
        return  # a cluster may grow
    for name, wanted in (("cpu", options.cpus_per_trial), ("gpu", options.gpus_per_trial or 0)):
        if wanted > _here()[name]:
            raise ClusterError(f"--{name}s-per-trial {wanted:g}: this machine has {_here()[name]}")


def _resources(options: argparse.Namespace) -> dict[str, float]:
    """What a trial gets: by default a whole GPU, where there are any."""
    gpus = options.gpus_per_trial
    if gpus is None:
        gpus = 1.0 if ray.cluster_resources().get("GPU") else 0.0
    return {"cpu": float(options.cpus_per_trial), "gpu": gpus}


def _why(storage: Storage, trial: Trial) -> str:
    """The last line of what the worker left, or that it left nothing."""
    try:
        lines = storage.error_file(trial.key).read_text().strip().splitlines()
        return f"{lines[-1]} (see {storage.error_file(trial.key)})"
    except (OSError, IndexError):
        return f"its worker died {MAX_FAILURES + 1} times without a word: killed, or out of memory"
