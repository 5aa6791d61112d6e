"""How long the IWAE of an image takes, K = 100: a VAE against a plain loop, RME against the VAE."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import torch

from bench import models
from bench.harness import Row, quick_settings
from bench.iwae import iwae_rows
from bench.roofline import measured_peak
from bench.stages.case import Case, array_case
from rme.config import RunSpec

IMAGES = {"cuda": 512, "cpu": 16}
SAMPLES = 100


def cases(device: torch.device) -> Iterator[Case]:
    """VAE, then RME(5), then arrays of them on a GPU."""
    settings = quick_settings(device)
    peak = cache(lambda: measured_peak(device, quick=True))

    def rows(run: RunSpec, members: int) -> list[Row]:
        return iwae_rows(run, members, settings, IMAGES[device.type], SAMPLES, peak())

    for members in (1, 6) if device.type == "cuda" else (1,):
        for run in (models.spec("vae"), models.spec("rme", 5)):
            yield array_case(run, members, rows)
