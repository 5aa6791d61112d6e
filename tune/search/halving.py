"""ASHA's side of a search: which samples are not worth training to the end."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

from tune.run import cluster  # noqa: F401  # sets Ray's environment, so it comes before Ray

# isort: split
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler

from tune.search import space as spaces
from tune.search.samples import Samples

REDUCTION = 3
"""ASHA lets about one in so many go on at each of its rungs, which lie at 1/9 and 1/3 of the training."""


class Halving(AsyncHyperBandScheduler):
    """ASHA on the validation ELBO by epoch, which remembers whom it stopped."""

    def __init__(self, epochs: int) -> None:
        # no rung at the end: a training that got there is scored
        super().__init__(
            time_attr="epoch", metric="val_elbo", mode="max", max_t=epochs - 1, grace_period=math.ceil(epochs / 9),
            reduction_factor=REDUCTION, stop_last_trials=False,
        )  # fmt: skip
        self.stopped: set[str] = set()

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        action = super().on_trial_result(tune_controller, trial, result)
        if action == TrialScheduler.STOP:
            self.stopped.add(trial.trial_id)
        return action


def halving_of(samples: Samples) -> TrialScheduler:
    """ASHA with what is known of the samples that ended.

    Nothing is stopped where that is not wanted, or where trainings are too short for it.
    """
    longest = max(_longest(samples), 1)
    if longest < 3 or not samples.early_stopping:
        return FIFOScheduler()
    halving = Halving(longest)
    nobody: Any = None  # ASHA asks the controller for nothing
    for sample in samples.all:
        if not sample.missing:
            stub: Any = SimpleNamespace(trial_id=f"sample {sample.number}")
            halving.on_trial_add(nobody, stub)
            for epoch, elbo in sample.curve:
                halving.on_trial_result(nobody, stub, {"epoch": epoch, "val_elbo": elbo})
            halving.on_trial_remove(nobody, stub)
    return halving


def _longest(samples: Samples) -> int:
    """The epochs of the longest training that the space allows."""
    run = samples.runs[0]
    values = {}
    for name in ("epochs", "stage_epochs"):
        if (distribution := samples.space.fields.get(name)) is not None:
            values[name] = max(spaces.ends(distribution))
    return samples.space.apply(run, values).training_epochs
