"""How many hours `--grid paper` takes on one device, by data set.

Step times are cached in the user's cache folder as they are measured, so a case that ran out of time resumes there.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from bench.growth import paper_arrays, paper_hours
from bench.stages.case import Case, Number
from rme import data


def cases(device: torch.device) -> Iterator[Case]:
    """The grid's data sets; the first measures nearly all step times that the others need."""

    def case(dataset: str) -> Case:
        label = data.label(dataset)
        return Case(label, lambda: [Number(label, paper_hours(device, dataset), "h")])

    yield from map(case, paper_arrays())
