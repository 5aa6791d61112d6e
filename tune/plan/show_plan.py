"""Prints a plan: what would run, how each row is trained, what is done, and the estimated hours."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from analysis.duration import duration
from analysis.rate_text import rate_text
from analysis.words import counted
from rme import data
from rme.device import device_name
from tune.cost import hours as estimate
from tune.plan import terms
from tune.plan.compute import Compute, number, unit_of
from tune.plan.grid import Grid
from tune.plan.plan import Plan, grid_counts, make_plan
from tune.plan.trials import ArraySize, Trial
from tune.store.errors import CommandError
from tune.store.storage import Storage

ByRow = Mapping[tuple[str, str], float]
"""Hours by (data set, row)."""


@dataclass(frozen=True)
class Questions:
    """What a plan asks that takes a while, or that rooms above this one know. Each is asked once.

    Attributes:
        recorded: the keys of the runs that MLflow has, and why its experiment refuses the sweep, or None.
        refusal: another reason why the sweep would be refused; None if there is none.
        cautions: warnings about the grid's settings.
    """

    recorded: Callable[[], tuple[Collection[str], str | None]] = lambda: ((), None)
    refusal: Callable[[], str | None] = lambda: None
    cautions: Callable[[], Sequence[str]] = tuple


@dataclass(frozen=True)
class Sums:
    """Estimated hours of the trials to train: in all, by data set and row, and the wall time on this machine."""

    total: float
    by_row: ByRow
    wall: float


def show_plan(
    grid: Grid,
    array_size: ArraySize,
    storage: Storage,
    compute: Compute,
    questions: Questions,
    *,
    as_json: bool = False,
    retry_failed: bool = False,
) -> bool:
    """Print the plan on standard output: the counts at once, then what has to be looked up or measured.

    Returns whether the sweep would be refused. Nothing is started or created, and progress is on standard error.
    """
    if not as_json:
        _print_grid(grid)
    refused = questions.refusal()
    try:
        recorded, other_settings = questions.recorded()
    except CommandError as error:  # MLflow cannot be read
        recorded, other_settings, refused = (), None, refused or str(error)
    plan = make_plan(grid, array_size, recorded, storage, retry_failed)
    rows = terms.rows(grid.with_parents()) if grid.kind.trains else []
    if not as_json:
        _print_counts(plan.counts())
        for reason in filter(None, (refused, other_settings)):  # before minutes of measuring
            _say(f"the sweep would be refused: {reason}", "red")
        _print_terms(rows)
    cautions = list(questions.cautions())
    most, least = _estimate(plan, compute)
    if as_json:
        print(json.dumps(_as_json(plan, compute, rows, most, least, cautions, other_settings, refused)))
    else:
        _print_hours(compute, most, least)
        _print_ends(plan, cautions)
    return refused is not None or other_settings is not None


def _estimate(plan: Plan, compute: Compute) -> tuple[Sums | None, Sums | None]:
    """The most and the least hours; None if nothing is to be trained, and for the least without patience."""
    trials = plan.to_train
    if not (trials and plan.grid.kind.trains):
        return None, None
    found = estimate.trial_hours([trial.runs for trial in trials], compute.device)
    most = _sums(trials, [hours.most for hours in found], compute)
    patient = any(spec.own_patience is not None for trial in trials for spec in trial.runs)
    return most, _sums(trials, [hours.least for hours in found], compute) if patient else None


def _sums(trials: Sequence[Trial], hours: Sequence[float], compute: Compute) -> Sums:
    by_row: dict[tuple[str, str], float] = defaultdict(float)
    for trial, own in zip(trials, hours, strict=True):
        by_row[data.label(trial.runs[0].dataset), trial.runs[0].method_label] += own
    by_trial = {trial.key: own for trial, own in zip(trials, hours, strict=True)}
    return Sums(sum(hours), dict(by_row), compute.wall_hours(by_trial, trials))


def _as_json(
    plan: Plan,
    compute: Compute,
    rows: Sequence[terms.Row],
    most: Sums | None,
    least: Sums | None,
    cautions: list[str],
    other_settings: str | None,
    refused: str | None,
) -> dict[str, object]:
    by_row = sorted(most.by_row.items()) if most else []
    return {
        "grid": plan.grid.name, **plan.counts(),
        "hours": round(most.total, 3) if most else 0,
        "hours_by": [{"dataset": d, "method": m, "hours": round(hours, 3)} for (d, m), hours in by_row],
        "hours_if_patience_ends_all": round(least.total, 3) if least else None,
        "unit": f"{compute.resource}-hours", "device": device_name(compute.device),
        "available": compute.available, "trials_at_once": compute.at_once,
        "wall_hours": round(most.wall, 3) if most else 0,
        "wall_hours_if_patience_ends_all": round(least.wall, 3) if least else None,
        "rows": [row.as_json() for row in rows],
        "cells_without_estimate": len(plan.grid.absent), "absent": _absent(plan.grid),
        "warnings": cautions, "other_settings": other_settings, "refused": refused or other_settings,
    }  # fmt: skip


def _absent(grid: Grid) -> list[str]:
    return sorted({cell.reason for cell in grid.absent})


# ---------------------------------------------------------------------- text
def _say(text: str, style: str | None = None) -> None:
    """Print one line, or several, at once: elsewhere than in a terminal, output waits until there is enough of it."""
    console = Console()
    console.print(text, markup=False, highlight=False, soft_wrap=not console.is_terminal, style=style)
    sys.stdout.flush()


def _print_grid(grid: Grid) -> None:
    counts = grid_counts(grid)
    groups = [f"{counts[kind]:,} {name}" for kind, name in _GROUPS.items() if counts[kind]]
    _say(": ".join(filter(None, (grid.name, grid.description))))
    of_them = f" ({', '.join(groups)})" if groups else ""
    cells, runs, trainings = (counted(counts[name], name[:-1]) for name in ("cells", "runs", "trainings"))
    _say(f"{cells}{of_them}, {runs}, {trainings}")


_GROUPS = {"paper_cells": "of the paper", "control_cells": "of a control"}


def _print_counts(counts: Mapping[str, int]) -> None:
    trials, runs = counted(counts["to_train_trials"], "trial"), counted(counts["to_train_runs"], "run")
    starts = counts["starting_points"]
    _say(
        f"{counted(counts['trials'], 'trial')}; {counts['done_runs']:,} of the runs are done; {runs} in {trials} "
        f"would be trained{f', with {starts:,} that others start from' if starts else ''}"
    )


def _print_terms(rows: Sequence[terms.Row]) -> None:
    if rows:
        _say("\nhow each row is trained: its start, epochs and learning rate, and which epoch is kept")
        Console().print(_terms_table(rows))
        sys.stdout.flush()


def _print_hours(compute: Compute, most: Sums | None, least: Sums | None) -> None:
    if most is None:
        return
    where = f"on {device_name(compute.device)}"
    bound = "upper bound: no patience ends a training early" if least else ""
    _print_sums(most, compute, where, bound)
    if least is not None:
        _print_sums(least, compute, where, "lower bound: each training ends as soon as its patience allows")
    _say(
        "measured: steps and scores of each method at its lowest and highest order, on random 28x28 images; orders "
        "between from their FLOPs, other images from a VAE's steps"
    )


def _print_sums(sums: Sums, compute: Compute, where: str, bound: str) -> None:
    unit = unit_of(list(sums.by_row.values()))
    _say(f"\n{compute.resource}-{unit} {where}, from measured step times{f'; {bound}' if bound else ''}")
    Console().print(_hours_table(sums.by_row, unit))
    whole = unit_of([sums.total])
    total = f"{number(sums.total, whole)} {compute.resource}-{whole}"
    if whole in ("days", "years"):
        total += f" ({number(sums.total, 'hours')} {compute.resource}-hours)"
    _say(f"in all {total}; on {compute.here}: about {duration(3600 * sums.wall)}")


def _print_ends(plan: Plan, cautions: Sequence[str]) -> None:
    for caution in cautions:
        _say(f"warning: {caution}", "yellow")
    for reason in _absent(plan.grid):
        _say(f"cannot be run yet: {reason}")
    if plan.held_back:
        _say(f"{len(plan.held_back)} runs failed, or start from a failed run: --retry-failed trains them again")


def _terms_table(rows: Sequence[terms.Row]) -> Table:
    """A line for each way in which a row is trained; if there are several, it names data sets and decoders."""
    labels = [row.terms.method for row in rows]
    finish = any(row.terms.finish and row.terms.start_learning_rate is None for row in rows)
    patience = any(row.terms.patience is not None for row in rows)
    columns = [
        "",
        "starts from",
        "epochs",
        "rate",
        *(["finish"] if finish else []),
        "keeps",
        *(["patience"] if patience else []),
    ]
    table = Table(*columns)
    for row in rows:
        t = row.terms
        alone = labels.count(t.method) == 1
        name = t.method if alone else f"{t.method} ({', '.join(row.datasets)}; {', '.join(row.decoders)})"
        own = [f"{t.epochs:,}", rate_text(t.learning_rate)] if t.learning_rate is not None else ["not trained", ""]
        cells = [name, t.start, *own]
        if finish:
            cells.append(t.finish if t.start_learning_rate is None else "")
        cells.append(t.keep if t.epochs else "")
        if patience:
            cells.append("" if t.patience is None else f"{t.patience:,}")
        table.add_row(*cells)
    return table


def _hours_table(hours: ByRow, unit: str) -> Table:
    """Rows of methods, columns of data sets, with their sums."""
    datasets = list(dict.fromkeys(dataset for dataset, _ in hours))
    columns = [*datasets, "all"] if len(datasets) > 1 else datasets
    table = Table("", *columns, show_footer=True)
    table.columns[0].footer = "all"

    def cells(chosen: ByRow) -> list[str]:
        of = {d: [value for (dataset, _), value in chosen.items() if dataset == d] for d in datasets}
        sums = [number(sum(values), unit) if values else "" for values in of.values()]
        return [*sums, number(sum(chosen.values()), unit)] if len(datasets) > 1 else sums

    for column, footer in zip(table.columns[1:], cells(hours), strict=True):
        column.justify = "right"
        column.footer = footer
    for method in dict.fromkeys(method for _, method in hours):
        table.add_row(method, *cells({key: value for key, value in hours.items() if key[1] == method}))
    return table
