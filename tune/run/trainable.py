"""The thin adapter between Ray Tune and the engine: one trial, from its newest checkpoint to its results on storage."""

from __future__ import annotations

import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ray.tune
import torch
from torch import Tensor

from rme import data
from rme.array_halving import OutOfMemory, train_runs
from rme.checkpoint import CorruptFile
from rme.config import RunSpec
from rme.device import pick_device
from rme.engine import DivergedError, Engine
from tune.plan.grid import Trial
from tune.store.failure import Failure
from tune.store.locks import RETRY_S
from tune.store.storage import Storage

log = logging.getLogger(__name__)

REPORT_EVERY_S = 1.0
"""Reports are for the display alone, which a second's pace is enough for."""

RESULT_S = 0.001
"""What a result costs the driver: 0.83 ms with the loggers off."""

REPORT_SHARE = 0.01
"""Part of a trial's time that its reports may take, here and in the driver."""


def job(trial: Trial, storage: Storage, data_dir: Path, threads: int, device: str) -> dict[str, Any]:
    """What a worker needs to know of a trial, as plain values, for Ray copies and writes them down again and again."""
    return {
        "key": trial.key,
        "name": trial.name,
        "runs": json.dumps([spec.model_dump(mode="json") for spec in trial.runs]),
        "storage": str(storage.root),
        "data_dir": str(data_dir.resolve()),
        "threads": threads,
        "device": device,
    }


def train_trial(config: dict[str, Any]) -> None:
    """Train a trial's runs, and write each one's result to the storage.

    Reports to Ray: epoch, epochs, members, seconds (of training), val_elbo (best member's), and at the end ended, as
    JSON for each run by key its failure or null; or held_elsewhere, because another process is training a run of these;
    or raised, as JSON the failure, before an exception is raised on. With any of them may come warnings, a JSON list.
    """
    run_alone(config, _train)


def run_alone(
    config: dict[str, Any],
    work: Callable[[Trial, dict[str, Any], Storage], dict[str, Any]],
    kind: type[RunSpec] = RunSpec,
) -> None:
    """Do a trial's work while no other process does any of its runs', and report how it ended, which it returns."""
    warnings.start()
    storage = Storage(config["storage"])
    trial = Trial(tuple(kind.of(values) for values in json.loads(config["runs"])))
    keys = [spec.key for spec in trial.runs]
    try:
        if not _take(storage, keys):
            report(NOTHING_YET | {"held_elsewhere": True})
            return
        try:
            outcome = work(trial, config, storage)
        finally:
            storage.locks.give_back(keys)  # now, for Ray may try again before this process has ended
        report(outcome)
    except Exception as error:
        # to the driver and not to the storage, which may be what failed
        report(NOTHING_YET | {"raised": Failure.of(error).to_json()})
        raise


