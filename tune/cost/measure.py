"""Seconds of a training step and of scoring a test image on this machine, measured on random images."""

from __future__ import annotations

import statistics
from collections.abc import Callable
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

SAMPLES_S = 0.15
"""Minimum total seconds of the timing samples, after a warm-up."""


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


def step_seconds(spec: RunSpec, shape: ImageShape, device: torch.device, members: int = 1) -> float:
    """Seconds of one member's training step in an array of `members`; CPU time on a CPU."""
    return _median(EngineStep(spec, shape, device, members), device) / members


def image_seconds(spec: RunSpec, shape: ImageShape, device: torch.device, samples: int = 100) -> float:
    """Seconds of one image's IWAE with `samples` samples, by one model; CPU time on a CPU."""
    engine = array_engine(spec, shape, device, pixels=random_images(SCORED_IMAGES, shape))
    index = torch.arange(SCORED_IMAGES, device=device).unsqueeze(0)

    def score() -> object:
        generators = [noise.generator(0, 0, noise.EVALUATE, device)]
        return evaluate.scores(engine.method, engine.pixels, index, samples=samples, generators=generators)

    return _median(score, device) / SCORED_IMAGES


def _median(work: Callable[[], object], device: torch.device) -> float:
    timer = timed(work, device, sample_s=0.0)
    samples: list[float] = []
    while sum(samples) < SAMPLES_S:
        samples.append(timer())
    return statistics.median(samples)
