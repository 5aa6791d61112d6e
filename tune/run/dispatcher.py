"""Hands out a schedule's trials one after another, and notes how each ended: the same through Ray and inline."""

from __future__ import annotations

from tune.plan.trials import Trial
from tune.run.other_sweeps import OtherSweeps
from tune.run.protocol import Outcome
from tune.run.worker_failure import failures_of
from tune.store.failure import Failure


class Dispatcher:
    """The trials of one sweep.

    Args:
        others: the other sweeps on the same storage, with this sweep's schedule.
    """

    def __init__(self, others: OtherSweeps) -> None:
        self.others = others
        self.schedule = others.schedule
        self.storage = others.storage

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
        self.others.finished(trial, failures)
