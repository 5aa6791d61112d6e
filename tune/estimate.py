"""How long a plan takes on this machine: a step of each kind of training is timed here, once, and remembered."""

from __future__ import annotations

import json
import math
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import torch

from rme import data, evaluate, nets, noise
from rme.allocator import keep_freed_memory
from rme.checkpoint import write_atomically
from rme.config import RunSpec
from rme.data import Images, Split
from rme.engine import Engine
from rme.training import device_name, pick_device
from tune.grid import Trial

SCORED_IMAGES = 16
"""Images on which the cost of IWAE is timed."""

REFERENCE = (1, 28, 28)
"""The images on which every kind of training is timed; for others only a VAE is."""


def hours(trials: Iterable[Trial]) -> dict[tuple[str, str], float]:
    """Estimated hours of computing on one slot of this machine (a core, or the GPU), by (data set, method).

    For each method and order a training step and the scoring of a few images are timed with one member on random
    28x28 images, at the largest dim in question. Other images are taken to cost as much more as they cost a VAE, and
    each member of an array as much as one alone.
    """
    trials = list(trials)
    dims: dict[tuple[str, str], int] = {}
    for trial in trials:
        spec = trial.runs[0]
        kind = (spec.method_label, spec.decoder)
        dims[kind] = max(dims.get(kind, 0), spec.dim)
    known = _Cache()
    total: dict[tuple[str, str], float] = defaultdict(float)
    for trial in trials:
        spec = trial.runs[0]
        step_s, image_s = known.cost(spec, dims[spec.method_label, spec.decoder])
        train, held_out, test = data.get(spec.dataset).split_sizes
        steps = spec.training_epochs * math.ceil(train / spec.batch_size)
        # one test set is scored for a run, one validation set for each restart
        images = len(trial.runs) * test + trial.members * held_out
        seconds = trial.members * steps * step_s + images * image_s * spec.iwae_samples / 100
        total[data.label(spec.dataset), spec.method_label] += seconds / 3600
    known.save()
    return dict(total)


class _Cache:
    """Timings of this machine, kept between commands in the user's cache folder."""

    def __init__(self) -> None:
        self.device = pick_device("auto")
        folder = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "rme"
        self.path = folder / "steps.json"
        self.here = f"{device_name(self.device)}, torch {torch.__version__}"
        try:
            self.all = json.loads(self.path.read_text())
        except (OSError, ValueError):
            self.all = {}
        self.costs: dict[str, list[float]] = self.all.setdefault(self.here, {})

    def cost(self, spec: RunSpec, dim: int) -> tuple[float, float]:
        """Seconds of a member's training step, and of one image's IWAE with 100 samples."""
        spec = spec.model_copy(update={"dim": dim, "restarts": 1})
        step_s, image_s = self._timed(spec, REFERENCE)
        shape = data.get(spec.dataset).shape
        if shape == REFERENCE:
            return step_s, image_s
        vae = spec.model_copy(update={"method": "vae", "order": None, "decoder": "conv", "options": {}})
        theirs, ours = self._timed(vae, shape), self._timed(vae, REFERENCE)
        return step_s * theirs[0] / ours[0], image_s * theirs[1] / ours[1]

    def _timed(self, spec: RunSpec, shape: tuple[int, int, int]) -> tuple[float, float]:
        kind = f"{spec.method_label} {spec.decoder} {shape} dim {spec.dim} batch {spec.batch_size} {spec.precision}"
        if kind not in self.costs:
            self.costs[kind] = list(_measure(spec, shape, self.device))
        step_s, image_s = self.costs[kind]
        return step_s, image_s

    def save(self) -> None:
        with suppress(OSError):  # a home that cannot be written only means measuring again
            write_atomically(self.path, lambda path: path.write_text(json.dumps(self.all, indent=1)))


def _measure(spec: RunSpec, shape: tuple[int, int, int], device: torch.device) -> tuple[float, float]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a trial
    if device.type == "cpu":
        keep_freed_memory()
    try:
        pixels = torch.randint(0, 256, (spec.batch_size, *shape), dtype=torch.uint8)
        everything = torch.arange(len(pixels))
        parents = None
        if spec.parent is not None:
            start = spec.parent.method_class(spec.parent, shape, 1)
            nets.initialise(start, [noise.generator(0, 0, noise.INIT)])
            parents = dict(start.state_dict())
        split = Split(everything, everything, everything)
        engine = Engine([spec], Images(pixels, pixels), [split], device=device, parents=parents)
        index = everything.unsqueeze(0).to(device)
        step_s = _seconds(lambda: engine.train_step(index), device)
        few = index[:, :SCORED_IMAGES]
        image_s = _seconds(
            lambda: evaluate.scores(
                engine.method,
                engine.pixels,
                few,
                samples=100,
                generators=[noise.generator(0, 0, noise.EVALUATE, device)],
            ),
            device,
        )
        return step_s, image_s / SCORED_IMAGES
    finally:
        torch.set_num_threads(threads)


def _seconds(work: Callable[[], object], device: torch.device, repeats: int = 2) -> float:
    """The shortest of a few repeats, after one that warms up."""
    work()
    best = math.inf
    for _ in range(repeats):
        evaluate.synchronise(device)
        began = time.perf_counter()
        work()
        evaluate.synchronise(device)
        best = min(best, time.perf_counter() - began)
    return best
