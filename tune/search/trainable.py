"""Trains and validates a sample of a search, in a Ray worker that never sees the test images."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from rme import data
from rme.array_halving import OutOfMemory, train_members
from rme.config import RunSpec
from rme.engine import DivergedError, Engine, Member, all_members
from rme.selection import best_restart
from rme.training import Trained
from tune.run.protocol import Job, Outcome
from tune.run.ray_worker import carry_out_in_ray
from tune.run.worker import Link, device_of, parent_models
from tune.store.storage import Storage


def train_sample(config: dict[str, Any]) -> None:
    """Train the runs of a sample as one array, from the newest checkpoint, and validate them.

    Reports the validation ELBO of each epoch, as the mean over runs of the best restart, and at the end the validation
    IWAE of each run's best restart. Both are in nats per image.
    """
    carry_out_in_ray(config, _train, lock=False)  # the driver holds the whole search's lock


def _train(job: Job, storage: Storage, link: Link) -> Outcome:
    images = data.get(job.runs[0].dataset).load(job.data_dir).without_test()
    device = device_of(job)
    parents = parent_models(storage, job.runs)
    try:
        members = train_members(job.runs, images, device, parents, job.folder, _Reporter(job.runs, link))
    except OutOfMemory as error:  # not raised: another attempt would run out of memory again
        return Outcome(diverged=str(error))
    last = Outcome(epoch=max(each.epoch for each in members), seconds=sum(each.seconds for each in members))
    try:
        scores = _best_of_each_run({each.member: each.val_iwae.item() for each in members}, job.runs)
    except DivergedError as error:
        return Outcome(last.epoch, seconds=last.seconds, diverged=_reason(members) or str(error))
    return Outcome(last.epoch, seconds=last.seconds, val_iwae=scores)


def _best_of_each_run(scores: Mapping[Member, float], runs: Sequence[RunSpec]) -> tuple[float, ...]:
    """The best score among each run's restarts. Raises DivergedError if a run has no finite score."""
    found = []
    for spec in runs:
        own = torch.tensor([scores[member] for member in all_members([spec])], dtype=torch.float64)
        found.append(own[best_restart(own)].item())
    return tuple(found)


def _reason(members: Sequence[Trained]) -> str:
    return next((each.diverged for each in members if each.diverged), "")


class _Reporter:
    """Reports an epoch's validation ELBO once all members have one.

    It also reports the epochs before an interruption, because a restarted driver's ASHA needs them. If an array is
    trained in parts, it reports during the last part. After each epoch it stops the training if the search is stopping.
    """

    def __init__(self, runs: Sequence[RunSpec], link: Link) -> None:
        self.link = link
        self.runs = runs
        self.members = len(all_members(runs))
        self.reported = 0
        self._elbo: dict[int, dict[Member, float]] = defaultdict(dict)
        """By epoch and member, nats per image."""

    def __call__(self, engine: Engine) -> None:
        for epoch, elbo in enumerate(engine.history.val_elbo, 1):
            if epoch > self.reported:
                self._elbo[epoch] |= zip(engine.members, elbo.tolist(), strict=True)
        for epoch in sorted(self._elbo):
            if len(self._elbo[epoch]) == self.members:
                elbo_of = self._elbo.pop(epoch)
                self.reported = epoch
                if any(map(math.isfinite, elbo_of.values())):
                    by_run = _best_of_each_run(elbo_of, self.runs)
                    self.link.report(Outcome(epoch=epoch, val_elbo=sum(by_run) / len(by_run)))
        self.link.check()
