"""`--gpus-per-trial auto`: how many trials fit in a GPU's memory, from the measured memory of each kind of trial.

A trial's kind is what decides its memory: method, order, decoder, image shape, members, batch size and precision.
Before the sweep starts, one trial of each kind is trained briefly on random images in a worker of its own. The
measurements are cached in the user's cache folder.
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
"""Memory added to the measurement, as a fraction of it: for fragmentation, and for what kernels allocate briefly."""

IMAGES = 512
"""How many random images a kind is measured with. The memory of a data set's images is added by arithmetic."""

EPOCHS = 2
"""How many epochs a kind is trained to be measured; an epoch is a few steps."""


@dataclass(frozen=True)
class Need:
    """Memory in bytes: the peak of a trial, and the total of its device."""

    trial: int
    device: int


def share(need: Need, margin: float = MARGIN) -> float:
    """The fraction of a GPU to request from Ray if n trials fit on it: 1 / n, rounded down to 4 digits.

    n is at least 1: a trial that does not fit starts anyway, and its array is halved when memory runs out.
    """
    fitting = max(1, int(need.device // (need.trial * (1 + margin))))
    return math.floor(1e4 / fitting) / 1e4  # Ray counts in 1/10,000


def shares(arrays: Iterable[Sequence[RunSpec]], cpus: int) -> Callable[[Sequence[RunSpec]], float]:
    """A function that returns the fraction of a GPU for any of these arrays of runs, or for a part of one.

    Kinds that are not cached are measured in parallel on all GPUs of the Ray cluster. All GPUs are assumed to have as
    much memory as the one that measured. A kind that does not fit, or fails, gets a whole GPU.
    """
    largest: dict[str, Sequence[RunSpec]] = {}
    for runs in sorted(arrays, key=lambda runs: runs[0].dim):
        largest[kind(runs)] = runs
    measuring = ray.remote(num_cpus=cpus, num_gpus=1, max_calls=1)(_measure_on_gpu)  # the process ends: memory is freed
    cache = _memory_cache()
    measured = cache.values
    tasks = {
        name: measuring.remote([spec.model_dump(mode="json") for spec in runs])
        for name, runs in largest.items()
        if name not in measured
    }
    for name, task in tasks.items():
        try:
            measured[name] = ray.get(task)
        except Exception as error:  # the trial itself will report it
            log.warning("cannot measure the memory of %s, so it gets a whole GPU: %s", name, last_line(error))
    cache.save()

    def of(runs: Sequence[RunSpec]) -> float:
        if kind(runs) not in measured:
            return 1.0
        need, device = measured[kind(runs)]
        return share(Need(need + image_bytes(runs), device))

    return of


def kind(runs: Sequence[RunSpec]) -> str:
    """A readable name of the settings that decide an array's memory, apart from the data set's images."""
    spec = runs[0]
    channels, height, width = data.get(spec.dataset).shape
    return (
        f"{spec.plain_label} {spec.decoder} {channels}x{height}x{width} members {len(all_members(runs))} "
        f"batch {spec.batch_size} {spec.precision}"
    )


def image_bytes(runs: Sequence[RunSpec]) -> int:
    """Bytes of its data set that an array of runs keeps on its device.

    These are all pixels, each member's image indices and, while inference is timed, the test images as floats.
    """
    dataset = data.get(runs[0].dataset)
    train_count, held_out, test = dataset.split_sizes
    pixels = math.prod(dataset.shape)
    entry = 8 if runs[0].precision == "float64" else 4
    indices = len(all_members(runs)) * (train_count + held_out + test) * 8
    return sum(dataset.counts) * pixels + indices + test * pixels * entry


def measure(specs: Sequence[RunSpec], device: torch.device) -> Need:
    """The memory of an array of these runs, trained and scored briefly on random images. Call it in a fresh process.

    On a GPU it is the peak that PyTorch's allocator reserved, plus the rest of the memory in use: the CUDA context and
    the libraries. That includes other processes on the same GPU, so a shared GPU gets fewer trials, never more. On a
    CPU it is the process's peak resident set. Both include captured graphs and buffers if `EPOCHS` epochs make them.
    """
    _train_briefly(specs, device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        free, total = torch.cuda.mem_get_info(device)
        context = total - free - torch.cuda.memory_reserved(device)
        return Need(torch.cuda.max_memory_reserved(device) + max(0, context), total)
    return Need(_peak_resident(), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def _peak_resident() -> int:
    """The peak resident set of this process, in bytes."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmHWM:")))
    except (OSError, StopIteration):  # not Linux. On Linux, ru_maxrss would include the parent process
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _train_briefly(specs: Sequence[RunSpec], device: torch.device) -> None:
    length = {"epochs": EPOCHS, "stage_epochs": EPOCHS, "finish_epochs": 0, "patience": None, "stage_patience": None}
    brief = [spec.model_copy(update=length) for spec in specs]
    order = torch.arange(IMAGES)
    split = Split(order[evaluate.BLOCK :], order[: evaluate.BLOCK], order[: evaluate.BLOCK])
    engine = untrained_engine(brief, random_images(IMAGES, data.get(specs[0].dataset).shape), device, split)
    train(engine)
    results(engine)


def _measure_on_gpu(runs: list[dict[str, Any]]) -> tuple[int, int]:
    """`measure` in a Ray worker with a GPU: bytes of the trial and of the GPU."""
    need = measure([RunSpec.of(values) for values in runs], pick_device("cuda"))
    return need.trial, need.device


def _memory_cache() -> UserCache:
    """By kind: bytes of a trial without its data set's images, and of the GPU that measured it."""
    gpu = device_name(torch.device("cuda")) if torch.cuda.is_available() else "the cluster's GPUs"
    return UserCache("memory.json", f"{gpu}, torch {torch.__version__}")
