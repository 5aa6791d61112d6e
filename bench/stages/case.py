"""What a stage of `bench.device` consists of: named cases, each with what it found.

A stage is a module of this folder with a function `cases(device) -> Iterable[Case]`, most important first. Its process
measures one case after another and saves after each, so that a stage cut short keeps what it has, and the next run goes
on from there. A case that raises is noted with its error, and the next one begins.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.harness import Row
from rme.config import RunSpec


@dataclass(frozen=True)
class Check:
    """A difference that must not exceed its tolerance.

    Attributes:
        what: what was compared, and with what.
        difference: found; NaN is never within the tolerance.
        tolerance: largest allowed difference; 0: must be equal.
    """

    what: str
    difference: float
    tolerance: float

    @property
    def right(self) -> bool:
        return not math.isnan(self.difference) and self.difference <= self.tolerance


@dataclass(frozen=True)
class Number:
    """A measured number.

    Attributes:
        what: what was measured.
        value: in `unit`.
        unit: such as ms, MiB, % or h.
    """

    what: str
    value: float
    unit: str


Entry = Row | Check | Number


@dataclass(frozen=True)
class Case:
    """One case of a stage.

    Attributes:
        name: unique in its stage.
        measure: measures it. May raise anything.
    """

    name: str
    measure: Callable[[], Sequence[Entry]]


def array_case(run: RunSpec, members: int, measure: Callable[[RunSpec, int], Sequence[Entry]]) -> Case:
    """The case of an array of `members` models of this run."""
    return Case(f"{run.method_label}, {members} together", lambda: measure(run, members))
