"""Warnings about settings that are likely to mislead: rows of a column that are not on equal terms, or too few runs.

They need no scores, so a grid has them before it is trained (`tune.plan.cautions`), and a report of what was trained.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations, count
from typing import Any

import pandas as pd

from analysis.cells import cell_of
from analysis.names import BASELINE, CELL, COLUMN, CONTROL, CONTROLS
from analysis.rate_text import rate_text
from analysis.signed_rank import LEVEL, smallest_p
from analysis.stats import natural
from analysis.tables import DATASETS
from analysis.trainings import Key, Training, equal_control, key_of, start_of, training_of
from analysis.words import counted

PAPER_RESTARTS = 3
"""Trainings of each run in the paper, of which validation chooses one (supplement, section 1.4)."""

FAR_BELOW_A_STAGE, FAR_BELOW_THE_START = 100, 1000
"""So many times smaller must epochs x rate of a stage be than those of another stage, or than those of its VAE."""

_ALMOST = 1 - 1e-9  # rates are decimal fractions

ROWS_SHOWN, COLUMNS_SHOWN = 6, 3
"""How many rows and columns a warning lists by name."""

Place = tuple[str, int, str]
"""Data set's label, dim and decoder: a column."""


@dataclass(frozen=True)
class _Column:
    """One column: its data set's name, and of each row its training, its label and its seeds."""

    place: Place
    dataset: str
    trainings: Mapping[Key, Training]
    labels: Mapping[Key, str]
    seeds: Mapping[Key, frozenset[int]]


def cautions(runs: pd.DataFrame) -> list[str]:
    """Warnings about these runs, one line each: what may mislead, in which rows and columns, and what to do.

    - A stage is barely trained beside the VAE that it starts from, or beside another stage of its column.
    - A row with a stage has no equal control (`analysis.trainings.equal_control`).
    - A row from scratch is trained otherwise than the VAE; a row starts from a VAE that is not among the runs.
    - A row has fewer restarts than the paper, or fewer seeds in common with others than a test needs.

    Rows and columns with the same warning share a line. Runs without epochs, which are timings, are left out.

    Args:
        runs: one row for each run, as from `analysis.collect.collect`; scores are not needed.
    """
    if "epochs" not in runs:
        return []
    columns = list(_columns(runs[runs["epochs"].notna()]))
    found: dict[tuple[int, str], dict[str, set[Place]]] = {}
    for number, check in enumerate((_barely_trained, _without_control, _unequal, _few_seeds, _few_restarts)):
        of_check: dict[tuple[int, str], dict[str, set[Place]]] = defaultdict(lambda: defaultdict(set))
        for column in columns:
            for key, text in check(column):
                of_check[number, text][column.labels[key]].add(column.place)
        found |= of_check
    present: dict[str, set[Place]] = defaultdict(set)
    for column in columns:
        for label in column.labels.values():
            present[label].add(column.place)
    return [line for (_, text), rows in found.items() for line in _lines(text, rows, present)]


def _columns(runs: pd.DataFrame) -> Iterator[_Column]:
    seeds: dict[tuple[Any, ...], set[int]] = defaultdict(set)
    for *cell, seed in runs[[*CELL, "seed"]].itertuples(index=False, name=None):
        seeds[tuple(None if pd.isna(value) else value for value in cell)].add(seed)
    cells: dict[tuple[Any, ...], dict[Key, dict[Any, Any]]] = defaultdict(dict)
    for run in runs.drop_duplicates(CELL).to_dict("records"):
        cells[cell_of(run, COLUMN)][key_of(run)] = run
    for rows in cells.values():
        first = next(iter(rows.values()))
        yield _Column(
            (str(first["dataset_label"]), int(first["dim"]), str(first["decoder"])),
            str(first["dataset"]),
            {key: training_of(run) for key, run in rows.items()},
            {key: str(run["method_label"]) for key, run in rows.items()},
            {key: frozenset(seeds[cell_of(run)]) for key, run in rows.items()},
        )


