"""Optuna's side of a search: Ray's OptunaSearch (TPE) over the samples that lie on a storage."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tune.run import cluster  # sets Ray's environment, so it comes before Ray

# isort: split
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState
from ray.tune.search.optuna import OptunaSearch

from tune.search.samples import Outcome, Sample, Samples
from tune.search.trainable import ERROR_FILE

_STUDY = "search"


class NumberedTPE(BaseSampler):
    """TPE with a random stream for each sample, fixed by its number.

    With one stream for a study, a driver that goes on would begin it anew, and draw the first samples again.
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
    """Ray's OptunaSearch over the samples of a storage: it knows those that ended, and asks first for those missing.

    Args:
        samples: of one search.
        job: a sample's configuration for its worker.
        was_stopped: whether the scheduler ended this Ray trial early.
        on_end: called with each sample that ended.
    """

    def __init__(
        self,
        samples: Samples,
        job: Callable[[Sample], dict[str, Any]],
        was_stopped: Callable[[str], bool],
        on_end: Callable[[Sample], object],
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        # in memory: what is kept is the samples, and a database on a shared folder would not be safe
        storage = optuna.storages.InMemoryStorage()
        study = optuna.create_study(storage=storage, study_name=_STUDY, direction="maximize")
        for sample in samples.all:  # in their order: TPE weighs newer ones more
            if sample.missing:
                study.enqueue_trial(sample.values)
            else:
                study.add_trial(_frozen(sample, samples.space.fields))
        super().__init__(
            space=dict(samples.space.fields), metric="val_iwae", mode="max", sampler=NumberedTPE(), storage=storage,
            study_name=_STUDY,
        )  # fmt: skip
        self.samples = samples
        self.job = job
        self.was_stopped = was_stopped
        self.on_end = on_end
        self._waiting = [sample for sample in samples.all if sample.missing]
        self._running: dict[str, Sample] = {}

    @property
    def open(self) -> int:
        """Samples that are neither ended nor failed."""
        return sum(sample.outcome is Outcome.OPEN for sample in self.samples.all)

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        values = dict(super().suggest(trial_id) or {})
        sample = self._waiting.pop(0) if self._waiting else self.samples.add(values)
        assert sample.values == values, f"sample {sample.number} was to be {sample.values}, Optuna asks for {values}"
        sample.curve.clear()  # its worker reports it from the beginning
        sample.outcome, sample.reason = Outcome.OPEN, ""
        self._running[trial_id] = sample
        return self.job(sample)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        if "val_elbo" not in result:
            return
        sample = self._running[trial_id]
        epoch = int(result["epoch"])
        if not sample.curve or epoch > sample.curve[-1][0]:  # a worker that was started again repeats its curve
            sample.curve.append((epoch, float(result["val_elbo"])))
            super().on_trial_result(trial_id, {self.metric: result["val_elbo"], "training_iteration": epoch})

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        result = result or {}
        self.on_trial_result(trial_id, result)  # Ray shows a searcher the result at which a trial was stopped only here
        sample = self._running.pop(trial_id)
        sample.ended_at = time.time()
        if error:
            sample.outcome, sample.reason = Outcome.FAILED, _why(self.samples.training_folder(sample))
        elif "diverged" in result:
            # told as the worst there is: as failed, Optuna would learn nothing from it and try the like again
            sample.outcome, sample.reason = Outcome.DIVERGED, result["diverged"]
            result = {self.metric: -math.inf}
        elif self.metric in result:
            sample.outcome, sample.val_iwae = Outcome.DONE, float(result[self.metric])
            sample.val_iwae_by_seed = {
                str(spec.seed): score for spec, score in zip(self.samples.runs, result["val_iwae_by_seed"], strict=True)
            }
            sample.train_s = float(result["seconds"])
        elif self.was_stopped(trial_id):
            sample.outcome = Outcome.STOPPED
        else:
            return  # ended with the driver: it is missing still
        super().on_trial_complete(trial_id, None if error else result, error)
        self.samples.note(sample)
        self.on_end(sample)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: a search goes on from its samples, never from Ray's state."""

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("give the search's command again")

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray writes a pickle of its Tuner beside each experiment


def _frozen(sample: Sample, fields: Mapping[str, BaseDistribution]) -> FrozenTrial:
    """A sample that ended, as it was told to Optuna then."""
    value = {Outcome.DONE: sample.val_iwae, Outcome.DIVERGED: -math.inf}.get(sample.outcome)
    return optuna.trial.create_trial(
        state=TrialState.PRUNED if sample.outcome is Outcome.STOPPED else TrialState.COMPLETE,
        value=value,
        params=sample.values,
        distributions=dict(fields),
        intermediate_values=dict(sample.curve),
    )


def _why(folder: Path) -> str:
    """The last line of what the worker left, or that it left nothing."""
    with suppress(OSError, IndexError):
        return f"{(folder / ERROR_FILE).read_text().strip().splitlines()[-1]} (see {folder / ERROR_FILE})"
    return f"its worker died {cluster.MAX_FAILURES + 1} times without a word: killed, or out of memory"
