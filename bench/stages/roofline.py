"""How close a training step comes to the device's peak."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

import torch

from bench import models
from bench.harness import quick_settings
from bench.roofline import measured_peak, peak_meter, roofline_row
from bench.stages.case import Case, Entry, Number, array_case
from rme.config import RunSpec

SIZES = {"cuda": (30, 1), "cpu": (1, 6)}
"""Members of the arrays, most important first."""


def cases(device: torch.device) -> Iterator[Case]:
    """The peak, then VAE and RME(5), alone and in an array."""
    settings = quick_settings(device)
    meter = cache(lambda: peak_meter(device))

    def peak() -> Sequence[Entry]:
        found = measured_peak(device, quick=True)
        return [
            Number("fastest float32 matrix product (TF32 on CUDA)", found.operations / 1e12, "TFLOP/s"),
            Number("copying memory, bytes read and written", found.bandwidth / 1e9, "GB/s"),
        ]

    def rows(run: RunSpec, members: int) -> Sequence[Entry]:
        row = roofline_row(run, members, settings, meter())
        return [] if row is None else [row]

    yield Case("peak", peak)
    for members in SIZES[device.type]:
        for run in (models.spec("vae"), models.spec("rme", 5)):
            yield array_case(run, members, rows)
