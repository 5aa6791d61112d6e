"""What a worker does with a trial: train its runs as one array, and write each one's result to the storage."""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Sequence
from typing import Any

from rme import data
from rme.array_halving import OutOfMemory
from rme.config import RunSpec
from rme.engine import DivergedError, Engine
from rme.fitting import train_runs
from tune.plan.grid import Trial
from tune.run.protocol import Job, Outcome
from tune.run.worker import carry_out, device_of, parent_models, report
from tune.store.failure import Failure
from tune.store.storage import Storage

log = logging.getLogger(__name__)

REPORT_EVERY_S = 1.0
"""Reports are for the display alone, for which a second's pace is enough."""

RESULT_S = 0.001
"""What a result costs the driver: 0.83 ms with the loggers off."""

REPORT_SHARE = 0.01
"""Part of a trial's time that its reports may take, here and in the driver."""


def train_trial(config: dict[str, Any]) -> None:
    """Train a trial's runs, from the newest checkpoint, and write each one's result to the storage."""
    carry_out(config, _train)


def _train(job: Job, storage: Storage) -> Outcome:
    """Train those of the runs that have no result."""
    missing = tuple(spec for spec in job.runs if not storage.has_result(spec.key))
    if not missing:  # another sweep was faster
        return Outcome(ended=dict.fromkeys(spec.key for spec in job.runs))
    folder = job.folder
    specs = job.runs
    if not folder.exists():  # what began as an array goes on as that array
        specs = missing
        folder = storage.trial_folder(Trial(missing).key)
    images = data.get(specs[0].dataset).load(job.data_dir)
    device = device_of(job)
    reporter = _Reporter(specs)
    failures: dict[str, Failure | None] = dict.fromkeys(spec.key for spec in specs)
    parents = parent_models(storage, specs)
    try:
        found = train_runs(specs, images, device, parents, folder, reporter, reporter.smaller)
    except OutOfMemory as error:
        # not raised: another attempt would run out of memory again; the checkpoints are kept
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
    """Reports a trial's progress every N epochs; N follows from how long epochs and reports are measured to take.

    An array that is trained in parts, one after another, counts an epoch for the part's share of the whole.
    """

    def __init__(self, specs: Sequence[RunSpec]) -> None:
        self.members = sum(spec.restarts for spec in specs)
        self.epochs = specs[0].training_epochs
        self.training = self.members
        """Members of the part that trains now."""
        self.val_elbo: float | None = None
        self.epochs_left = 0
        self._parts: dict[tuple[str, ...], tuple[float, float]] = {}
        """For each part, by its members: its share of the epochs, and the seconds that they took."""

    def smaller(self, line: str) -> None:
        """The array was halved, as the line says; its parts resume from what the checkpoints hold."""
        log.warning("%s", line)
        self._parts.clear()
        self.epochs_left = 0

    def __call__(self, engine: Engine) -> None:
        share = len(engine.members) / self.members
        self._parts[tuple(map(str, engine.members))] = (engine.epoch * share, sum(engine.history.seconds))
        self.training = len(engine.members)
        newest = engine.history.val_elbo[-1]
        if newest.isfinite().any():
            self.val_elbo = float(newest[newest.isfinite()].max())
        self.epochs_left -= 1
        if self.epochs_left > 0:
            return
        began = time.perf_counter()
        report(self.outcome())
        took = time.perf_counter() - began
        self.epochs_left = epochs_between_reports(engine.history.seconds[-1], took)

    def outcome(self, ended: dict[str, Failure | None] | None = None) -> Outcome:
        """How far the trial is; at its end with the failures of its runs."""
        return Outcome(
            epoch=round(sum(epochs for epochs, _ in self._parts.values())),
            epochs=self.epochs,
            members=self.training,
            seconds=sum(seconds for _, seconds in self._parts.values()),
            val_elbo=self.val_elbo,
            ended=ended,
        )


def epochs_between_reports(epoch_s: float, report_s: float) -> int:
    """As many that a report, `report_s` in the worker and `RESULT_S` in the driver, stays within `REPORT_SHARE`."""
    between_s = max(REPORT_EVERY_S, (report_s + RESULT_S) / REPORT_SHARE)
    return max(1, math.ceil(between_s / max(epoch_s, 1e-6)))
