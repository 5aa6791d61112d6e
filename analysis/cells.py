"""Finds the runs of a cell in a data frame, where order and variant may be missing: missing equals missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from analysis.names import CELL


def cell_of(values: Mapping[Any, Any] | pd.Series, names: Iterable[str] = CELL) -> tuple[Any, ...]:
    """What identifies a cell, or a part of it such as a row: the values of these fields, None for a missing one."""
    return tuple(None if pd.isna(values[name]) else values[name] for name in names)


def runs_of(runs: pd.DataFrame, cell: Mapping[Any, Any] | pd.Series, names: Iterable[str] = CELL) -> pd.DataFrame:
    """The runs that have a cell's values in these fields."""
    chosen = pd.Series(True, index=runs.index)
    for name in names:
        missing = pd.isna(cell[name])
        chosen &= runs[name].isna() if missing else (runs[name] == cell[name]).fillna(False).astype(bool)
    return runs[chosen]
