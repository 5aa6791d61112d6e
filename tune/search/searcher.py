"""Optuna in a search: Ray's OptunaSearch (TPE), filled with the samples on the storage."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

# isort: split
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import FrozenTrial
from ray.tune.search.optuna import OptunaSearch

from tune.run.protocol import Job, Outcome
from tune.run.stopping import Stopping
from tune.run.worker_failure import WORKER_DIED
from tune.search.samples import Sample, Samples, Status
from tune.search.study import study_name, write_study
from tune.store.failure import Failure

ERROR_FILE = "error.txt"
"""The last traceback of a failed sample, in its folder."""


class NumberedTPE(BaseSampler):
    """TPE with a random stream for each sample, seeded by its number.

    With one stream for the study, a resumed search would restart it and draw the first samples again.
    """

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        self._tpe = TPESampler(seed=trial.number)
        return self._tpe.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> Any:
        return self._tpe.sample_relative(study, trial, search_space)

    def sample_independent(self, study: optuna.Study, trial: FrozenTrial, name: str, distribution: Any) -> Any:
        return self._tpe.sample_independent(study, trial, name, distribution)


class SampleSearcher(OptunaSearch):
    """OptunaSearch over the samples on a storage: knows the ended ones, and suggests the missing ones first.

    Args:
        samples: of one search.
        job: returns a sample's configuration for its worker.
        was_stopped: whether the scheduler stopped the Ray trial with this id early.
        on_end: called with each sample when it has ended.
        stopping: whether to suggest no more samples.
    """

    def __init__(
        self,
        samples: Samples,
        job: Callable[[Sample], Job],
        was_stopped: Callable[[str], bool],
        on_end: Callable[[Sample], object],
        stopping: Stopping,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        storage = write_study(samples)
        super().__init__(
            space=dict(samples.space.fields), metric="val_iwae", mode="max", sampler=NumberedTPE(), storage=storage,
            study_name=study_name(samples),
        )  # fmt: skip
        self.samples = samples
        self.job = job
        self.was_stopped = was_stopped
        self.on_end = on_end
        self.stopping = stopping
        self._waiting = [sample for sample in samples.all if sample.missing]
        self._running: dict[str, Sample] = {}
        self._raised: dict[str, Failure | None] = {}
        """The last failure that a running sample's worker reported, by Ray trial."""

    def suggest(self, trial_id: str) -> Any:
        if self.stopping.requested:
            return self.FINISHED
        values = dict(super().suggest(trial_id) or {})
        sample = self._waiting.pop(0) if self._waiting else self.samples.add(values)
        assert sample.values == values, f"sample {sample.number} has {sample.values}, but Optuna suggests {values}"
        sample.curve.clear()  # its worker reports it again from the first epoch
        sample.outcome, sample.reason = Status.OPEN, ""
        self._running[trial_id] = sample
        return self.job(sample).to_config()

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        outcome = Outcome.from_result(result)
        sample = self._running[trial_id]
        self._raised[trial_id] = outcome.raised
        if outcome.val_elbo is None:
            return
        if not sample.curve or outcome.epoch > sample.curve[-1][0]:  # a restarted worker repeats its curve
            sample.curve.append((outcome.epoch, outcome.val_elbo))
            super().on_trial_result(trial_id, {self.metric: outcome.val_elbo, "training_iteration": outcome.epoch})

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if result:  # Ray passes a searcher the result at which a trial was stopped only here
            self.on_trial_result(trial_id, result)
        result = result or {}
        outcome, raised = Outcome.from_result(result), self._raised.pop(trial_id, None)
        sample = self._running.pop(trial_id)
        if self.stopping.requested and not self._running:
            self.stopping.hurry()
        sample.ended_at = time.time()
        if error:
            sample.outcome, sample.reason = Status.FAILED, self._reason(sample, raised)
        elif outcome.diverged is not None:
            # -inf, because Optuna ignores failed trials and would try similar values again
            sample.outcome, sample.reason = Status.DIVERGED, outcome.diverged
            result = {self.metric: -math.inf}
        elif outcome.val_iwae is not None:
            sample.outcome, sample.val_iwae = Status.DONE, float(result[self.metric])
            sample.val_iwae_by_seed = {
                str(spec.seed): score for spec, score in zip(self.samples.runs, outcome.val_iwae, strict=True)
            }
            sample.train_s = outcome.seconds
        elif self.was_stopped(trial_id):
            sample.outcome = Status.STOPPED
        else:
            return  # interrupted with the driver, so it is still missing
        super().on_trial_complete(trial_id, None if error else result, error)
        self.samples.note(sample)
        self.on_end(sample)

    def _reason(self, sample: Sample, raised: Failure | None) -> str:
        """Why a sample failed, in one line. Writes the traceback to a file in its folder."""
        if raised is None:
            return WORKER_DIED
        path = self.samples.training_folder(sample) / ERROR_FILE
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(raised.traceback)
        return f"{raised.reason} (see {path})"

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: a search resumes from its samples, never from Ray's state."""

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a search resumes from its samples: run the same command again")

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray pickles its Tuner, with this, in each experiment's folder
