"""How a member's step time grows with members, order, dim and data set: each case against the first of its series."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from bench.growth import Series, all_series, growth_rows
from bench.harness import quick_settings
from bench.stages.case import Case


def cases(device: torch.device) -> Iterator[Case]:
    """On a CPU fewer and smaller cases."""
    base = quick_settings(device)
    if device.type == "cuda":
        settings = replace(base, methods=(("vae", None), ("rme", 5)), members=(4, 16, 64), quick=False)
    else:
        settings = replace(base, methods=(("vae", None),), members=(2,))

    def case(name: str, pair: Series) -> Case:
        return Case(name, lambda: growth_rows(settings, pair))

    for series in all_series(settings):
        first, *others = series
        yield from (case(name, {first: series[first], name: series[name]}) for name in others)
