"""One setting for each cell of an experiment: found out before a sweep starts, not when its tables are made."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable

from mlflow.entities import Run

from analysis.collect import CELL
from rme import data
from rme.config import SCHEMA, RunSpec
from tune.grid import Grid, with_parents
from tune.tracking import git_commit, params

_SHOWN = 5
"""Differing fields that an error names."""


class SettingsError(ValueError):
    """An experiment holds runs of the same cells with other settings."""


def check_settings(grid: Grid, finished: Iterable[Run], whole: Callable[[], Grid]) -> None:
    """Raises SettingsError with what `other_settings` says, if that is anything."""
    if (message := other_settings(grid, finished, whole)) is not None:
        raise SettingsError(message)


def other_settings(grid: Grid, finished: Iterable[Run], whole: Callable[[], Grid]) -> str | None:
    """What differs between the runs that an experiment holds and the grid's of the same cells; None if nothing.

    Args:
        grid: what is to be run.
        finished: the MLflow runs that are finished.
        whole: gives the grid without `--only`, whose runs may differ from one another as they like.
    """
    runs = with_parents(grid.runs)
    known = {spec.key for spec in runs}
    cells: dict[tuple[str, ...], dict[str, RunSpec]] = defaultdict(dict)
    for spec in runs:
        cells[_cell(_settings(spec))].setdefault(spec.cell_key, spec)
    seeds = {(spec.cell_key, str(spec.seed)) for spec in runs}
    found = []
    for run in finished:
        theirs = run.data.params
        of_cell = cells.get(_cell(theirs))
        if of_cell and run.data.tags["run_key"] not in known:
            options = [(spec, _difference(theirs, _settings(spec))) for spec in of_cell.values()]
            spec, differing = min(options, key=lambda option: len(option[1]))
            if not differing and (spec.cell_key, theirs.get("seed")) in seeds:
                differing = _difference_of_code(run, spec)
            if differing:
                found.append((run, differing))
    if found:
        allowed = {spec.key for spec in with_parents(whole().runs)}
        found = [(run, differing) for run, differing in found if run.data.tags["run_key"] not in allowed]
    return _say(grid.name, found) if found else None


def _cell(values: dict[str, str]) -> tuple[str, ...]:
    return tuple(values.get(name, "") for name in CELL)


def _settings(spec: RunSpec) -> dict[str, str]:
    return {param.key: param.value for param in params(spec)}


def _difference(theirs: dict[str, str], ours: dict[str, str]) -> dict[str, tuple[str, str]]:
    names = [name for name in {**ours, **theirs} if name != "seed" and theirs.get(name) != ours.get(name)]
    return {name: (theirs.get(name, "not recorded"), ours.get(name, "not there")) for name in names}


def _difference_of_code(run: Run, spec: RunSpec) -> dict[str, tuple[str, str]]:
    """Of a run with the same settings and another key: the images differ, or what the code makes of the settings."""
    tags = run.data.tags
    ours = {"data": data.identity(spec.dataset), "schema": str(SCHEMA), "git_commit": git_commit()}
    differing = {name: (tags[name], value) for name, value in ours.items() if name in tags and tags[name] != value}
    return differing or {"run_key": (tags["run_key"], spec.key)}


def _say(experiment: str, found: list[tuple[Run, dict[str, tuple[str, str]]]]) -> str:
    changes: dict[str, set[str]] = defaultdict(set)
    for _, differing in found:
        for name, (theirs, ours) in differing.items():
            changes[name].add(f"{theirs} -> {ours}")
    listed = [f"{name} {' or '.join(sorted(values))}" for name, values in changes.items()]
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    commits = sorted({run.data.tags.get("git_commit", "unknown")[:8] for run, _ in found})
    count = "1 finished run" if len(found) == 1 else f"{len(found)} finished runs"
    return (
        f"the experiment {experiment} holds {count} of these cells with other settings: {', '.join(listed[:_SHOWN])}"
        f"{more} (recorded by code {' and '.join(commits)}, this is {git_commit()[:8]}). One table cannot hold both: "
        f"say --experiment NAME to record these runs under another name, or leave the settings as they were"
    )
