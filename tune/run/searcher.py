"""Connects the schedule to Ray Tune: a searcher suggests the trials that may start, a callback forwards reports."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from ray.tune import Callback
from ray.tune.search import Searcher

from tune.plan.trials import Trial
from tune.run.dispatcher import Dispatcher
from tune.run.protocol import Job, Outcome
from tune.run.stopping import Stopping
from tune.store.failure import Failure

log = logging.getLogger(__name__)


class _NotPickled:
    """Leaves an object's contents out of the pickle that Ray writes of its Tuner: they belong to the driver."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class GridSearcher(_NotPickled, Searcher):
    """Suggests trials as the schedule lets them start. Needs `num_samples=-1`.

    Args:
        dispatcher: of the sweep.
        job: returns a trial's job.
        stopping: whether to suggest no more trials.
    """

    def __init__(self, dispatcher: Dispatcher, job: Callable[[Trial], Job], stopping: Stopping) -> None:
        super().__init__(metric="epoch", mode="max")
        self.dispatcher = dispatcher
        self.job = job
        self.stopping = stopping
        self.running: dict[str, Trial] = {}
        self.started: set[str] = set()
        """Keys of the running trials that have a worker."""
        self.raised: dict[str, Failure] = {}

    def suggest(self, trial_id: str) -> Any:
        if self.stopping.requested:
            return Searcher.FINISHED
        trial = self.dispatcher.next()
        if trial is None:
            # None makes Ray ask again later. It need not if no trial waits; and must not if all that is left is trained
            # by other sweeps, because Ray would not react to Ctrl-C meanwhile
            schedule = self.dispatcher.schedule
            left_to_others = not self.running and schedule.elsewhere
            return Searcher.FINISHED if schedule.exhausted or left_to_others else None
        self.running[trial_id] = trial
        return self.job(trial).to_config()

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        self.raised.pop(trial_id, None)
        if (raised := Outcome.from_result(result).raised) is not None:
            self.raised[trial_id] = raised

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        # error=True comes only after Ray's retries are used up
        trial = self.running.pop(trial_id)
        self.started.discard(trial.key)
        outcome = Outcome() if error else Outcome.from_result(result or {})
        self.dispatcher.ended(trial, outcome, self.raised.pop(trial_id, None))
        if self.stopping.requested and not self.started:
            self.stopping.hurry()

    def save(self, checkpoint_path: str) -> None:
        """Does nothing: a sweep resumes from results and checkpoints, never from Ray's state."""

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("Ray's state is not saved; the sweep's command resumes the sweep")


class Watcher(_NotPickled, Callback):
    """Forwards starts and progress to the given functions, and workers' warnings to the log."""

    def __init__(
        self,
        on_start: Callable[[str], None] = lambda key: None,
        on_progress: Callable[[str, Outcome], None] = lambda key, outcome: None,
    ) -> None:
        self.on_start = on_start
        self.on_progress = on_progress

    def on_trial_start(self, iteration, trials, trial, **info) -> None:
        self.on_start(trial.config["key"])

    def on_trial_result(self, iteration, trials, trial, result, **info) -> None:
        outcome = Outcome.from_result(result)
        for text in outcome.warnings:
            log.warning("%s: %s", trial.config["name"], text)
        self.on_progress(trial.config["key"], outcome)

    def on_trial_complete(self, iteration, trials, trial, **info) -> None:
        _forget_metrics(trial)

    def on_trial_error(self, iteration, trials, trial, **info) -> None:
        _forget_metrics(trial)


def _forget_metrics(trial) -> None:
    """Free Ray's running means of all numbers that a trial reported: tens of KB a trial, and unused."""
    trial.run_metadata.metric_analysis.clear()
    trial.run_metadata.metric_n_steps.clear()
    trial.run_metadata.invalidate_cache()
