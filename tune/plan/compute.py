"""Compute in words: core-hours or GPU-hours in a unit that suits them, and the wall time that they take here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from tune.plan.trials import Trial

UNITS = {"seconds": 1.0, "minutes": 60.0, "hours": 3600.0, "days": 86400.0, "years": 365.25 * 86400}
"""Seconds of each unit."""

WIDEST = 100_000
"""Numbers from here on are too wide for a table."""


@dataclass(frozen=True)
class Compute:
    """What trains on this machine.

    Attributes:
        device: whose step times count.
        available: how many cores, or GPUs if `device` is one, this machine has.
        at_once: how many trials train at once on them; 1 for an inline sweep.
    """

    device: torch.device
    available: int
    at_once: int

    @property
    def resource(self) -> str:
        """`core` or `GPU`."""
        return "GPU" if self.device.type == "cuda" else "core"

    @property
    def here(self) -> str:
        """`these 2 cores`, `this GPU`; `one of these 2 cores` if not all are used."""
        if self.available == 1:
            return f"this {self.resource}"
        all_of_them = f"these {self.available} {self.resource}s"
        return all_of_them if self.at_once > 1 else f"{all_of_them}, one trial at a time"

    def wall_hours(self, hours: Mapping[str, float], trials: Iterable[Trial]) -> float:
        """A lower bound of the hours until all trials have ended: no core idles, and each trial waits for its parents.

        Args:
            hours: of each trial, by its key.
            trials: parents first.
        """
        ends: dict[str, float] = {}
        longest = 0.0
        for trial in trials:
            start = max((ends.get(parent.key, 0.0) for spec in trial.runs if (parent := spec.parent)), default=0.0)
            end = start + hours[trial.key]
            ends |= dict.fromkeys(trial.run_keys, end)
            longest = max(longest, end)
        return max(sum(hours.values()) / self.at_once, longest)


def unit_of(hours: Sequence[float]) -> str:
    """The unit for a table of these: the largest in which none is below 1, or a larger one if numbers get too wide."""
    shown = [value * 3600 for value in hours if value > 0] or [3600.0]
    names = list(UNITS)
    place = max((i for i, name in enumerate(names) if min(shown) >= UNITS[name]), default=0)
    while place < len(names) - 1 and max(shown) / UNITS[names[place]] >= WIDEST:
        place += 1
    return names[place]


def number(hours: float, unit: str) -> str:
    """Hours in this unit: two significant digits, all digits from 10 on."""
    value = hours * 3600 / UNITS[unit]
    if value == 0 or value >= 9.95:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 0.95 else f"{value:.2g}"
