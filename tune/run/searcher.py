"""Ray Tune's side of the schedule: a Searcher that hands out trials when they may start, and what a sweep hears."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

from ray.tune import Callback
from ray.tune.search import Searcher

from tune.plan.grid import Trial
from tune.run.other_sweeps import Others
from tune.run.schedule import Schedule
from tune.store.failure import Failure

log = logging.getLogger(__name__)


class _NotPickled:
    """Ray writes a pickle of its Tuner beside each experiment; what belongs to the driver alone stays out of it."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class GridSearcher(_NotPickled, Searcher):
    """Suggests what the schedule lets start. Needs `num_samples=-1`.

    Args:
        schedule: the trials and how they stand.
        job: a trial's configuration for its worker.
        others: what other sweeps on the same storage do.
        on_end: called with each trial that ended, and the failures of its runs that came to nothing, by key.
        failed: the failures by key of a trial that Ray has given up; its second argument is what the worker last
            raised, None if it died.
    """

    def __init__(
        self,
        schedule: Schedule,
        job: Callable[[Trial], dict[str, Any]],
        others: Others,
        on_end: Callable[[Trial, dict[str, Failure]], None],
        failed: Callable[[Trial, Failure | None], dict[str, Failure]],
    ) -> None:
        super().__init__(metric="epoch", mode="max")
        self.schedule = schedule
        self.job = job
        self.others = others
        self.on_end = on_end
        self.failed = failed
        self.running: dict[str, Trial] = {}
        self.raised: dict[str, Failure] = {}

    def suggest(self, trial_id: str) -> Any:
        self.others.look()
        trial = self.schedule.next()
        while trial is not None and self.others.have(trial):
            trial = self.schedule.next()
        if trial is None:
            # None asks Ray to come again. With nothing waiting there is nothing to come for; and while all that is left
            # is trained by others, Ray would be deaf to Ctrl-C
            left_to_others = not self.running and self.schedule.elsewhere
            return Searcher.FINISHED if self.schedule.exhausted or left_to_others else None
        self.running[trial_id] = trial
        return self.job(trial)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        self.raised.pop(trial_id, None)
        if "raised" in result:
            self.raised[trial_id] = Failure.from_json(result["raised"])

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        # with error=True only after Ray's retries are used up
        trial = self.running.pop(trial_id)
        raised = self.raised.pop(trial_id, None)
        if result is not None and "held_elsewhere" in result:
            self.others.leave(trial)
            return
        if error or result is None or "ended" not in result:
            failures = self.failed(trial, raised)
        else:
            ended = json.loads(result["ended"])
            failures = {key: Failure.from_json(text) for key, text in ended.items() if text is not None}
        self.schedule.finished(trial, {key: failure.reason for key, failure in failures.items()})
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
        for text in json.loads(result.get("warnings", "[]")):
            log.warning("%s: %s", trial.config["name"], text)
        self.on_progress(trial.config["key"], result)

    def on_trial_complete(self, iteration, trials, trial, **info) -> None:
        _forget_metrics(trial)

    def on_trial_error(self, iteration, trials, trial, **info) -> None:
        _forget_metrics(trial)


def _forget_metrics(trial) -> None:
    """Ray keeps running means of every number that a trial ever reported, tens of KB a trial; nobody reads them."""
    trial.run_metadata.metric_analysis.clear()
    trial.run_metadata.metric_n_steps.clear()
    trial.run_metadata.invalidate_cache()
