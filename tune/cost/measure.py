"""What a training step and a test image cost on this machine: one number each, for plans and growth tables."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch

from bench import models
from bench.harness import timed
from bench.steps import EngineStep
from rme import evaluate, noise
from rme.nets import ImageShape

SCORED_IMAGES = 8
"""Images on which the cost of IWAE is timed."""


SAMPLES_S = 0.15
"""How long is measured, at least, after a warm-up."""


def step_seconds(run: Any, shape: ImageShape, device: torch.device, members: int = 1) -> float:
    """Seconds of one member's training step in an array of so many; on a CPU in CPU time."""
    return _median(EngineStep(run, shape, device, members), device) / members


def image_seconds(run: Any, shape: ImageShape, device: torch.device, samples: int = 100) -> float:
    """Seconds of one image's IWAE with so many samples, by one model."""
    engine = models.engine(run, shape, device, pixels=models.random_pixels(SCORED_IMAGES, shape))
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
