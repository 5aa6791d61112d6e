"""What a sweep would do: which runs are done, and which trials it would train."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from rme.config import RunSpec
from tune.plan.cells import control_cells, paper_cells
from tune.plan.grid import AbsentCell, Grid
from tune.plan.trials import ArraySize, Trial, trials
from tune.store.failure import Failure, skipped
from tune.store.storage import Storage


@dataclass(frozen=True)
class Plan:
    """A grid, and which of its runs are done, failed or to be trained.

    Attributes:
        trials: all trials of the grid's runs and of the runs that they start from, done or not.
        recorded: keys of the runs that are finished in MLflow.
        on_storage: keys of the runs whose results are on the storage.
        absent_trials: how many trials the cells would make whose method or data set does not exist.
        held_back: by run key, the failures of runs that failed because of the run itself, and of runs that start from
            them. They are not trained.
        retried: with `--retry-failed`, keys of the failed runs: only they and what starts from them are trained.
    """

    grid: Grid
    trials: tuple[Trial, ...]
    recorded: frozenset[str]
    on_storage: frozenset[str]
    absent_trials: int
    held_back: Mapping[str, Failure] = field(default_factory=dict)
    retried: frozenset[str] | None = None

    @cached_property
    def to_train(self) -> list[Trial]:
        """The trials with a run that is missing, or that a missing run starts from; parents first."""
        needed = set()
        settled = self.recorded | self.on_storage | self.held_back.keys()
        for trial in reversed(self.trials):  # children come after their parents
            for key, spec in zip(trial.run_keys, trial.runs, strict=True):
                parent = spec.parent
                start = None if parent is None else parent.key
                missing = key not in settled
                if self.retried is not None:
                    missing = missing and (key in self.retried or start in self.retried)
                if missing or key in needed:
                    needed.add(key)
                    # a finished parent whose models were deleted is trained again
                    if start is not None and start not in self.on_storage:
                        needed.add(start)
        return [t for t in self.trials if not needed.isdisjoint(t.run_keys)]

    def is_done(self, spec: RunSpec) -> bool:
        """Whether MLflow or the storage has the run."""
        return spec.key in self.recorded or spec.key in self.on_storage

    @property
    def to_record(self) -> list[RunSpec]:
        """The runs whose result is on the storage but not in MLflow."""
        runs = [spec for trial in self.trials for spec in trial.runs]
        return [spec for spec in runs if spec.key in self.on_storage and spec.key not in self.recorded]

    def counts(self) -> dict[str, int]:
        """`grid_counts`, the number of its trials, and how many runs are done and would be trained."""
        wanted = {spec.key for spec in self.grid.runs}
        own = [t for t in self.trials if not wanted.isdisjoint(t.run_keys)]
        return {
            **grid_counts(self.grid),
            "trials": len(own) + self.absent_trials,
            "done_runs": len(wanted & (self.recorded | self.on_storage)),
            "to_train_trials": len(self.to_train),
            "to_train_runs": sum(len(t.runs) for t in self.to_train),
            "starting_points": len({key for t in self.trials for key in t.run_keys} - wanted),
        }


def grid_counts(grid: Grid) -> dict[str, int]:
    """How many cells, runs and trainings a grid has, including absent cells.

    `paper_cells` counts the cells in the paper's tables, `control_cells` those of a control.
    """
    runs, absent = grid.runs, grid.absent
    return {
        "cells": len({spec.cell_key for spec in runs}) + len(absent),
        "paper_cells": paper_cells(grid),
        "control_cells": control_cells(grid),
        "runs": len(runs) + sum(cell.seeds for cell in absent),
        "trainings": sum(spec.restarts for spec in runs) + sum(cell.seeds * cell.restarts for cell in absent),
    }


def make_plan(
    grid: Grid, seeds_per_trial: ArraySize, recorded: Collection[str], storage: Storage, retry_failed: bool = False
) -> Plan:
    """Group the grid's runs, and those that they start from, into trials, and look up which are done or failed.

    Trials are made of the whole grid, done or not, so that a resumed sweep finds the same arrays. With `retry_failed`
    only failed runs and what starts from them are trained; without it, these are held back.
    """
    runs = grid.with_parents()
    grouped = trials(runs, seeds_per_trial)
    keys = [key for trial in grouped for key in trial.run_keys]
    on_storage = frozenset(key for key in keys if storage.has_result(key))
    known = frozenset(recorded).intersection(keys)
    failures = storage.failures(set(keys) - known - on_storage)
    held_back = {} if retry_failed else with_children(failures, runs, known | on_storage)
    settled = known | on_storage | held_back.keys()
    grouped = [part for trial in grouped for part in _split_if_partly_done(trial, settled, storage)]
    return Plan(
        grid,
        tuple(grouped),
        known,
        on_storage,
        sum(_absent_trials(c, seeds_per_trial) for c in grid.absent),
        held_back,
        frozenset(failures) if retry_failed else None,
    )


def with_children(
    failures: Mapping[str, Failure], runs: Collection[RunSpec], done: Collection[str]
) -> dict[str, Failure]:
    """These failures, and those of the runs that start from a failed run. `runs` must have parents first."""
    if not failures:
        return {}
    found = dict(failures)
    names = {spec.key: spec.run_name for spec in runs}
    for spec in runs:
        if spec.parent is not None and spec.parent.key in found and spec.key not in done:
            found.setdefault(spec.key, Failure(skipped(names[spec.parent.key])))
    return found


def _split_if_partly_done(trial: Trial, done: Collection[str], storage: Storage) -> list[Trial]:
    """The trial; or, if it never began and some of its runs are settled, one trial of these and one of the others."""
    finished = tuple(spec for key, spec in zip(trial.run_keys, trial.runs, strict=True) if key in done)
    if len(finished) in (0, len(trial.runs)) or storage.trial_folder(trial.key).exists():
        return [trial]
    return [Trial(finished), Trial(tuple(spec for spec in trial.runs if spec.key not in done))]


def _absent_trials(cell: AbsentCell, seeds_per_trial: ArraySize) -> int:
    # the size of an array that cannot be run cannot be measured, so assume one trial
    return -(-cell.seeds // seeds_per_trial) if isinstance(seeds_per_trial, int) else 1
