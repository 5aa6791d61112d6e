"""Groups runs into trials, and adds the runs that they start from."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from rme.config import RunSpec


@dataclass(frozen=True)
class Trial:
    """What Ray schedules: runs of one cell that are trained as one array.

    The key depends only on the runs, so the same grid finds the trial's checkpoints again.
    """

    runs: tuple[RunSpec, ...]

    @cached_property
    def run_keys(self) -> tuple[str, ...]:
        """The keys of its runs, in order. Cached, because a run computes its key at each access."""
        return tuple(spec.key for spec in self.runs)

    @cached_property
    def key(self) -> str:
        return hashlib.sha256(" ".join(self.run_keys).encode()).hexdigest()[:16]

    @cached_property
    def kind(self) -> tuple[tuple[str, str], int]:
        """((method, cell key), members): trials that agree in these take equally long."""
        return (self.runs[0].method, self.runs[0].cell_key), self.members

    @property
    def name(self) -> str:
        seeds = ", ".join(str(spec.seed) for spec in self.runs)
        return f"{self.runs[0].cell} seed{'s' if len(self.runs) > 1 else ''} {seeds}"

    @property
    def members(self) -> int:
        return sum(spec.restarts for spec in self.runs)


def with_parents(runs: Iterable[RunSpec], variants: Mapping[str, str] | None = None) -> list[RunSpec]:
    """The runs and those that they start from, parents first, each once.

    A parent that is not one of `runs` gets the variant name that `variants` has for its cell key, if any.
    """
    named = {spec.key: spec for spec in runs}
    ordered: dict[str, RunSpec] = {}

    def add(key: str, spec: RunSpec) -> None:
        if key in ordered:
            return
        parent = spec.parent
        if parent is not None:
            add(parent.key, parent)
        if key not in named and variants:
            spec = spec.model_copy(update={"variant": variants.get(spec.cell_key)})
        ordered[key] = named.get(key, spec)

    for key, spec in named.items():
        add(key, spec)
    return list(ordered.values())


ArraySize = int | Callable[[RunSpec], int]
"""How many runs of a cell are trained as one array: a number, or a function of one of its runs."""


def trials(runs: Iterable[RunSpec], seeds_per_trial: ArraySize) -> list[Trial]:
    """Group runs of the same cell by seed into arrays, in the order in which the cells first appear."""
    cells: dict[str, list[RunSpec]] = defaultdict(list)
    for spec in runs:
        cells[spec.cell_key].append(spec)
    found = []
    for members in cells.values():
        members.sort(key=lambda spec: spec.seed)
        size = seeds_per_trial if isinstance(seeds_per_trial, int) else seeds_per_trial(members[0])
        found += [Trial(tuple(members[i : i + size])) for i in range(0, len(members), size)]
    return found
