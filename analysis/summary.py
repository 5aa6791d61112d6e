"""What a terminal shows of a report that a sweep has written: its tables of scores, as many as fit, and a finding."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table as RichTable

from analysis import render
from analysis.tables import score_tables
from analysis.time_tables import is_timing, time_tables

MOST_ROWS = 45
"""How many rows of tables are printed at most, together; the first table always."""

WIDTH = 160
"""Width of the tables where the output is not a terminal, characters."""


def print_summary(runs: pd.DataFrame, out: Path, console: Console) -> None:
    """Print the tables of scores of some runs, or of times, and the first sentence of their report.

    Tables that are wider than the terminal, or beyond `MOST_ROWS` rows, are left out, and counted.

    Args:
        runs: one row for each run, at least one, as `analysis.collect.collect` returns them.
        out: the folder of their report. Its findings are read, because they take long with thousands of runs.
        console: where to print.

    Raises OSError if there is no report.
    """
    answer = (out / "tables" / "answer.txt").read_text(encoding="utf-8")
    timings, scored = runs[is_timing(runs)], runs[~is_timing(runs)]
    tables = score_tables(scored) if len(scored) else []
    tables += time_tables(timings) if len(timings) else []
    wide = console if console.is_terminal else Console(file=console.file, width=WIDTH)
    rows = left_out = 0
    for table in tables:
        shown = render.to_rich(table)
        rows += len(table.rows)
        if _width(shown.renderables, wide) > wide.width or (rows > MOST_ROWS and table is not tables[0]):
            left_out += 1
        else:
            wide.print(shown)
    if left_out:
        what = "1 table that does" if left_out == 1 else f"{left_out} tables that do"
        console.print(f"the report has {what} not fit here", markup=False, highlight=False, soft_wrap=True)
    console.print(answer.partition("\n")[0], markup=False, highlight=False, soft_wrap=not console.is_terminal)


def _width(parts: list, console: Console) -> int:
    """The width that the widest table needs, in characters; titles and legends wrap."""
    boundless = console.options.update(max_width=10_000)
    return max(Measurement.get(console, boundless, part).maximum for part in parts if isinstance(part, RichTable))
