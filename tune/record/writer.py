"""Writes runs from the storage to MLflow, each while holding its cell's lock."""

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
"""How long to wait for another sweep that records a run of the same cell; then the recorder retries later."""


@dataclass(frozen=True)
class Written:
    """A run that has been written to MLflow.

    Attributes:
        metrics: the run's metrics by their names in MLflow.
        to_show: whether its pictures should replace those of its cell.
    """

    metrics: dict[str, float]
    to_show: bool = False


@dataclass
class Writer:
    """Writes to one experiment from one storage.

    Errors of MLflow's stores and of the storage propagate. Calling a method again is always safe
    (`tune.record.tracking`).
    """

    uri: str
    experiment: str
    command: str
    storage: Storage

    @cached_property
    def tracker(self) -> Tracker:
        return Tracker(self.uri, self.experiment, self.command)

    def result(self, spec: RunSpec) -> Written | None:
        """Record a run whose result is on the storage. If the result is damaged, it is deleted; returns None."""
        with self._alone(spec):
            result = self.storage.sound_result(spec)
            if result is None:
                return None
            if isinstance(result, Timing):
                self.tracker.record_timing(result)
                return Written(result.metrics)
            self.tracker.record(result)
            return Written(result.metrics, self.tracker.deserves_showing(result))

    def failure(self, spec: RunSpec, failure: Failure) -> None:
        """Record that a run failed, and why."""
        with self._alone(spec):
            self.tracker.record_failure(spec, failure)

    def show(self, spec: RunSpec) -> None:
        """Show a run's pictures as its cell's, unless the cell shows those of a better run."""
        result = self.storage.result(spec)
        if isinstance(result, Result):
            self.tracker.show(result)

    def summarise_cells(self) -> None:
        """Update the cells' statistics."""
        self.tracker.summarise_cells()

    def _alone(self, spec: RunSpec):
        # without the lock, two sweeps that record runs of one cell at once could create MLflow runs twice
        return self.storage.locks.holding(f"recording {self.experiment} {spec.cell_key}", patience_s=LOCK_PATIENCE_S)
