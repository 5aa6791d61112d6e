"""Warnings about a grid's settings that are likely to mislead (`analysis.cautions`), before anything is trained."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from rme import data
from rme.config import RunSpec
from tune.plan.grid import Grid

if TYPE_CHECKING:
    import pandas as pd


def cautions_of(grid: Grid) -> list[str]:
    """Warnings about a grid's runs and those that they start from; none where pandas is not installed."""
    if not grid.kind.trains:
        return []
    try:
        from analysis.cautions import cautions
    except ModuleNotFoundError:  # an inline sweep needs no pandas
        return []
    return cautions(frame(grid.with_parents()))


def frame(runs: Iterable[RunSpec]) -> pd.DataFrame:
    """The columns of `analysis.collect.collect` that are known before training; one row for each run."""
    from analysis.names import CELL
    from analysis.runs import frame_of, row_of

    of_cell: dict[tuple[Any, ...], dict[str, Any]] = {}  # all runs of a cell have the same settings
    rows = []
    for spec in runs:
        cell = tuple(getattr(spec, name) for name in CELL)
        if cell not in of_cell:
            tags = {
                "method_label": spec.method_label,
                "dataset_label": data.label(spec.dataset),
                "starts_from": spec.method_class.starts_from or "scratch",
            }
            of_cell[cell] = row_of(spec.params, tags, {}, spec.run_name)
        rows.append(of_cell[cell] | {"seed": spec.seed})
    return frame_of(rows)
