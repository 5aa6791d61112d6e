"""How much memory training and IWAE scoring need at their peak."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from bench.growth import MemoryCase, memory_cases, peaks
from bench.harness import quick_settings
from bench.stages.case import Case, Entry, Number


def cases(device: torch.device) -> Iterator[Case]:
    """On a CPU fewer and smaller cases."""
    base = quick_settings(device)
    if device.type == "cuda":
        settings = replace(base, methods=(("vae", None), ("rme", 5)), members=(30,), quick=False)
    else:
        settings = replace(base, methods=(("vae", None), ("rme", 5)), members=(1,))

    def case(one: MemoryCase) -> Case:
        def measure() -> Sequence[Entry]:
            training, iwae = peaks(one, device)
            return [
                Number(f"{one.name}: training", training, "MiB"),
                Number(f"{one.name}: {'IWAE' if device.type == 'cuda' else 'training and IWAE'}", iwae, "MiB"),
            ]

        return Case(one.name, measure)

    yield from map(case, memory_cases(settings))
