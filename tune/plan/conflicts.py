"""Checks before a sweep starts that its experiment holds no runs of the same cells with other settings."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING

from analysis.names import CELL, RUN_KEY
from rme import data
from rme.config import SCHEMA, RunSpec
from tune.plan.grid import Grid
from tune.record.commit import git_commit, short
from tune.store.errors import CommandError

if TYPE_CHECKING:
    from mlflow.entities import Run

_SHOWN = 5
"""How many differing fields an error names."""


class SettingsError(CommandError):
    """An experiment holds runs of the same cells with other settings."""


def check_settings(grid: Grid, finished: Iterable[Run]) -> None:
    """Raise SettingsError with the message of `other_settings`, if there is one."""
    if (message := other_settings(grid, finished)) is not None:
        raise SettingsError(message)


def other_settings(grid: Grid, finished: Iterable[Run]) -> str | None:
    """Why the grid's runs cannot be recorded beside the experiment's runs of the same cells; None if they can.

    A run that is recorded under one variant name cannot be recorded under another, so the name counts as a setting.

    Args:
        grid: the grid to run.
        finished: the experiment's finished MLflow runs.
    """
    runs = grid.with_parents()
    known = {spec.key for spec in runs}
    cells: dict[tuple[str, ...], RunSpec] = {}
    named: dict[frozenset[tuple[str, str]], RunSpec] = {}
    for spec in runs:
        settings = _settings(spec)
        cells.setdefault(_cell(settings), spec)  # a cell of a grid has one setting (tune.plan.clashes)
        named.setdefault(_nameless(settings), spec)
    seeds = {(spec.cell_key, str(spec.seed)) for spec in runs}
    found = []
    for run in finished:
        theirs = run.data.params
        same, of_cell = named.get(_nameless(theirs)), cells.get(_cell(theirs))
        differing: dict[str, tuple[str, str]] = {}
        if same is not None and same.variant != theirs.get("variant"):
            differing = {"variant": (theirs.get("variant", "none"), same.variant or "none")}
        elif of_cell is not None and run.data.tags[RUN_KEY] not in known:
            differing = _difference(theirs, _settings(of_cell))
            if not differing and (of_cell.cell_key, theirs.get("seed")) in seeds:
                differing = _difference_of_code(run, of_cell)
        if differing:
            found.append((run, differing))
    return _message(grid.name, found) if found else None


def _cell(values: dict[str, str]) -> tuple[str, ...]:
    return tuple(values.get(name, "") for name in CELL)


def _nameless(values: dict[str, str]) -> frozenset[tuple[str, str]]:
    """The settings that all runs of a cell share, without the variant's name."""
    return frozenset((name, value) for name, value in values.items() if name not in ("seed", "variant"))


def _settings(spec: RunSpec) -> dict[str, str]:
    return spec.params


def _difference(theirs: dict[str, str], ours: dict[str, str]) -> dict[str, tuple[str, str]]:
    names = [name for name in {**ours, **theirs} if name != "seed" and theirs.get(name) != ours.get(name)]
    return {name: (theirs.get(name, "not recorded"), ours.get(name, "unset")) for name in names}


def _difference_of_code(run: Run, spec: RunSpec) -> dict[str, tuple[str, str]]:
    """Why a run with the same settings has another key: the images or the code differ."""
    tags = run.data.tags
    ours = {"data": data.identity(spec.dataset), "schema": str(SCHEMA), "git_commit": git_commit()}
    differing = {name: (tags[name], value) for name, value in ours.items() if name in tags and tags[name] != value}
    return differing or {RUN_KEY: (tags[RUN_KEY], spec.key)}


def _message(experiment: str, found: list[tuple[Run, dict[str, tuple[str, str]]]]) -> str:
    changes: dict[str, set[str]] = defaultdict(set)
    for _, differing in found:
        for name, (theirs, ours) in differing.items():
            changes[name].add(f"{theirs} -> {ours}")
    listed = [f"{name} {' or '.join(sorted(values))}" for name, values in changes.items()]
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    commits = sorted({short(run.data.tags.get("git_commit", "unknown")) for run, _ in found})
    count = "1 finished run" if len(found) == 1 else f"{len(found)} finished runs"
    return (
        f"the experiment {experiment} holds {count} of these cells with other settings: {', '.join(listed[:_SHOWN])}"
        f"{more} (recorded by code {' and '.join(commits)}, this is {short(git_commit())}). One table cannot hold "
        "both: record these runs in another experiment with --experiment NAME, restore the settings, or give the "
        "grid's row a `variant`, a name that makes it a cell of its own"
    )
