"""What the page's panel of a cell shows beside its statistics: the score of each seed, and what to draw them with."""

from __future__ import annotations

import numpy as np

from analysis.tables import Entry, Table

_FURTHER_DIGITS = 4
"""Digits of a value beyond the table's: the page subtracts the values, and shows two digits more than the table."""


def panel(table: Table) -> dict[str, object]:
    """The table's part of the page's JSON.

    Returns:
        axis: what the values are, for the axis of a plot; digits: of the table; signed: whether the values are
        differences; cells: by row and column, an object for each, empty for a cell without values. It has seeds and
        values (lists of equal length) and, where they are numbers, estimate, low and high (of the paired difference,
        see `analysis.tables.Entry`) and paper (the paper's mean).
    """
    what = table.title.partition(": ")[0].replace("mean difference", "difference")
    return {
        "axis": f"{what}, nats per image",
        "digits": table.digits,
        "signed": table.signed,
        "cells": [
            [_cell(table, table.entries.get((row, column))) for column in table.columns] for row in table.rows
        ],
    }  # fmt: skip


def _cell(table: Table, entry: Entry | None) -> dict[str, object]:
    if entry is None or not entry.values:
        return {}
    digits = table.digits + _FURTHER_DIGITS
    numbers = {"estimate": entry.estimate, "low": entry.low, "high": entry.high, "paper": entry.published_mean}
    return {
        "seeds": list(map(int, entry.seeds)),
        "values": [round(float(value), digits) for value in entry.values],
        **{name: round(float(number), digits) for name, number in numbers.items() if not np.isnan(number)},
    }
