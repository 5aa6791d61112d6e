"""How many of a grid's cells are in the paper, and how many are of a control."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from analysis.names import CELL
from analysis.published_cells import SCORES, TIMES, published_cells
from rme import methods
from tune.plan.grid import Grid


def paper_cells(grid: Grid) -> int:
    """How many of the grid's cells the paper has a number for, whatever their settings. Variants do not count."""
    known = published_cells(SCORES if grid.kind.trains else TIMES)
    names = ("method", "order", "dataset", "dim", "decoder")
    return sum(cell["variant"] is None and tuple(cell[name] for name in names) in known for cell in _cells(grid))


def control_cells(grid: Grid) -> int:
    """How many of the grid's cells are of a control method."""
    controls = {name for name in methods.names() if methods.get(name).control}
    return sum(cell["method"] in controls for cell in _cells(grid))


def _cells(grid: Grid) -> Iterator[Mapping[str, Any]]:
    """The fields that identify each cell, including cells that cannot be run yet."""
    yield from {spec.cell_key: {name: getattr(spec, name) for name in CELL} for spec in grid.runs}.values()
    for cell in grid.absent:
        yield {name: cell.values.get(name, "conv" if name == "decoder" else None) for name in CELL}
