"""In place of a recorder, where a sweep records nothing in MLflow: its results stay on the storage."""

from __future__ import annotations

from collections.abc import Callable

from rme.config import RunSpec
from tune.store.failure import Failure
from tune.store.storage import DAMAGED, Storage


class Unrecorded:
    """Has a recorder's methods (`tune.record.recorder`), and needs no MLflow.

    Args:
        storage: of the results.
        on_finished: called with each run that has a result, and its metrics.
    """

    left: tuple[RunSpec, ...] = ()
    """Runs still to be recorded: none of those that were asked for."""

    def __init__(self, storage: Storage, on_finished: Callable[[RunSpec, dict[str, float]], None]) -> None:
        self.storage = storage
        self.on_finished = on_finished
        self.failures: dict[str, str] = {}

    def result(self, spec: RunSpec) -> None:
        """Check that a run's result can be read; a damaged one is deleted."""
        result = self.storage.sound_result(spec)
        if result is None:
            self.failures[spec.key] = DAMAGED
            return
        self.on_finished(spec, result.metrics)

    def failure(self, spec: RunSpec, failure: Failure) -> None:
        """Do nothing: failures that last are on the storage."""

    def __enter__(self) -> Unrecorded:
        return self

    def __exit__(self, *raised: object) -> None:
        """Do nothing."""
