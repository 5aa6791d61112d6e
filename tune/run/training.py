"""The worker of trainings: trains a trial's runs as one array, and writes each run's result to the storage."""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Sequence

from rme import data
from rme.array_halving import OutOfMemory
from rme.config import RunSpec
from rme.engine import DivergedError, Engine
from rme.fitting import train_runs
from tune.plan.trials import Trial
from tune.run.protocol import Job, Outcome
from tune.run.worker import Link, device_of, parent_models
from tune.store.failure import Failure
from tune.store.storage import Storage

log = logging.getLogger(__name__)

REPORT_EVERY_S = 1.0
"""Shortest interval between reports: only the display uses them."""

RESULT_S = 0.001
"""The driver's time for one report: measured as 0.83 ms with Ray's loggers disabled."""

REPORT_SHARE = 0.01
"""Largest part of a trial's time that its reports may take, in the worker and the driver."""


def train(job: Job, storage: Storage, link: Link) -> Outcome:
    """Train a trial's runs that have no result, and write each one's to the storage.

    An array that has a checkpoint is resumed with all of its runs.
    """
    missing = tuple(spec for spec in job.runs if not storage.has_result(spec.key))
    if not missing:  # another sweep finished them
        return Outcome(ended=dict.fromkeys(spec.key for spec in job.runs))
    folder = job.folder
    specs = job.runs
    if not folder.exists():  # else the checkpoints in it are of all the runs
        specs = missing
        folder = storage.trial_folder(Trial(missing).key)
    images = data.get(specs[0].dataset).load(job.data_dir)
    device = device_of(job)
    reporter = _Reporter(specs, link)
    failures: dict[str, Failure | None] = dict.fromkeys(spec.key for spec in specs)
    parents = parent_models(storage, specs)
    try:
        found = train_runs(specs, images, device, parents, folder, reporter, reporter.smaller)
    except OutOfMemory as error:
        # not raised, because another attempt would run out of memory, too; the checkpoints are kept
        failures = {spec.key: Failure.of(error) for spec in missing}
    else:
        for key, result in found.items():
            if isinstance(result, DivergedError):
                failures[key] = Failure.of(result)
            elif not storage.has_result(key):
                result.save(storage.run_folder(key))
        shutil.rmtree(folder, ignore_errors=True)
    for key, failure in failures.items():
        if failure is not None:
            storage.save_failure(key, failure)
    return reporter.outcome(ended=failures)


class _Reporter:
    """Reports a trial's progress every N epochs, where N depends on the measured times of epochs and reports.

    After each epoch it also stops the training if the sweep is stopping.

    If a halved array is trained in parts, an epoch of a part counts as the part's share of an epoch.
    """

    def __init__(self, specs: Sequence[RunSpec], link: Link) -> None:
        self.link = link
        self.members = sum(spec.restarts for spec in specs)
        self.epochs = specs[0].training_epochs
        self.training = self.members
        """Number of members of the part in training."""
        self.val_elbos: dict[int, float] = {}
        """The newest validation ELBO of each run's best restart, by seed."""
        self.seeds = [spec.seed for spec in specs]
        self.epochs_left = 0
        self._parts: dict[tuple[str, ...], tuple[float, float]] = {}
        """For each part, by its members: its epochs times its share, and their seconds."""

    def smaller(self, line: str) -> None:
        """Log that the array was halved, and count its parts' epochs anew: they resume from checkpoints."""
        log.warning("%s", line)
        self._parts.clear()
        self.epochs_left = 0

    def __call__(self, engine: Engine) -> None:
        share = len(engine.members) / self.members
        self._parts[tuple(map(str, engine.members))] = (engine.epoch * share, sum(engine.history.seconds))
        self.training = len(engine.members)
        self.val_elbos |= _best_by_seed(engine)
        self.link.check()
        self.epochs_left -= 1
        if self.epochs_left > 0:
            return
        began = time.perf_counter()
        self.link.report(self.outcome())
        took = time.perf_counter() - began
        self.epochs_left = epochs_between_reports(engine.history.seconds[-1], took)

    def outcome(self, ended: dict[str, Failure | None] | None = None) -> Outcome:
        """The trial's progress; at its end with the failures of its runs."""
        return Outcome(
            epoch=round(sum(epochs for epochs, _ in self._parts.values())),
            epochs=self.epochs,
            members=self.training,
            seconds=sum(seconds for _, seconds in self._parts.values()),
            val_elbos=tuple(self.val_elbos.get(seed, math.nan) for seed in self.seeds) if self.val_elbos else (),
            ended=ended,
        )


def _best_by_seed(engine: Engine) -> dict[int, float]:
    """The highest validation ELBO of each seed's members after the last epoch; without those that are not finite."""
    found: dict[int, float] = {}
    for member, value in zip(engine.members, engine.history.val_elbo[-1].tolist(), strict=True):
        if math.isfinite(value):
            found[member.spec.seed] = max(value, found.get(member.spec.seed, -math.inf))
    return found


def epochs_between_reports(epoch_s: float, report_s: float) -> int:
    """So many that reports, of `report_s` in the worker and `RESULT_S` in the driver, take at most `REPORT_SHARE`."""
    between_s = max(REPORT_EVERY_S, (report_s + RESULT_S) / REPORT_SHARE)
    return max(1, math.ceil(between_s / max(epoch_s, 1e-6)))
