"""Optuna's record of a search, which `optuna-dashboard` shows: STORAGE/search/<key>/optuna.log.

Each command writes the file anew from the samples, from which alone a search resumes. Then Optuna adds to it what it
suggests and hears: values, validation ELBO by epoch, scores, states. Only the search's driver writes; a journal is safe
on a shared folder, where a database is not.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState

from tune.search.samples import Sample, Samples, Status


def study_file(samples: Samples) -> Path:
    """The file of a search's study."""
    return samples.folder / "optuna.log"


def study_name(samples: Samples) -> str:
    """The study's name in the dashboard."""
    return f"{samples.runs[0].cell}, search {samples.key[:6]}"


def write_study(samples: Samples) -> BaseStorage:
    """Write the file with a trial for each sample, of the same number; those still to be trained wait.

    Returns Optuna's storage in this file. OSError propagates.
    """
    path = study_file(samples)
    for each in (path, path.with_name(f"{path.name}.lock")):  # a killed driver may have held Optuna's lock
        each.unlink(missing_ok=True)
    storage = JournalStorage(JournalFileBackend(str(path), JournalFileOpenLock(str(path))))
    study = optuna.create_study(storage=storage, study_name=study_name(samples), direction="maximize")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        study.set_metric_names(["validation IWAE"])
    study.set_user_attr("cell", samples.runs[0].cell)
    study.set_user_attr("seeds", [run.seed for run in samples.runs])
    for sample in samples.all:  # in order, because TPE gives newer ones more weight
        if sample.missing:
            study.enqueue_trial(sample.values)
        else:
            study.add_trial(_ended_trial(sample, samples.space.fields))
    return storage


def _ended_trial(sample: Sample, fields: Mapping[str, BaseDistribution]) -> FrozenTrial:
    """A sample that has ended, as the Optuna trial that it was when it ended."""
    value = {Status.DONE: sample.val_iwae, Status.DIVERGED: -math.inf}.get(sample.outcome)
    trial = optuna.trial.create_trial(
        state=TrialState.PRUNED if sample.outcome is Status.STOPPED else TrialState.COMPLETE,
        value=value,
        params=sample.values,
        distributions=dict(fields),
        intermediate_values=dict(sample.curve),
        user_attrs={"val_iwae_by_seed": sample.val_iwae_by_seed} if sample.val_iwae_by_seed else {},
    )
    trial.datetime_start = datetime.fromtimestamp(sample.ended_at - sample.train_s)
    trial.datetime_complete = datetime.fromtimestamp(sample.ended_at)
    return trial
