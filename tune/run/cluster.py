"""Runs a schedule's trials on Ray: one that is started here and stopped again, or a cluster that is there."""

from __future__ import annotations

import argparse
import gc
import logging
import os
import shutil
import socket
import time
from collections.abc import Callable, Sequence
from functools import cache
from pickle import UnpicklingError
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
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # the sweep names them itself, and MLflow has their tracebacks
}.items():
    os.environ.setdefault(_name, _value)

import ray
import ray.exceptions
import ray.tune
import torch
from ray._private import services

from tune.cost import gpu_share as packing
from tune.plan.grid import Trial
from tune.run.display import Display
from tune.run.other_sweeps import LOOK_EVERY_S, Others
from tune.run.schedule import Schedule, State
from tune.run.searcher import GridSearcher, Watcher
from tune.run.timing_trainable import time_trial
from tune.run.trainable import job, train_trial
from tune.store.failure import Failure
from tune.store.storage import Storage

log = logging.getLogger(__name__)

AUTO = "auto"
"""Of `--gpus-per-trial`: measured."""

TRAINABLES: dict[str, Callable[[dict[str, Any]], None]] = {"training": train_trial, "timing": time_trial}
"""What a worker does with a trial, by the kind of its grid."""

MAX_FAILURES = 3
"""How often a trial is started again, from its newest checkpoint, after its worker failed."""

START_S = 180.0
"""How long Ray's own processes may take to start here."""

OBJECT_STORE_BYTES = 128 << 20
"""Trials pass nothing through Ray's object store; its default would take a third of the memory."""


class ClusterError(ValueError):
    """Ray cannot be had as asked for, or not what a trial is to get."""


