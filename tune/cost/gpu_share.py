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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch

from rme import data, evaluate, nets, noise
from rme.config import RunSpec
from rme.data import Images, Split
from rme.device import device_name, pick_device
from rme.engine import Engine
from rme.result import stack_models
from rme.training import results, train
from tune.cost.cache import UserCache
from tune.plan.grid import Trial

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


def shares(trials: Sequence[Trial], cpus: int) -> Callable[[Trial], float]:
    """For each of these trials, and parts of them, what part of a GPU it gets.

    Each kind not met before is measured, on as many GPUs of the Ray cluster at once as there are. All GPUs are taken
    to have the memory of the one that measured. A kind that does not fit, or fails, gets a whole GPU.
    """
    largest: dict[str, Trial] = {}
    for trial in sorted(trials, key=lambda trial: trial.runs[0].dim):
        largest[kind(trial)] = trial
    measuring = ray.remote(num_cpus=cpus, num_gpus=1, max_calls=1)(_measure_on_gpu)  # the process ends: memory is freed
    cache = _memory_cache()
    seen = cache.values
    tasks = {
        name: measuring.remote([spec.model_dump(mode="json") for spec in trial.runs])
        for name, trial in largest.items()
        if name not in seen
    }
    for name, task in tasks.items():
        try:
            seen[name] = ray.get(task)
        except Exception as error:  # whatever it is, the trial itself will say it
            log.warning("the memory of %s is not known, so it gets a whole GPU: %s", name, str(error).splitlines()[-1])
    cache.save()

    def of(trial: Trial) -> float:
        if kind(trial) not in seen:
            return 1.0
        need, device = seen[kind(trial)]
        return share(Need(need + image_bytes(trial), device))

    return of


def kind(trial: Trial) -> str:
    """The trial's kind, readable: trials of one kind take the same memory, but for their data set's images."""
    spec = trial.runs[0]
    channels, height, width = data.get(spec.dataset).shape
    return (
        f"{spec.plain_label} {spec.decoder} {channels}x{height}x{width} members {trial.members} "
        f"batch {spec.batch_size} {spec.precision}"
    )


def image_bytes(trial: Trial) -> int:
    """What a trial keeps on its device of its data set, in bytes.

    All pixels, each member's order and indices, and the test images once more as numbers, while inference is timed.
    """
    dataset = data.get(trial.runs[0].dataset)
    train_count, held_out, test = dataset.split_sizes
    pixels = math.prod(dataset.shape)
    entry = 8 if trial.runs[0].precision == "float64" else 4
    indices = trial.members * (train_count + held_out + test) * 8
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
    shape = data.get(specs[0].dataset).shape
    pixels = torch.randint(0, 256, (IMAGES, *shape), dtype=torch.uint8)
    images = Images(pixels, pixels[: evaluate.BLOCK].contiguous())
    order = torch.arange(IMAGES)
    split = Split(order[evaluate.BLOCK :], order[: evaluate.BLOCK], order[: evaluate.BLOCK])
    parents = None
    start = brief[0].parent
    if start is not None:
        model = start.method_class(start, shape, 1)
        nets.initialise(model, [noise.generator(0, 0, noise.INIT)])
        alone = {name: value[0] for name, value in model.state_dict().items()}
        parents = stack_models([alone] * sum(spec.restarts for spec in brief))
    engine = Engine(brief, images, [split] * len(brief), device=device, parents=parents)
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
