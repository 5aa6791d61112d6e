"""`--gpus-per-trial auto`: how many trials a GPU holds, from the memory that a trial of each kind is seen to take.

A kind is what decides a trial's memory: method, order, decoder, image shape, members, batch size and precision. One
trial of each kind runs for a moment on made-up images, in a worker of its own, before the sweep starts; what was seen
is remembered in the user's cache folder.
"""

from __future__ import annotations

import logging
import math
import os
import resource
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch

from rme import data, evaluate
from rme.config import RunSpec
from rme.data import Split
from rme.device import device_name, pick_device
from rme.engine import all_members
from rme.errors import last_line
from rme.selection import results
from rme.training import train
from rme.untrained import random_images, untrained_engine
from tune.cost.cache import UserCache

log = logging.getLogger(__name__)

MARGIN = 0.15
"""Room beyond what was seen: fragments, and what a kernel takes for a moment."""

IMAGES = 512
"""Made-up images with which a kind is measured; what more a data set has is added by arithmetic."""

EPOCHS = 2
"""How long a kind is trained to be measured; an epoch is a few steps of made-up images."""


@dataclass(frozen=True)
class Need:
    """Memory in bytes: what a trial takes at its peak, and what its device has in all."""

    trial: int
    device: int


def share(need: Need, margin: float = MARGIN) -> float:
    """The part of a GPU to ask Ray for, so that as many trials as fit share it: 1 / n, rounded down to 4 digits.

    n is at least 1: a trial that does not fit is tried, and halves its array when memory runs out.
    """
    fitting = max(1, int(need.device // (need.trial * (1 + margin))))
    return math.floor(1e4 / fitting) / 1e4  # Ray counts in 1/10,000


def shares(arrays: Iterable[Sequence[RunSpec]], cpus: int) -> Callable[[Sequence[RunSpec]], float]:
    """What part of a GPU each of these arrays of runs gets, and each part of them.

    Each kind not met before is measured, on as many GPUs of the Ray cluster at once as there are. All GPUs are taken
    to have the memory of the one that measured. A kind that does not fit, or fails, gets a whole GPU.
    """
    largest: dict[str, Sequence[RunSpec]] = {}
    for runs in sorted(arrays, key=lambda runs: runs[0].dim):
        largest[kind(runs)] = runs
    measuring = ray.remote(num_cpus=cpus, num_gpus=1, max_calls=1)(_measure_on_gpu)  # the process ends: memory is freed
    cache = _memory_cache()
    seen = cache.values
    tasks = {
        name: measuring.remote([spec.model_dump(mode="json") for spec in runs])
        for name, runs in largest.items()
        if name not in seen
    }
    for name, task in tasks.items():
        try:
            seen[name] = ray.get(task)
        except Exception as error:  # whatever it is, the trial itself will say it
            log.warning("the memory of %s is not known, so it gets a whole GPU: %s", name, last_line(error))
    cache.save()

    def of(runs: Sequence[RunSpec]) -> float:
        if kind(runs) not in seen:
            return 1.0
        need, device = seen[kind(runs)]
        return share(Need(need + image_bytes(runs), device))

    return of


def kind(runs: Sequence[RunSpec]) -> str:
    """What an array of runs shares with others that take the same memory, apart from the data set's images."""
    spec = runs[0]
    channels, height, width = data.get(spec.dataset).shape
    return (
        f"{spec.plain_label} {spec.decoder} {channels}x{height}x{width} members {len(all_members(runs))} "
        f"batch {spec.batch_size} {spec.precision}"
    )


def image_bytes(runs: Sequence[RunSpec]) -> int:
    """How much of its data set an array of runs keeps on its device, in bytes.

    All pixels, each member's order and indices, and the test images once more as numbers, while inference is timed.
    """
    dataset = data.get(runs[0].dataset)
    train_count, held_out, test = dataset.split_sizes
    pixels = math.prod(dataset.shape)
    entry = 8 if runs[0].precision == "float64" else 4
    indices = len(all_members(runs)) * (train_count + held_out + test) * 8
    return sum(dataset.counts) * pixels + indices + test * pixels * entry


def measure(specs: Sequence[RunSpec], device: torch.device) -> Need:
    """Train and score an array of these runs for a moment on made-up images; call it in a fresh process.

    On a GPU: the most that PyTorch's allocator had reserved, and what the device's memory lacks beyond that, which is
    the CUDA context and the libraries' own. What other processes hold on the same GPU counts as well, so a GPU that is
    shared with strangers gets fewer trials, never more. On a CPU: the process's largest resident set. Graphs that are
    captured and buffers that are kept count in both, as far as `EPOCHS` epochs bring them about.
    """
    _train_for_a_moment(specs, device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        free, total = torch.cuda.mem_get_info(device)
        context = total - free - torch.cuda.memory_reserved(device)
        return Need(torch.cuda.max_memory_reserved(device) + max(0, context), total)
    return Need(_peak_resident(), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def _peak_resident() -> int:
    """The most memory that this process has held, in bytes."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmHWM:")))
    except (OSError, StopIteration):  # not Linux, where getrusage's also counts what forked this process
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _train_for_a_moment(specs: Sequence[RunSpec], device: torch.device) -> None:
    length = {"epochs": EPOCHS, "stage_epochs": EPOCHS, "finish_epochs": 0, "patience": None, "stage_patience": None}
    brief = [spec.model_copy(update=length) for spec in specs]
    order = torch.arange(IMAGES)
    split = Split(order[evaluate.BLOCK :], order[: evaluate.BLOCK], order[: evaluate.BLOCK])
    engine = untrained_engine(brief, random_images(IMAGES, data.get(specs[0].dataset).shape), device, split)
    train(engine)
    results(engine)


def _measure_on_gpu(runs: list[dict[str, Any]]) -> tuple[int, int]:
    """In a Ray worker that was given a GPU."""
    need = measure([RunSpec.of(values) for values in runs], pick_device("cuda"))
    return need.trial, need.device


def _memory_cache() -> UserCache:
    """By kind the bytes of a trial without its images, and of the GPU that measured it."""
    gpu = device_name(torch.device("cuda")) if torch.cuda.is_available() else "the cluster's GPUs"
    return UserCache("memory.json", f"{gpu}, torch {torch.__version__}")
