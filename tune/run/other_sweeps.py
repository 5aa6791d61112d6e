"""Other sweeps on the same storage: what they train is not trained here, unless they give it up."""

from __future__ import annotations

import time
from collections.abc import Callable

from tune.plan.grid import Trial
from tune.run.schedule import Schedule
from tune.store.failure import Failure
from tune.store.storage import Storage

LOOK_EVERY_S = 2.0
"""How often a sweep looks what has become of the trials that another one is training."""


class OtherSweeps:
    """Keeps a schedule abreast of what other sweeps do.

    Args:
        schedule: this sweep's trials and how they stand.
        storage: where all of them keep results and locks.
        on_left: called with each trial that is left to another sweep.
        on_end: called with each trial that came to its end elsewhere, and the failures of its runs by key.
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
        """Whether a trial that is about to start is another sweep's, or has come to its end there; noted if so."""
        held = self.storage.held_elsewhere(trial.runs)
        # after the lock was seen free: who held it leaves a result before giving it back
        if self._ended(trial):
            return True
        if held:
            self.leave(trial)
        return held

    def leave(self, trial: Trial) -> None:
        """Wait for another sweep to finish this trial."""
        self.schedule.leave(trial)
        self.on_left(trial)

    def look(self) -> None:
        """See what has become of the trials left to others; not more often than each `LOOK_EVERY_S`."""
        if time.monotonic() < self._due:
            return
        for trial in self.schedule.elsewhere:
            held = self.storage.held_elsewhere(trial.runs)
            if not self._ended(trial) and not held:
                self.schedule.take_back(trial)
        self._due = time.monotonic() + LOOK_EVERY_S

    def _ended(self, trial: Trial) -> bool:
        failures = self.storage.outcome(trial.runs)
        if failures is None:
            return False
        self.schedule.finished(trial, {key: failure.reason for key, failure in failures.items()})
        self.on_end(trial, failures)
        return True
