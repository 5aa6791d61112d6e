"""Writes a sweep's runs to MLflow, one at a time, each under its cell's lock."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from rme.config import RunSpec
from rme.result import Result
from rme.timing import Timing
from tune.record.tracking import Tracker
from tune.store.failure import Failure
from tune.store.storage import Storage

LOCK_PATIENCE_S = 10.0
"""How long another sweep may take to record a run before it is tried again later."""


@dataclass(frozen=True)
class Written:
    """A run that is in MLflow now.

    Attributes:
        metrics: its own, by MLflow's names.
        to_show: whether its pictures should take the place of those that its cell has.
    """

    metrics: dict[str, float]
    to_show: bool = False


@dataclass
class Writer:
    """Writes to one experiment what lies on the storage.

    Errors of MLflow's stores and of the storage pass through; calling again is always safe (`tune.record.tracking`).
    """

    uri: str
    experiment: str
    command: str
    storage: Storage

    @cached_property
    def tracker(self) -> Tracker:
        return Tracker(self.uri, self.experiment, self.command)

    def result(self, spec: RunSpec) -> Written | None:
        """Record a run whose result is on the storage; None, and the result is discarded, if it is damaged."""
        with self._alone(spec):
            result = self.storage.result(spec)
            if result is None:
                self.storage.discard(spec.key)
                return None
            if isinstance(result, Timing):
                self.tracker.record_timing(result)
                return Written(result.metrics)
            self.tracker.record(result)
            return Written(result.metrics, self.tracker.deserves_showing(result))

    def failure(self, spec: RunSpec, failure: Failure) -> None:
        """Record that a run came to nothing, and why."""
        with self._alone(spec):
            self.tracker.record_failure(spec, failure)

    def show(self, spec: RunSpec) -> None:
        """Put a run's pictures on its cell's, unless those of a better one are there."""
        result = self.storage.result(spec)
        if isinstance(result, Result):
            self.tracker.show(result)

    def summarise_cells(self) -> None:
        """Bring the cells' statistics up to date."""
        self.tracker.summarise_cells()

    def _alone(self, spec: RunSpec):
        # two sweeps that record a run of one cell at once would each make its MLflow run, and its parent's
        return self.storage.locks.holding(f"recording {self.experiment} {spec.cell_key}", patience_s=LOCK_PATIENCE_S)
