"""The grid that `--grid`, `--only`, `--set`, `--dataset` and `--experiment` ask for together."""

from __future__ import annotations

import csv
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from analysis.names import CELL
from analysis.words import counted
from rme.config import RunSpec
from tune.plan.errors import GridError
from tune.plan.grid import Grid, load, why_absent
from tune.plan.value_text import WHOLE_NUMBERS, listed
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
        overrides: texts `FIELD=VALUE` or `FIELD=A,B`.
        dataset: the data set of all runs, or several between commas; None: the grid's.
        experiment: the experiment's name; None: the grid's.

    Raises GridError naming the option and the problem.
    """
    kept = {field: _items(field, text) for field, text in _assignments("--only", only).items()}
    texts = _assignments("--set", overrides)
    typed = {field: f"--set {field}={text}" for field, text in texts.items()}
    if dataset is not None:
        if "dataset" in texts:
            raise GridError(f"--dataset {dataset}: {typed['dataset']} is given, too; give one of them")
        texts["dataset"], typed["dataset"] = dataset, f"--dataset {dataset}"
    found = load(grid, kept, {field: values_of(field, text) for field, text in texts.items()}, typed)
    return replace(found, name=experiment) if experiment else found


def values_of(field: str, text: str) -> Any:
    """The value, or the list of values, that `--set FIELD=TEXT` means, read as YAML: the items between commas.

    Double quotes enclose a value that contains a comma; a variant's name needs none, because it is always one. `none`
    is no value, as `null` is.
    """
    try:
        # a name with a comma is one name: a second name for the same runs would be a conflict
        values = parse(text if field == "variant" else f"[{text}]").value
    except YamlError:  # such as a path with brackets
        values = text
    if field == "variant" and not (isinstance(values, list) or text[0] in "\"'"):
        values = text
    if isinstance(values, list) and len(values) == 1:
        (values,) = values
    if field in WHOLE_NUMBERS and isinstance(values, str) and "," in values and values != text:
        return values_of(field, values)  # a list within quotes, as a string from Python
    if isinstance(values, list):
        return [_or_none(field, each) for each in values]
    return _or_none(field, values)


def _or_none(field: str, value: Any) -> Any:
    """None for `none`, where a field may have no value."""
    info = RunSpec.model_fields.get(field)
    may = info is not None and not info.is_required() and info.default is None
    return None if may and isinstance(value, str) and value.lower() in ("none", "null", "~") else value


def check_whole(grid: Grid) -> None:
    """Raise GridError if the grid has cells whose method or data set does not exist."""
    if grid.absent:
        counts = Counter(cell.reason for cell in grid.absent)
        reasons = "; ".join(f"{reason} ({counted(count, 'cell')})" for reason, count in counts.items())
        raise GridError(f"the grid {grid.name} has cells that cannot be run: {reasons}. {_keep_others(grid)}")


def _keep_others(grid: Grid) -> str:
    """How to keep the cells that can be run."""
    if not grid.runs:
        return "It has no other cells"
    words: list[str] = []
    for field in ("method", "dataset"):
        if any(why_absent({field: cell.values.get(field)}) for cell in grid.absent):
            words += ["--only", f"{field}={listed(field, (getattr(spec, field) for spec in grid.runs), ',')}"]
    return f"Keep the others with {shlex.join(words)}"


def _assignments(option: str, texts: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        field, sign, value = text.partition("=")
        if not sign or not field or not value.strip():
            raise GridError(f"{option} {text}: must be FIELD=VALUE or FIELD=A,B, such as {option} seed=0-3")
        if field in found:
            both = option == "--only" or field in {*CELL, "seed"} - {"variant"}
            right = f"together they are {option} {field}={found[field]},{value}" if both else "give it once"
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
