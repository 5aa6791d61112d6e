"""Hands out a schedule's trials one after another, and notes how each ended: the same through Ray and inline."""

from __future__ import annotations

from collections.abc import Callable

from tune.plan.trials import Trial
from tune.run.other_sweeps import OtherSweeps
from tune.run.protocol import Outcome
from tune.run.schedule import Schedule
from tune.run.worker_failure import failures_of
from tune.store.failure import Failure
from tune.store.storage import Storage


class Dispatcher:
    """The trials of one sweep.

    Args:
        schedule: the trials and their states.
        storage: of results, failures and locks.
        on_left: called with each trial that is left to another sweep on the same storage.
        on_end: called with each trial that ended, here or in another sweep, and the failures of its runs by key.
    """

    def __init__(
        self,
        schedule: Schedule,
        storage: Storage,
        on_left: Callable[[Trial], None],
        on_end: Callable[[Trial, dict[str, Failure]], None],
    ) -> None:
        self.schedule = schedule
        self.storage = storage
        self.others = OtherSweeps(schedule, storage, on_left, on_end)
        self.on_end = on_end

    def next(self) -> Trial | None:
        """The next trial to start here; None if none may start now."""
        self.others.look()
        trial = self.schedule.next()
        while trial is not None and self.others.have(trial):
            trial = self.schedule.next()
        return trial

    def ended(self, trial: Trial, outcome: Outcome, raised: Failure | None = None) -> None:
        """Note how a trial that `next` returned ended. One that was stopped stays as it is: running.

        Args:
            trial: the trial.
            outcome: its worker's last report; without `ended`, the worker failed.
            raised: what the worker raised last; None if it died.
        """
        if outcome.stopped:
            return
        if outcome.held_elsewhere:
            self.others.leave(trial)
            return
        if outcome.ended is None:
            failures = failures_of(trial.runs, raised, self.storage)
        else:
            failures = {key: failure for key, failure in outcome.ended.items() if failure is not None}
        self.schedule.finished(trial, {key: failure.reason for key, failure in failures.items()})
        self.on_end(trial, failures)