class _Warnings(logging.Handler):
    """What a worker's log says, for the driver to show: nobody reads a worker's own."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def start(self) -> None:
        self.texts.clear()
        for room in ("rme", "tune"):
            logging.getLogger(room).addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


warnings = _Warnings()


def report(values: dict[str, Any]) -> None:
    """Tell Ray, and with it what was logged since the last time."""
    if warnings.texts:
        values = values | {"warnings": json.dumps(warnings.texts)}
        warnings.texts.clear()
    ray.tune.report(values)


NOTHING_YET: dict[str, Any] = {"epoch": 0, "epochs": 0, "members": 0, "seconds": 0.0, "val_elbo": None}
"""What every report holds."""


def _take(storage: Storage, keys: list[str]) -> bool:
    """Lock the runs; tried for a moment, because a driver that looks whether a lock is free holds it that long."""
    for _ in range(3):
        if storage.locks.take(keys):
            return True
        time.sleep(RETRY_S)
    return False


def _train(trial: Trial, config: dict[str, Any], storage: Storage) -> dict[str, Any]:
    """Train those of the trial's runs that have no result, and write it; the report of how they ended."""
    torch.set_num_threads(config["threads"])  # rounding may depend on it, so it is fixed
    missing = [spec for spec in trial.runs if not storage.has_result(spec.key)]
    if not missing:  # another sweep was faster
        return NOTHING_YET | ended({spec.key: None for spec in trial.runs})
    if not storage.trial_folder(trial.key).exists():  # what began as an array goes on as that array
        trial = Trial(tuple(missing))
    specs = trial.runs
    images = data.get(specs[0].dataset).load(Path(config["data_dir"]))
    parents = [_models(storage, spec.parent) for spec in specs if spec.parent is not None]
    device = pick_device(config["device"])
    if device.type == "cuda" and 0 < config["gpus"] < 1:
        # its share of a GPU is a promise to the others on it: beyond it, it runs out of memory, and they do not
        torch.cuda.set_per_process_memory_fraction(config["gpus"], device)
    folder = storage.trial_folder(trial.key)
    reporter = _Reporter(specs)
    failures: dict[str, Failure | None] = {spec.key: None for spec in specs}
    try:
        found = train_runs(specs, images, device, parents or None, folder, reporter, reporter.smaller)
    except OutOfMemory as error:
        # to try again would run out of it again: no exception, which Ray would retry; its checkpoints are kept
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
    return reporter.last | ended(failures)


def _models(storage: Storage, parent: RunSpec) -> list[dict[str, Tensor]]:
    """A finished parent's models; one found damaged is to be trained again."""
    try:
        return storage.models(parent)
    except CorruptFile:
        storage.discard(parent.key)
        raise


def ended(failures: dict[str, Failure | None]) -> dict[str, str]:
    """Of a last report: for each run by key its failure, or None."""
    # as text, because Ray flattens what is nested before a searcher sees it
    return {"ended": json.dumps({key: failure and failure.to_json() for key, failure in failures.items()})}


class _Reporter:
    """Reports a trial's progress to Ray every N epochs, N from what epochs and reports are measured to take.

    An array that is trained in parts, one after another, counts an epoch for what the part is of the whole.
    """

    def __init__(self, specs: Sequence[RunSpec]) -> None:
        self.members = sum(spec.restarts for spec in specs)
        self.last: dict[str, Any] = {
            "epoch": 0, "epochs": specs[0].training_epochs, "members": self.members, "seconds": 0.0, "val_elbo": None
        }  # fmt: skip
        self.epochs_left = 0
        self._parts: dict[tuple[str, ...], tuple[float, float]] = {}
        """For each array, by its members: its part of the epochs, and the seconds that they took."""

    def smaller(self, line: str) -> None:
        """The array was halved, as the line says: its parts begin again from what the checkpoints hold."""
        log.warning("%s", line)
        self._parts.clear()
        self.epochs_left = 0

    def __call__(self, engine: Engine) -> None:
        part = len(engine.members) / self.members
        self._parts[tuple(map(str, engine.members))] = (engine.epoch * part, sum(engine.history.seconds))
        newest = engine.history.val_elbo[-1]
        self.last["epoch"] = round(sum(epochs for epochs, _ in self._parts.values()))
        self.last["seconds"] = sum(seconds for _, seconds in self._parts.values())
        self.last["members"] = len(engine.members)
        if newest.isfinite().any():
            self.last["val_elbo"] = float(newest[newest.isfinite()].max())
        self.epochs_left -= 1
        if self.epochs_left > 0:
            return
        began = time.perf_counter()
        report(self.last)
        took = time.perf_counter() - began
        self.epochs_left = epochs_between_reports(engine.history.seconds[-1], took)


def epochs_between_reports(epoch_s: float, report_s: float) -> int:
    """So many that a report, `report_s` in the worker and `RESULT_S` in the driver, stays within `REPORT_SHARE`."""
    between_s = max(REPORT_EVERY_S, (report_s + RESULT_S) / REPORT_SHARE)
    return max(1, math.ceil(between_s / max(epoch_s, 1e-6)))