def run_trials(
    options: argparse.Namespace,
    schedule: Schedule,
    storage: Storage,
    display: Display,
    on_end: Callable[[Trial, dict[str, Failure]], None],
    kind: str = "training",
) -> bool:
    """Run the schedule, of a grid of this kind, to its end.

    Returns whether it was interrupted; raises ClusterError before it begins.
    """
    check_resources(options, kind)
    connect(options.address)
    try:
        trials = [entry.trial for entry in schedule.entries.values()]
        share = gpus(options, kind, trials)
        on_gpus = any(map(share, trials))
        device = "cuda" if on_gpus else "cpu"  # a trial that was given no GPU takes none
        others = Others(schedule, storage, display.left_to_another, on_end)

        def tuner(name: str) -> ray.tune.Tuner:
            searcher = GridSearcher(
                schedule,
                lambda trial: (
                    job(trial, storage, options.data_dir, options.cpus_per_trial, device) | {"gpus": share(trial)}
                ),
                others,
                on_end,
                lambda trial, raised: _failures(storage, trial, raised),
            )
            return ray.tune.Tuner(
                ray.tune.with_resources(TRAINABLES[kind], _resources),
                tune_config=ray.tune.TuneConfig(
                    search_alg=searcher,
                    num_samples=-1,
                    # a worker takes a second or two to start; but one that is reused keeps its GPU memory
                    reuse_actors=not on_gpus,
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
            while not schedule.exhausted:
                others.look()
                if schedule.ready:
                    name = time.strftime("%Y%m%d-%H%M%S") + f"-{os.getpid()}"
                    try:
                        tuner(name).fit()
                    except (OSError, EOFError, UnpicklingError) as error:
                        # Ray's own notes, on a disk that may be full; nothing is lost with them
                        log.warning("Ray Tune: %s: %s", type(error).__name__, error)
                    shutil.rmtree(storage.ray_folder / name, ignore_errors=True)
                    if schedule.ready or schedule.count(State.RUNNING):
                        break  # Ctrl-C: Ray Tune has stopped the trials, and raises nothing
                else:
                    time.sleep(LOOK_EVERY_S)  # all that is left is trained by other sweeps
        except KeyboardInterrupt:
            return True
        return not schedule.exhausted or schedule.count(State.RUNNING) > 0
    finally:
        disconnect()


def _resources(config: dict[str, Any]) -> ray.tune.PlacementGroupFactory:
    return _share(config["threads"], config["gpus"])


@cache  # two that are one are equal at once; else Ray compares the signatures of all there are
def _share(cpus: int, gpus: float) -> ray.tune.PlacementGroupFactory:
    return ray.tune.PlacementGroupFactory([{"CPU": cpus, "GPU": gpus}])


def disconnect() -> None:
    """Leave Ray, and end it if it was started here."""
    # the recorder's thread lives on; Ray ends a process in which a thread collects something of Ray's afterwards
    gc.collect()
    ray.shutdown()


def connect(address: str | None) -> None:
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
        if address:
            ray.init(address=address, **quiet)
        else:
            _start(address="local", **quiet, **local)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ClusterError(f"--address {address}: {reason}" if address else f"Ray does not start: {reason}") from error


def _start(**arguments: Any) -> None:
    """Start Ray here. Raises RuntimeError if it does not come up."""
    get_node = services.get_node

    def patient(*arguments: Any) -> Any:
        deadline = time.monotonic() + START_S
        while True:
            try:
                return get_node(*arguments)
            except RuntimeError:
                if time.monotonic() >= deadline:
                    raise
            time.sleep(0.1)

    services.get_node = patient  # else Ray gives up after 30 s, which a busy machine needs, and has no setting for it
    try:
        ray.init(**arguments)
    except Exception as error:
        if "timed out during startup" in str(error):  # it has no type of its own
            raise RuntimeError(str(error)) from error
        raise
    finally:
        services.get_node = get_node


def _here() -> dict[str, int]:
    """This machine's cores and GPUs."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {"cpu": cores, "gpu": torch.cuda.device_count()}


def check_resources(options: argparse.Namespace, kind: str) -> None:
    """Raises ClusterError when a trial is to get more than this machine has, for then Ray would wait for ever."""
    gpus = 0 if options.gpus_per_trial in (None, AUTO) else options.gpus_per_trial
    if kind == "timing" and gpus != int(gpus):
        raise ClusterError(f"--gpus-per-trial {gpus:g}: a timing gets whole GPUs; it would time its neighbours too")
    if options.address is not None:
        return  # a cluster may grow
    for name, wanted in (("cpu", options.cpus_per_trial), ("gpu", gpus)):
        if wanted > _here()[name]:
            raise ClusterError(f"--{name}s-per-trial {wanted:g}: this machine has {_here()[name]}")


def gpus(options: argparse.Namespace, kind: str, trials: Sequence[Trial]) -> Callable[[Trial], float]:
    """How many GPUs a trial gets: by default a whole one, where there are any.

    Raises ClusterError where that cannot be known yet.
    """
    asked = options.gpus_per_trial
    there = ray.cluster_resources()
    if not there.get("GPU") and asked in (None, AUTO):
        if options.address is not None and not there.get("CPU"):
            # a head alone, whose workers are still to come: a guess would be kept for the whole sweep
            raise ClusterError(
                f"--address {options.address}: no machine that trains has joined yet, so whether trials are to have "
                "GPUs cannot be seen; say --gpus-per-trial 1 (or a fraction), or 0"
            )
        return lambda trial: 0.0
    if asked is None or (asked == AUTO and kind == "timing"):
        return lambda trial: 1.0
    if asked == AUTO:
        of_runs = packing.shares([trial.runs for trial in trials], options.cpus_per_trial)
        return lambda trial: of_runs(trial.runs)
    return lambda trial: asked


def _failures(storage: Storage, trial: Trial, raised: Failure | None) -> dict[str, Failure]:
    """Why a trial's runs have no result, by key: what its worker raised at last, or that it died."""
    died = Failure(f"its worker died {MAX_FAILURES + 1} times without a word: killed, or out of memory")
    return {spec.key: raised or died for spec in trial.runs if not storage.has_result(spec.key)}