# ---------------------------------------------------------------------- the checks: (row, text) of each warning
Found = Iterator[tuple[Key, str]]


def _barely_trained(column: _Column) -> Found:
    stages = {key: t for key, t in column.trainings.items() if t.stage_epochs and t.stage_rate}
    for key, own in stages.items():
        start = (own.epochs or 0) * (own.learning_rate or 0.0) / _length(own)
        # a control is not what others are compared with, unless it is trained alike
        others = {row: _length(t) / _length(own) for row, t in stages.items() if row[0] not in CONTROLS}
        beside = max(others, key=lambda row: others[row], default=None)
        if start >= FAR_BELOW_THE_START * _ALMOST:
            yield (
                key,
                (
                    f"barely trained: its stage, {_stage(own)}, is 1/{start:,.0f} of the VAE's "
                    f"{counted(own.epochs or 0, 'epoch')} at {rate_text(own.learning_rate)} (epochs x rate) "
                    "and may change little; raise stage_learning_rate or stage_epochs, or compare it only with its "
                    "control"
                ),
            )
        elif beside is not None and others[beside] >= FAR_BELOW_A_STAGE * _ALMOST:
            yield (
                key,
                (
                    f"unequal stages: {_stage(own)} is 1/{others[beside]:,.0f} of {column.labels[beside]}'s "
                    f"{_stage(stages[beside])} (epochs x rate), so a difference between them may be due to the "
                    "training alone; compare each with its control, or add rows with one stage for all"
                ),
            )


def _without_control(column: _Column) -> Found:
    for key, own in column.trainings.items():
        if own.stage_epochs and key[0] not in CONTROLS and equal_control(key, column.trainings) is None:
            name = ", variant: NAME" if any(row[0] == CONTROL for row in column.trainings) else ""
            yield (
                key,
                (
                    f"no control: no {CONTROL} among these runs has its stage, {_stage(own)}, so a gain may be due to "
                    f"the additional training alone; add a row {{method: {CONTROL}, stage_epochs: {own.stage_epochs}, "
                    f"stage_learning_rate: {rate_text(own.stage_rate)}{name}}}"
                ),
            )


def _unequal(column: _Column) -> Found:
    vaes = sorted((key for key in column.trainings if key[0] == BASELINE), key=lambda key: natural(key[2]))
    if not vaes:
        return
    name, vae = column.labels[vaes[0]], column.trainings[vaes[0]]
    for key, own in column.trainings.items():
        if own.staged and start_of(key, column.trainings) is None:
            yield (
                key,
                (
                    f"another start: its VAE has {_differences(own, vae)} as the row {name} has, and is not among the "
                    "runs; train both alike"
                ),
            )
        elif not own.staged and key[0] != BASELINE and equal_control(key, column.trainings) is None:
            yield (
                key,
                (
                    f"unequal terms: {_differences(own, vae)} as {name} has; train both alike, or add a row of the VAE "
                    "with these settings and a variant"
                ),
            )


def _few_seeds(column: _Column) -> Found:
    if len(column.seeds) < 2:  # nothing is compared
        return
    needed = next(n for n in count(1) if smallest_p(n) <= LEVEL)
    for key, own in column.seeds.items():
        pairs = max(len(own & seeds) for other, seeds in column.seeds.items() if other != key)
        if pairs < needed:
            shared = "" if pairs == len(own) else f", {pairs} of them in common with another row"
            yield (
                key,
                (
                    f"too few seeds: {counted(len(own), 'seed')}{shared}; a test needs at least {needed} pairs for "
                    f"p ≤ {LEVEL}, so train at least {needed} seeds"
                ),
            )


def _few_restarts(column: _Column) -> Found:
    if column.dataset not in DATASETS:  # the paper's
        return
    for key, own in column.trainings.items():
        restarts = own.rest[0]
        if restarts is not None and int(restarts) < PAPER_RESTARTS:
            yield (
                key,
                (
                    f"{counted(int(restarts), 'restart')} where the paper has {PAPER_RESTARTS}, of which validation "
                    f"chooses one: scores can be lower than the paper's; set restarts={PAPER_RESTARTS} to compare "
                    "with it"
                ),
            )


