"""This machine's cores and GPUs: whether it has those that a trial asks for, and how many trials fit at once."""

from __future__ import annotations

import os

import torch

from rme.device import pick_device
from tune.plan.compute import Compute
from tune.plan.kinds import Kind
from tune.run.options import AUTO, Resources
from tune.store.errors import CommandError


class ResourceError(CommandError):
    """A trial asks for more cores or GPUs than there are."""


def check_machine(resources: Resources, kind: Kind) -> None:
    """Raise ResourceError if a trial asks for more than this machine has, for which it would wait forever."""
    gpus = 0 if resources.gpus in (None, AUTO) else float(resources.gpus)
    if kind.alone and gpus != int(gpus):
        raise ResourceError(f"--gpus-per-trial {gpus:g}: a timing needs whole GPUs; sharing would slow it")
    if resources.address is not None:
        return  # a cluster may grow
    for name, wanted in (("cpu", resources.cpus), ("gpu", gpus)):
        if wanted > available()[name]:
            raise ResourceError(f"--{name}s-per-trial {wanted:g}: this machine has {available()[name]}")


def available() -> dict[str, int]:
    """The number of this machine's cores and GPUs."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {"cpu": cores, "gpu": torch.cuda.device_count()}


def compute_of(resources: Resources, inline: bool) -> Compute:
    """What trains on this machine. Trials that share a GPU count as one, because they share its time."""
    device = pick_device("cpu" if resources.gpus == 0 else "auto")
    if device.type == "cuda":
        count, each = available()["gpu"], 1.0 if resources.gpus in (None, AUTO) else max(1.0, float(resources.gpus))
    else:
        count, each = available()["cpu"], float(resources.cpus)
    return Compute(device, count, 1 if inline else max(1, int(count / each)))
