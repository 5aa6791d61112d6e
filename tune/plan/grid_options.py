"""The grid that `--grid`, `--only`, `--set`, `--dataset` and `--experiment` ask for together."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tune.plan.grid import Grid, GridError, load
from tune.plan.yaml_text import YamlError, parse


def chosen_grid(
    grid: str,
    only: Sequence[str] = (),
    overrides: Sequence[str] = (),
    dataset: str | None = None,
    experiment: str | None = None,
) -> Grid:
    """Read a grid, keep what `only` says, and set what `overrides` says.

    Args:
        grid: a grid's name or file.
        only: texts `FIELD=A,B`.
        overrides: texts `FIELD=VALUE`.
        dataset: the data set of all runs.
        experiment: another name for the grid.

    Raises GridError naming the option and what is wrong.
    """
    kept = {field: _items(field, text) for field, text in _assignments("--only", only).items()}
    values: dict[str, Any] = {}
    for field, text in _assignments("--set", overrides).items():
        try:
            values[field] = parse(text).value
        except YamlError:
            values[field] = text
    if dataset:
        values["dataset"] = dataset
    found = load(grid, kept, values)
    return replace(found, name=experiment) if experiment else found


def check_whole(grid: Grid) -> None:
    """Raises GridError if the grid has cells whose method or data set does not exist."""
    if grid.absent:
        counts = Counter(cell.reason for cell in grid.absent)
        reasons = "; ".join(f"{reason} ({count} cells)" for reason, count in counts.items())
        raise GridError(
            f"the grid {grid.name} cannot be run whole: {reasons}. Keep what can be run with --only, e.g. "
            f"{_example(grid)}"
        )


def _example(grid: Grid) -> str:
    if not grid.runs:
        return "--only method=vae"
    methods = ",".join(dict.fromkeys(spec.method for spec in grid.runs))
    datasets = ",".join(dict.fromkeys(spec.dataset for spec in grid.runs))
    return f"--only method={methods} --only dataset={datasets}"


def _assignments(option: str, texts: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        field, sign, value = text.partition("=")
        if not sign or not field or not value:
            raise GridError(f"{option} {text}: say FIELD=VALUE")
        if field in found:
            right = f"{option} {field}={found[field]},{value}" if option == "--only" else "say it once"
            raise GridError(f"{option} {text}: {field} is given twice, first as {found[field]}; {right}")
        found[field] = value
    return found


def _items(field: str, text: str) -> list[str]:
    """The values of an `--only`, as in CSV: a value that contains a comma is put into double quotes."""
    try:
        (items,) = csv.reader([text], skipinitialspace=True, strict=True)
    except (ValueError, csv.Error):
        items = []
    if not items:
        raise GridError(f"--only {field}={text!r}: say FIELD=A,B, in one line, quotes in pairs")
    return items
