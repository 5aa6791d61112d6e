"""Leaves trials that another sweep on the same storage is training to that sweep, unless it stops."""

from __future__ import annotations

import time
from collections.abc import Callable

from tune.plan.trials import Trial
from tune.run.schedule import Schedule
from tune.store.failure import Failure
from tune.store.storage import Storage

LOOK_EVERY_S = 2.0
"""Interval at which a sweep checks the trials that it left to others."""


class OtherSweeps:
    """Updates a schedule with what other sweeps train and have finished.

    Args:
        schedule: this sweep's trials and their states.
        storage: the results and locks of all the sweeps.
        on_left: called with each trial that is left to another sweep.
        on_end: called with each trial that ended, here or elsewhere, and the failures of its runs by key.
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
        self.on_left = on_left
        self.on_end = on_end
        self._due = 0.0

    def have(self, trial: Trial) -> bool:
        """Whether another sweep is training this trial or has finished it; if so, the schedule is updated."""
        held = self.storage.held_elsewhere(trial.runs)
        # checked after the lock, because a worker writes its result before it releases the lock
        if self._ended(trial):
            return True
        if held:
            self.leave(trial)
        return held

    def leave(self, trial: Trial) -> None:
        """Leave this trial to another sweep, and wait for its result."""
        self.schedule.leave(trial)
        self.on_left(trial)

    def look(self) -> None:
        """Check the trials that were left to others; at most once every `LOOK_EVERY_S`.

        A finished trial is noted. One that nobody is training any more may start here.
        """
        if time.monotonic() < self._due:
            return
        for trial in self.schedule.elsewhere:
            held = self.storage.held_elsewhere(trial.runs)
            if not self._ended(trial) and not held:
                self.schedule.take_back(trial)
        self._due = time.monotonic() + LOOK_EVERY_S

    def finished(self, trial: Trial, failures: dict[str, Failure]) -> None:
        """Note that a trial ended, here or elsewhere, and the failures of its runs by key."""
        self.schedule.finished(trial, {key: failure.reason for key, failure in failures.items()})
        self.on_end(trial, failures)

    def _ended(self, trial: Trial) -> bool:
        failures = self.storage.outcome(trial.runs)
        if failures is None:
            return False
        self.finished(trial, failures)
        return True
