"""Starts Ray on this machine, or joins a running cluster, and decides what each trial gets of it."""

from __future__ import annotations

import gc
import logging
import os
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

# Ray reads some of these when it is imported
for _name, _value in {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # a CSV, a JSON and a TensorBoard file for each trial
    "TUNE_MAX_PENDING_TRIALS_PG": "8",  # else a custom searcher's trials start one by one
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # Ray's own state is never read back
    "TUNE_WARN_THRESHOLD_S": "30",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # the sweep names them itself, and MLflow has their tracebacks
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # only a sample's last report has its score
}.items():
    os.environ.setdefault(_name, _value)

import ray
import ray.exceptions
import torch
from ray._private import services

from rme.config import RunSpec
from rme.errors import first_line
from tune.cost import gpu_share
from tune.plan.kinds import Kind
from tune.run.options import AUTO, Resources
from tune.store.errors import CommandError

MAX_FAILURES = 3
"""How often a trial is started again, from its newest checkpoint, after its worker failed."""

WORKER_DIED = f"its worker died {MAX_FAILURES + 1} times without a message: killed, or out of memory"

START_S = 180.0
"""How long Ray's own processes may take to start here."""

OBJECT_STORE_BYTES = 128 << 20
"""Trials pass nothing through Ray's object store; its default would take a third of the memory."""


class ClusterError(CommandError):
    """Ray cannot be reached or started, or does not have what a trial is to get."""


def connect(address: str | None) -> None:
    """Start Ray here, or join the cluster at `address`. Raises ClusterError."""
    local: dict[str, Any] = {
        "num_cpus": available()["cpu"], "object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": False
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
        reason = first_line(error)
        raise ClusterError(f"--address {address}: {reason}" if address else f"Ray does not start: {reason}") from error


def _start(**arguments: Any) -> None:
    """Start Ray here. Raises RuntimeError if it does not start."""
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

    services.get_node = patient  # else Ray gives up after 30 s, too short on a busy machine, and has no setting for it
    try:
        ray.init(**arguments)
    except Exception as error:
        if "timed out during startup" in str(error):  # it has no type of its own
            raise RuntimeError(str(error)) from error
        raise
    finally:
        services.get_node = get_node


def disconnect() -> None:
    """Leave Ray, and stop it if it was started here."""
    # the recorder's thread lives on; Ray ends a process in which a thread collects something of Ray's afterwards
    gc.collect()
    ray.shutdown()


# ---------------------------------------------------------------------- what a trial gets
def available() -> dict[str, int]:
    """This machine's cores and GPUs."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {"cpu": cores, "gpu": torch.cuda.device_count()}


def check_resources(resources: Resources, kind: Kind) -> None:
    """Raises ClusterError when a trial is to get more than this machine has: Ray would wait for it for ever."""
    gpus = 0 if resources.gpus in (None, AUTO) else float(resources.gpus)
    if kind.alone and gpus != int(gpus):
        raise ClusterError(f"--gpus-per-trial {gpus:g}: a timing gets whole GPUs; it would time its neighbours too")
    if resources.address is not None:
        return  # a cluster may grow
    for name, wanted in (("cpu", resources.cpus), ("gpu", gpus)):
        if wanted > available()[name]:
            raise ClusterError(f"--{name}s-per-trial {wanted:g}: this machine has {available()[name]}")


def gpus_of(
    resources: Resources, kind: Kind, arrays: Iterable[Sequence[RunSpec]]
) -> Callable[[Sequence[RunSpec]], float]:
    """How many GPUs each of these arrays of runs gets, and each part of them; needs a connection.

    By default a whole one, where there are any. Raises ClusterError where that cannot be known yet.
    """
    asked = resources.gpus
    cluster = ray.cluster_resources()
    if not cluster.get("GPU") and asked in (None, AUTO):
        if resources.address is not None and not cluster.get("CPU"):
            # a head alone, whose workers have not joined: a guess would hold for the whole sweep
            raise ClusterError(
                f"--address {resources.address}: no worker machine has joined yet, so it is unknown whether trials get "
                "GPUs; say --gpus-per-trial 1 (or a fraction), or 0"
            )
        return lambda runs: 0.0
    if asked is None or (asked == AUTO and kind.alone):
        return lambda runs: 1.0
    if asked == AUTO:
        return gpu_share.shares(arrays, resources.cpus)
    gpus = float(asked)
    return lambda runs: gpus
