"""What the page's section "How it was run" shows: the runs' conditions, settings, compute, and what is missing."""

from __future__ import annotations

import pandas as pd

from analysis.conditions import compute_listing, compute_text, dataset_listing, device_seconds, model_facts, unit_of
from analysis.duration import duration
from analysis.listing import Listing
from analysis.methods_text import Paragraph, methods_paragraph
from analysis.names import CELL
from analysis.runs import COLUMNS, SETTINGS
from analysis.stats import summarise
from analysis.tables import fullest, sort_rows
from analysis.time_tables import is_timing

_NOT_SETTINGS = set(COLUMNS) - set(SETTINGS)
_MADE_WITH = {
    "git_commit": "Commit", "device": "Device", "torch_version": "PyTorch", "python_version": "Python",
}  # fmt: skip
_ALWAYS = ("git_commit", "device", "torch_version")
"""Columns of `_MADE_WITH` that are shown even if no run has recorded them."""


def condition_lists(runs: pd.DataFrame) -> list[Listing]:
    """Lists of the data sets, and of each row's parameters and compute; of timings none."""
    trained = runs[~is_timing(runs)]
    return [] if trained.empty else [dataset_listing(trained), compute_listing(trained)]


def paragraph_of(runs: pd.DataFrame, score: str) -> Paragraph | None:
    """The paragraph for a paper; None without trainings."""
    trained = runs[~is_timing(runs)]
    return None if trained.empty else methods_paragraph(trained, score)


def how_it_was_run(
    runs: pd.DataFrame, failed: pd.DataFrame, score: str, expected_seeds: int | None
) -> dict[str, object]:
    """The variables of the page's template that say how the runs were made.

    Args:
        runs: one row for each run, as `analysis.collect.collect` returns them.
        failed: failed runs, as `analysis.collect.failures` returns them.
        score: the score that methods are compared by.
        expected_seeds: runs of a complete cell; by default as many as the fullest cell has.
    """
    trained = runs[~is_timing(runs)]
    seconds = trained["train_s"].sum()
    compute = compute_text(float(device_seconds(trained).sum()), unit_of(trained))
    settings = {name: _distinct(runs[name]) for name in runs.columns if name not in _NOT_SETTINGS}
    return {
        "n_runs": len(runs),
        "commands": list(runs.sort_values("start_time")["command"].dropna().unique()),
        "first": _day(runs["start_time"].min()),
        "last": _day(runs["start_time"].max()),
        "trained_for": None if trained.empty else f"{duration(seconds)} of training",
        "compute": None if trained.empty or not unit_of(trained) else compute,
        "untimed": int(trained["train_s"].isna().sum()),
        "seeds": _ranges(sorted(int(seed) for seed in runs["seed"].unique())),
        "model_facts": {} if trained.empty else model_facts(trained),
        "made_with": {
            title: runs[name].astype(object).fillna("not recorded").value_counts().to_dict()
            for name, title in _MADE_WITH.items()
            if name in _ALWAYS or runs[name].notna().any()
        },
        "settings": {name: values for name, values in settings.items() if values},
        "paragraph": paragraph_of(runs, score),
        "failed": sort_rows(failed).to_dict("records"),
        "missing": _missing(runs, failed, score, expected_seeds),
    }


def _day(time: pd.Timestamp) -> str:
    return "at an unknown time" if pd.isna(time) else f"{time:%Y-%m-%d}"


def _distinct(values: pd.Series) -> list[str]:
    return sorted({str(value) for value in values.dropna()}, key=_number_first)


def _number_first(text: str) -> tuple[int, float, str]:
    """A sort key: numbers by size, then words."""
    try:
        return (0, float(text), text)
    except ValueError:
        return (1, 0.0, text)


def _ranges(numbers: list[int]) -> str:
    """`0 to 7, 10` of ascending numbers."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(f"{part[0]} to {part[-1]}" if len(part) > 2 else ", ".join(map(str, part)) for part in parts)


def _missing(
    runs: pd.DataFrame, failed: pd.DataFrame, score: str, expected_seeds: int | None
) -> list[dict[str, object]]:
    """The cells with fewer scores than expected, including those whose runs all failed."""
    scores = pd.Series(runs[score].where(~is_timing(runs), runs["inference_ms"]), name="score")
    both = pd.concat([runs.assign(score=scores), failed.assign(score=float("nan"))], ignore_index=True)
    both = both.drop_duplicates([*CELL, "seed"])  # a finished run counts, even if it failed with another setting
    cells = sort_rows(summarise(both, "score"))
    expected = expected_seeds or fullest(runs)
    seeds = set(both["seed"])
    return [
        {"cell": cell, "expected": expected, "seeds": sorted(seeds - set(cell["seeds"]))}
        for _, cell in cells[cells["n"] < expected].iterrows()
    ]
