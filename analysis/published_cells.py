"""Which cells the paper has numbers for. Needs no pandas, unlike the numbers themselves (`analysis.paper`)."""

from __future__ import annotations

import csv
from pathlib import Path

FOLDER = Path(__file__).parent / "published"

SCORES, TIMES = "log_likelihood.csv", "inference_time.csv"
"""The files of Tables 5 and 7-11, and of Tables 4 and 6."""

Cell = tuple[str, int | None, str, int, str]
"""Method, order, data set, dim and decoder, by this project's names."""


def published_cells(name: str) -> set[Cell]:
    """The cells of a file of the folder: SCORES or TIMES."""
    with open(FOLDER / name, newline="") as file:
        return {
            (
                row["method"].lower(),
                int(row["order"]) if row["order"] else None,
                row["dataset"].lower(),
                int(row["dim"]),
                row["decoder"],
            )
            for row in csv.DictReader(file)
        }
