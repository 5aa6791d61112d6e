"""How fast an array trains, against one model at a time: ms per member's step."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import torch

from bench import models
from bench.harness import Row, quick_settings
from bench.roofline import measured_peak, step_seconds_at
from bench.stages.case import Case, array_case
from bench.training import array_rows
from rme.config import RunSpec

VAE, RME = ("vae", None), ("rme", 5)

ARRAYS: dict[str, list[tuple[tuple[str, int | None], int]]] = {
    "cuda": [(method, members) for members in (30, 8, 64, 1) for method in (VAE, RME)],
    "cpu": [(VAE, 6), (RME, 2), (VAE, 2), (RME, 6), (VAE, 30)],
}
"""Methods and members, most important first; an array of one on a CPU is a model trained alone."""


def cases(device: torch.device) -> Iterator[Case]:
    """Arrays of VAEs and RME(5)s."""
    settings = quick_settings(device)
    peak = cache(lambda: measured_peak(device, quick=True))

    def rows(run: RunSpec, members: int) -> list[Row]:
        return array_rows(run, members, settings, step_seconds_at(peak(), run, settings.image_shape))

    for (method, order), members in ARRAYS[device.type]:
        yield array_case(models.spec(method, order), members, rows)
