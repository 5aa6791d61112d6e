"""ASHA in a search: stops samples early whose validation ELBO is low."""

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
"""About one sample in REDUCTION continues at each of ASHA's rungs, which are at 1/9 and 1/3 of the training."""


class Halving(AsyncHyperBandScheduler):
    """ASHA on the validation ELBO by epoch. `stopped` holds the ids of the Ray trials that it stopped."""

    def __init__(self, epochs: int) -> None:
        # no rung at the end: a finished training is scored
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
    """ASHA, with the curves of the samples that have ended already.

    A FIFO scheduler, which stops nothing, if early stopping is off or all trainings are shorter than three epochs.
    """
    longest = max(_longest(samples), 1)
    if longest < 3 or not samples.early_stopping:
        return FIFOScheduler()
    halving = Halving(longest)
    no_controller: Any = None  # ASHA does not use it
    for sample in samples.all:
        if not sample.missing:
            stub: Any = SimpleNamespace(trial_id=f"sample {sample.number}")
            halving.on_trial_add(no_controller, stub)
            for epoch, elbo in sample.curve:
                halving.on_trial_result(no_controller, stub, {"epoch": epoch, "val_elbo": elbo})
            halving.on_trial_remove(no_controller, stub)
    return halving


def _longest(samples: Samples) -> int:
    """The epochs of the longest training that the space allows."""
    run = samples.runs[0]
    values = {}
    for name in ("epochs", "stage_epochs"):
        if (distribution := samples.space.fields.get(name)) is not None:
            values[name] = max(spaces.ends(distribution))
    return samples.space.apply(run, values).training_epochs
