"""What a sweep would do: which runs are done, which trials are to be trained, and what that takes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from rme.config import RunSpec
from tune.plan.grid import AbsentCell, ArraySize, Grid, Trial, trials
from tune.store.failure import Failure, skipped
from tune.store.storage import Storage


@dataclass(frozen=True)
class Plan:
    """A grid held against what is there.

    Attributes:
        trials: all trials of the grid's runs and of what they start from, done or not.
        recorded: keys of runs that MLflow has, finished.
        on_storage: keys of runs whose results are on the storage.
        absent: cells whose method or data set is not there, and in how many trials they would be trained.
        held_back: failures, by key, of runs that failed before and would again, and of those that start from them.
        retried: keys of runs that failed before, if they and what starts from them are all that is to be trained.
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
        """Trials of which a run is wanted, or started from, and is nowhere yet; parents first."""
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
        """Runs that have a result on the storage and are not in MLflow."""
        runs = [spec for trial in self.trials for spec in trial.runs]
        return [spec for spec in runs if spec.key in self.on_storage and spec.key not in self.recorded]

    def counts(self) -> dict[str, int]:
        """Of the grid as it is written, with what is absent: cells, runs, trainings, trials; and how it stands.

        Of the cells, how many the paper's tables have, and how many are a control's.
        """
        from tune.plan.cells import control_cells, paper_cells  # takes pandas, which a sweep that starts needs not yet

        runs, absent = self.grid.runs, self.grid.absent
        wanted = {spec.key for spec in runs}
        own = [t for t in self.trials if not wanted.isdisjoint(t.run_keys)]
        return {
            "cells": len({spec.cell_key for spec in runs}) + len(absent),
            "paper_cells": paper_cells(self.grid),
            "control_cells": control_cells(self.grid),
            "runs": len(runs) + sum(cell.seeds for cell in absent),
            "trainings": sum(spec.restarts for spec in runs) + sum(cell.seeds * cell.restarts for cell in absent),
            "trials": len(own) + self.absent_trials,
            "done_runs": len(wanted & self.recorded),
            "to_train_trials": len(self.to_train),
            "to_train_runs": sum(len(t.runs) for t in self.to_train),
            "starting_points": len({key for t in self.trials for key in t.run_keys} - wanted),
        }


def make_plan(
    grid: Grid, seeds_per_trial: ArraySize, recorded: Collection[str], storage: Storage, retry_failed: bool = False
) -> Plan:
    """Group the grid's runs, and what they start from, into trials, and look up what is there.

    Trials are made of the whole grid, done or not, so that a sweep that goes on finds its arrays as they were. With
    `retry_failed`, what failed before is all that is to be trained; without it, it is left alone.
    """
    runs = grid.with_parents()
    grouped = trials(runs, seeds_per_trial)
    keys = [key for trial in grouped for key in trial.run_keys]
    on_storage = frozenset(key for key in keys if storage.has_result(key))
    known = frozenset(recorded).intersection(keys)
    failures = storage.failures(set(keys) - known - on_storage)
    held_back = {} if retry_failed else with_children(failures, runs, known | on_storage)
    settled = known | on_storage | held_back.keys()
    grouped = [part for trial in grouped for part in _unfinished_part(trial, settled, storage)]
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
    """These failures, and of the runs that cannot start because of them; `runs` has parents first."""
    if not failures:
        return {}
    found = dict(failures)
    names = {spec.key: spec.run_name for spec in runs}
    for spec in runs:
        if spec.parent is not None and spec.parent.key in found and spec.key not in done:
            found.setdefault(spec.key, Failure(skipped(names[spec.parent.key])))
    return found


def _unfinished_part(trial: Trial, done: Collection[str], storage: Storage) -> list[Trial]:
    """The trial, or, if some of its runs were finished in another array and it never began, its two parts."""
    finished = tuple(spec for key, spec in zip(trial.run_keys, trial.runs, strict=True) if key in done)
    if len(finished) in (0, len(trial.runs)) or storage.trial_folder(trial.key).exists():
        return [trial]
    return [Trial(finished), Trial(tuple(spec for spec in trial.runs if spec.key not in done))]


def _absent_trials(cell: AbsentCell, seeds_per_trial: ArraySize) -> int:
    # what cannot be run cannot be timed, so one array is as good a guess as another
    return -(-cell.seeds // seeds_per_trial) if isinstance(seeds_per_trial, int) else 1
