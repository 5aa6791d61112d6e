"""Print committed results as Markdown: `python -m bench.table bench/results/*.json`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.harness import HEADINGS, cells

DEVICES = (1, 8, 64)
"""Numbers of devices for which the hours of the paper's grid are given."""

Table = tuple[Sequence[str], Sequence[Sequence[str]]]
"""Headings, and rows of as many cells."""


def markdown(result: dict[str, Any]) -> Iterator[str]:
    """Lines of one result: device, rows, and for `bench.growth` memory and hours."""
    yield f"{result['device']}, torch {result['torch']}"
    yield ""
    yield from _table(HEADINGS, [cells(row) for row in result["rows"]])
    if memory := result.get("memory"):
        yield ""
        yield from _table(*memory_table(memory))
    if hours := result.get("paper_hours"):
        yield ""
        yield from _table(*hours_table(hours))


def memory_table(peaks: Sequence[Mapping[str, Any]]) -> Table:
    """Peak memory, MiB."""
    lines = [(p["name"], f"{p['training_mib']:.0f}", f"{p['iwae_mib']:.0f}") for p in peaks]
    return ("peak memory, MiB", "training", "and IWAE"), lines


def hours_table(hours: Mapping[str, float]) -> Table:
    """Hours by data set, on one device and divided by several."""
    total = {**hours, "all": sum(hours.values())}
    lines = [(name, *(f"{value / n:,.0f}" for n in DEVICES)) for name, value in total.items()]
    return ("hours of --grid paper", *(f"on {n}" for n in DEVICES)), lines


def _table(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(headings) + " |"
    yield "|" + "---|" * len(headings)
    for line in lines:
        yield "| " + " | ".join(line) + " |"


def main(paths: Sequence[str]) -> None:
    """Print the tables of each file under its name. Exits, naming the file, if one is not a result."""
    if not paths:
        sys.exit("no files given; usage: python -m bench.table bench/results/*.json")
    for path in map(Path, paths):
        try:
            result = json.loads(path.read_text())
            lines = list(markdown(result))
        except (OSError, ValueError, KeyError, TypeError) as error:
            sys.exit(f"{path}: not a benchmark result: {type(error).__name__}: {error}")
        print(f"### {path.stem}", "", *lines, "", sep="\n")


if __name__ == "__main__":
    main(sys.argv[1:])