def _length(training: Training) -> float:
    """Epochs x rate of a stage: in proportion to how far Adam can move a parameter, about its rate at each step."""
    return training.stage_epochs * (training.stage_rate or 0.0)


def _stage(training: Training) -> str:
    return f"{counted(training.stage_epochs, 'epoch')} at {rate_text(training.stage_rate)}"


def _differences(own: Training, vae: Training) -> str:
    """In which settings a training from scratch, or a row's start, differs from the VAE's: `epochs 68, not 60`."""
    restarts, batch_size, precision = zip(own.rest, vae.rest, strict=True)
    both = {
        "epochs": (own.epochs, vae.epochs),
        "rate": (rate_text(own.learning_rate), rate_text(vae.learning_rate)),
        "finish_epochs": (own.finish_epochs, vae.finish_epochs),
        "finish rate": (rate_text(own.finish_rate), rate_text(vae.finish_rate)),
        "keep": (own.keep, vae.keep),
        "patience": (own.patience, vae.patience),
        "restarts": restarts,
        "batch_size": batch_size,
        "precision": precision,
    }
    return ", ".join(f"{name} {a or 'none'}, not {b or 'none'}" for name, (a, b) in both.items() if a != b)


# ---------------------------------------------------------------------- in words
def _lines(text: str, rows: Mapping[str, Collection[Place]], present: Mapping[str, Collection[Place]]) -> Iterator[str]:
    """`ROWS COLUMNS: TEXT`, one line for the rows that have the warning in the same columns."""
    groups: dict[str, list[str]] = defaultdict(list)
    for label, places in rows.items():
        groups[_where(places, present[label])].append(label)
    for where, labels in groups.items():
        names = "all rows" if len(labels) == len(present) > 1 else _listed(_names(labels), ROWS_SHOWN, "rows")
        yield f"{names}{where}: {text}"


def _listed(names: list[str], most: int, kind: str) -> str:
    """The first names, and how many more there are. `;` separates names of which one has a variant."""
    more = len(names) - most
    shown = names if more <= 1 else [*names[:most], f"{more} more {kind}"]
    variants = any(", " in re.sub(r"\(.*?\)", "", name) for name in shown)
    return ("; " if variants else ", ").join(shown)


def _names(labels: Collection[str]) -> list[str]:
    """Short names of these rows: `ME(2)` and `ME(3)` become `ME(2, 3)`."""
    orders: dict[tuple[str, str], list[str]] = defaultdict(list)
    for label in labels:
        plain, comma, variant = label.partition(", ")
        method, bracket, order = plain.removesuffix(")").rpartition("(")
        orders[(method if bracket else plain), comma + variant] += [order] if bracket else []
    return [f"{name}({', '.join(found)}){rest}" if found else name + rest for (name, rest), found in orders.items()]


_FIELDS = (" in ", " at dim ", " with decoder ")
"""What comes before the values of each field of a `Place`."""


def _where(places: Collection[Place], present: Collection[Place]) -> str:
    """In which of the columns that these rows have a warning applies; empty: in all."""
    places, present = set(places), set(present)
    if places == present:
        return ""
    for n in (1, 2, 3):  # by as few fields as possible: ` in MNIST`, ` in MNIST at dim 10`
        for fields in combinations(range(3), n):
            values = {field: {place[field] for place in places} for field in fields}
            if {place for place in present if all(place[f] in values[f] for f in fields)} == places:
                return "".join(_FIELDS[f] + " and ".join(map(str, sorted(values[f]))) for f in fields)
    names = [f"{dataset} d{dim}" + ("" if decoder == "conv" else f" {decoder}") for dataset, dim, decoder in places]
    return f" in {_listed(sorted(names), COLUMNS_SHOWN, 'columns')}"
