"""Carries out the parsed command: shows a plan, sweeps or searches."""

from __future__ import annotations

import argparse
from collections.abc import Collection
from pathlib import Path

from rich.console import Console

from analysis.tracking_uri import sqlite_path
from rme.config import SpecError
from rme.data import DataError
from rme.hooks import HookError
from tune.plan.errors import GridError
from tune.plan.grid import Grid
from tune.plan.grid_options import check_whole, chosen_grid
from tune.plan.trials import ArraySize
from tune.run.checks import check_start, refusal
from tune.run.options import AUTO, Options, Resources
from tune.store.errors import CommandError
from tune.store.storage import Storage


def carry_out(asked: argparse.Namespace, options: Options, console: Console) -> int:
    """Carry out the command and return its exit status. Raises CommandError if that cannot be done."""
    try:
        return _carry_out(asked, options, console)
    except (SpecError, DataError, HookError) as error:
        raise CommandError(str(error)) from error


def _carry_out(asked: argparse.Namespace, options: Options, console: Console) -> int:
    grid = chosen_grid(options.grid, options.only, options.overrides, asked.dataset, asked.experiment)
    storage = Storage(options.storage)
    if not asked.plan:
        check_whole(grid)
        check_start(options, grid, storage)
    array_size = array_size_of(asked, options.resources, grid, storage)
    if asked.plan:
        try:
            return 2 if _show_plan(options, grid, array_size, storage, asked.json) else 0
        except SystemExit:  # rich's, where the reader of standard output has ended
            raise BrokenPipeError from None
    from tune.run.driver import sweep

    if options.search is None:
        return sweep(options, grid, array_size, storage, console).status
    from tune.search.search import search

    def train_parents(parents: Grid) -> int:
        return sweep(options, parents, array_size, storage, console).status

    return search(options, grid, storage, console, train_parents)


def _show_plan(options: Options, grid: Grid, array_size: ArraySize, storage: Storage, as_json: bool) -> bool:
    """Print the plan. Returns whether the sweep would be refused."""
    from tune.plan.cautions import cautions_of
    from tune.plan.show_plan import Questions, show_plan
    from tune.run.machine import compute_of

    def recorded() -> tuple[Collection[str], str | None]:
        path = sqlite_path(options.tracking_uri)
        if options.inline or (path is not None and not _has_runs(path)):  # MLflow takes seconds to import
            return (), None
        from tune.plan.conflicts import other_settings
        from tune.record.tracking import finished_without_creating, run_keys

        finished = finished_without_creating(options.tracking_uri, grid.name)
        return run_keys(finished), other_settings(grid, finished)

    def refused() -> str | None:
        try:
            check_whole(grid)
        except GridError as error:
            return str(error)
        return refusal(options, grid, storage)

    questions = Questions(recorded, refused, lambda: cautions_of(grid))
    compute = compute_of(options.resources, options.inline)
    return show_plan(grid, array_size, storage, compute, questions, as_json=as_json, retry_failed=options.retry_failed)


def _has_runs(path: Path) -> bool:
    """Whether a database exists and is not empty, in which MLflow would create its tables."""
    return path.exists() and path.stat().st_size > 0


def array_size_of(asked: argparse.Namespace, resources: Resources, grid: Grid, storage: Storage) -> ArraySize:
    """How many runs are trained as one array: a number, or a function of the run."""
    if grid.kind.alone:
        return 1
    if asked.members is None:
        return asked.seeds_per_trial or 2
    if asked.members != AUTO:
        return lambda spec: max(1, asked.members // spec.restarts)
    from rme.device import pick_device
    from tune.cost.array_size import measured

    device = pick_device("cpu" if resources.gpus == 0 else "auto")
    if resources.address is not None and device.type == "cpu" and resources.gpus != 0:
        raise GridError("--members auto measures on this machine, which has no GPU: give --members N")
    return measured(grid.with_parents(), storage, device, keep=not asked.plan)
