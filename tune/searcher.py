"""Ray Tune's side of the schedule: a Searcher that hands out trials when they may start, and what a sweep hears."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from ray.tune import Callback
from ray.tune.search import Searcher

from tune.grid import Trial
from tune.schedule import Schedule


class _NotPickled:
    """Ray writes a pickle of its Tuner beside each experiment; what belongs to the driver alone stays out of it."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class GridSearcher(_NotPickled, Searcher):
    """Suggests what the schedule lets start. Needs `num_samples=-1`.

    Args:
        schedule: the trials and how they stand.
        job: a trial's configuration for its worker.
        on_end: called with each trial that ended, and for its runs that came to nothing the reasons by key.
        why: the reason why a trial's worker failed, once Ray has given it up.
    """

    def __init__(
        self,
        schedule: Schedule,
        job: Callable[[Trial], dict[str, Any]],
        on_end: Callable[[Trial, dict[str, str]], None],
        why: Callable[[Trial], str],
    ) -> None:
        super().__init__(metric="epoch", mode="max")
        self.schedule = schedule
        self.job = job
        self.on_end = on_end
        self.why = why
        self.running: dict[str, Trial] = {}

    def suggest(self, trial_id: str) -> Any:
        trial = self.schedule.next()
        if trial is None:
            # None asks Ray to come again; with nothing waiting there is nothing to come for
            return Searcher.FINISHED if self.schedule.exhausted else None
        self.running[trial_id] = trial
        return self.job(trial)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        pass

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        # with error=True only after Ray's retries are used up
        trial = self.running.pop(trial_id)
        failures = json.loads((result or {}).get("failures", "{}"))
        if error or result is None:
            reason = self.why(trial)
            failures = {spec.key: reason for spec in trial.runs}
        self.schedule.finished(trial, failures)
        self.on_end(trial, failures)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: a sweep goes on from its results and checkpoints, never from Ray's state."""

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("give the sweep's command again")


class Watcher(_NotPickled, Callback):
    """Passes on what Ray says of the trials under way."""

    def __init__(self, on_start: Callable[[str], None], on_progress: Callable[[str, dict[str, Any]], None]) -> None:
        self.on_start = on_start
        self.on_progress = on_progress

    def on_trial_start(self, iteration, trials, trial, **info) -> None:
        self.on_start(trial.config["key"])

    def on_trial_result(self, iteration, trials, trial, result, **info) -> None:
        self.on_progress(trial.config["key"], result)
