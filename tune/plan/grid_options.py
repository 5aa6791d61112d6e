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
    """Read a grid, keep the runs that match `only`, and set the fields in `overrides`.

    Args:
        grid: a grid's name or file.
        only: texts `FIELD=A,B`.
        overrides: texts `FIELD=VALUE`.
        dataset: the data set of all runs; None: the grid's.
        experiment: the experiment's name; None: the grid's.

    Raises GridError naming the option and the problem.
    """
    kept = {field: _items(field, text) for field, text in _assignments("--only", only).items()}
    values: dict[str, Any] = {}
    for field, text in _assignments("--set", overrides).items():
        try:
            values[field] = parse(text).value
        except YamlError:
            values[field] = text
    if dataset:
        if "dataset" in values:
            raise GridError(f"--dataset {dataset}: --set dataset={values['dataset']} is given, too; give one of them")
        values["dataset"] = dataset
    found = load(grid, kept, values)
    return replace(found, name=experiment) if experiment else found


def check_whole(grid: Grid) -> None:
    """Raise GridError if the grid has cells whose method or data set does not exist."""
    if grid.absent:
        counts = Counter(cell.reason for cell in grid.absent)
        reasons = "; ".join(f"{reason} ({count} cells)" for reason, count in counts.items())
        raise GridError(
            f"the grid {grid.name} has cells that cannot be run: {reasons}. Keep the others with --only, e.g. "
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
            raise GridError(f"{option} {text}: must be FIELD=VALUE")
        if field in found:
            right = f"{option} {field}={found[field]},{value}" if option == "--only" else "give it once"
            raise GridError(f"{option} {text}: {field} is given twice, first as {found[field]}; {right}")
        found[field] = value
    return found


def _items(field: str, text: str) -> list[str]:
    """The values of an `--only`, read as CSV: double quotes enclose a value that contains a comma."""
    try:
        (items,) = csv.reader([text], skipinitialspace=True, strict=True)
    except (ValueError, csv.Error):
        items = []
    if not items:
        raise GridError(f"--only {field}={text!r}: must be FIELD=A,B on one line, with paired quotes")
    return items
