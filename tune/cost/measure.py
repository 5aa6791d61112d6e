"""Seconds of a training step and of scoring a test image on this machine, measured on random images."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rme import evaluate, noise
from rme.engine import Engine
from rme.nets import ImageShape
from rme.untrained import random_images, untrained_engine
from tune.cost.timer import timed

if TYPE_CHECKING:
    from rme.config import RunSpec

SCORED_IMAGES = 8
"""How many images IWAE is timed on."""

ROUNDS, LEAST_ROUNDS = 9, 2
"""How many samples of each work are taken, and how many if they take longer than `WORK_S`."""

WORK_S = 0.15
"""Seconds that the samples of one work may take, beyond `LEAST_ROUNDS`."""


class EngineStep:
    """Training steps of an array of untrained models on random images, always on the same batch.

    Calling it makes one step and returns the losses before each update, (U, B).
    """

    def __init__(
        self, spec: RunSpec, shape: ImageShape, device: torch.device, members: int = 1, first: int = 0
    ) -> None:
        self.engine = array_engine(spec, shape, device, members, first=first)
        self.index = torch.arange(spec.batch_size, device=device).expand(members, -1)

    def __call__(self) -> Tensor:
        return self.engine.train_step(self.index)


def array_engine(
    spec: RunSpec,
    shape: ImageShape,
    device: torch.device,
    members: int = 1,
    pixels: Tensor | None = None,
    first: int = 0,
) -> Engine:
    """An engine of `members` untrained models on `pixels` (default: four batches of random images).

    Member i has seed first + i: it is the model that an engine of one member has with that `first`.
    """
    if pixels is None:
        pixels = random_images(4 * spec.batch_size, shape)
    runs = [spec.model_copy(update={"seed": first + i, "restarts": 1}) for i in range(members)]
    return untrained_engine(runs, pixels, device)


def step_seconds(specs: Sequence[RunSpec], shape: ImageShape, device: torch.device, members: int = 1) -> list[float]:
    """Seconds of one member's training step in an array of `members`, for each of these runs; CPU time on a CPU.

    The runs are timed in turn, so that other work on the machine slows all of them alike.
    """
    steps = [EngineStep(spec, shape, device, members) for spec in specs]
    return [seconds / members for seconds in medians(steps, device)]


def image_seconds(specs: Sequence[RunSpec], shape: ImageShape, device: torch.device, samples: int = 100) -> list[float]:
    """Seconds of one image's IWAE with `samples` samples, by one model of each of these runs; as `step_seconds`."""
    works = [partial(_score, array_engine(s, shape, device, pixels=random_images(SCORED_IMAGES, shape)), samples)
             for s in specs]  # fmt: skip
    return [seconds / SCORED_IMAGES for seconds in medians(works, device)]


def _score(engine: Engine, samples: int) -> object:
    index = torch.arange(SCORED_IMAGES, device=engine.device).unsqueeze(0)
    generators = [noise.generator(0, 0, noise.EVALUATE, engine.device)]
    return evaluate.scores(engine.method, engine.pixels, index, samples=samples, generators=generators)


def medians(works: Sequence[Callable[[], object]], device: torch.device) -> list[float]:
    """Median seconds of each work, timed in turn in each of several rounds, after a warm-up."""
    timers = [timed(work, device, sample_s=WORK_S / ROUNDS) for work in works]
    began = time.perf_counter()
    rounds: list[list[float]] = []
    while len(rounds) < LEAST_ROUNDS or (
        len(rounds) < ROUNDS and time.perf_counter() - began < 2 * WORK_S * len(works)
    ):
        rounds.append([timer() for timer in timers])
    return [statistics.median(samples) for samples in zip(*rounds, strict=True)]
