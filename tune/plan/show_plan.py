"""Prints a plan: what would run, how each row is trained, what is done, and the estimated hours."""

from __future__ import annotations

import json
from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from analysis.rate_text import rate_text
from tune.cost import hours as estimate
from tune.plan import terms
from tune.plan.plan import Plan

Hours = Mapping[tuple[str, str], float]
"""By (data set, row)."""


def show_plan(plan: Plan, as_json: bool, other_settings: str | None) -> None:
    """Print the plan on standard output.

    Args:
        plan: what to print.
        as_json: whether to print one JSON object.
        other_settings: why the sweep would be refused because of its experiment's runs; None if it would start.
    """
    training = plan.grid.kind.trains
    arrays = [trial.runs for trial in plan.to_train]
    hours = estimate.hours(arrays) if training else {}
    patient = any(spec.own_patience is not None for trial in plan.to_train for spec in trial.runs)
    earliest = estimate.hours(arrays, earliest=True) if training and patient else None
    rows = terms.rows(plan.grid.with_parents()) if training else []
    absent = sorted({cell.reason for cell in plan.grid.absent})
    counts = plan.counts()
    if as_json:
        about = {
            "grid": plan.grid.name, **counts, "hours": _sum(hours), "hours_by": _by_kind(hours),
            "hours_if_patience_ends_all": None if earliest is None else _sum(earliest),
            "rows": [row.as_json() for row in rows],
            "cells_without_estimate": len(plan.grid.absent), "absent": absent, "other_settings": other_settings,
        }  # fmt: skip
        print(json.dumps(about))
        return
    out = Console()
    groups = [f"{counts[kind]:,} {name}" for kind, name in _GROUPS.items() if counts[kind]]
    out.print(": ".join(filter(None, (plan.grid.name, plan.grid.description))), highlight=False)
    out.print(
        "{cells} cells{groups}, {runs} runs, {trainings} trainings in {trials} trials".format(
            **counts, groups=f" ({', '.join(groups)})" if groups else ""
        ),
        highlight=False,
    )
    out.print(
        "{done_runs} runs are done; {to_train_runs} runs in {to_train_trials} trials would be trained".format(**counts),
        highlight=False,
    )
    if counts["starting_points"]:
        out.print("{starting_points} more runs serve as starting points".format(**counts), highlight=False)
    if rows:
        out.print(
            "\nhow each row is trained: its start, epochs and learning rate, and which epoch is kept",
            highlight=False,
        )
        out.print(_terms_table(rows))
    if hours:
        bound = "; upper bound: no patience ends a training early" if patient else ""
        out.print(f"\ncore-hours (GPU-hours) on this machine, from measured step times{bound}", highlight=False)
        out.print(_hours_table(hours))
    if earliest:
        out.print("\nlower bound: each training ends as soon as its patience allows")
        out.print(_hours_table(earliest))
    for reason in absent:
        out.print(f"cannot be run yet: {reason}", highlight=False)
    if plan.held_back:
        out.print(f"{len(plan.held_back)} runs failed, or start from a failed run: --retry-failed trains them again")
    if other_settings is not None:
        refused = f"the sweep would be refused: {other_settings}"
        out.print(refused, markup=False, highlight=False, soft_wrap=True, style="red")


_GROUPS = {"paper_cells": "of the paper", "control_cells": "of a control"}


def _sum(hours: Hours) -> float:
    return round(sum(hours.values()), 3)


def _by_kind(hours: Hours) -> list[dict[str, object]]:
    return [{"dataset": d, "method": m, "hours": round(value, 3)} for (d, m), value in sorted(hours.items())]


def _terms_table(rows: list[terms.Row]) -> Table:
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


def _hours_table(hours: Hours) -> Table:
    datasets = list(dict.fromkeys(dataset for dataset, _ in hours))
    table = Table("", *datasets, show_footer=True)
    table.columns[0].footer = "all"
    for column, dataset in zip(table.columns[1:], datasets, strict=True):
        column.justify = "right"
        column.footer = f"{sum(value for (d, _), value in hours.items() if d == dataset):,.1f}"
    for method in dict.fromkeys(method for _, method in hours):
        values = [hours.get((dataset, method)) for dataset in datasets]
        table.add_row(method, *("" if value is None else f"{value:,.1f}" for value in values))
    return table
