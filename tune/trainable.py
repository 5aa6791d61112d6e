"""The thin adapter between Ray Tune and the engine: one trial, from its newest checkpoint to its results on storage."""

from __future__ import annotations

import json
import shutil
import time
import traceback
from pathlib import Path
from typing import Any

import ray.tune
import torch

from rme import data
from rme.config import RunSpec
from rme.engine import DivergedError, Engine
from rme.training import build, pick_device, results, train
from tune.grid import Trial
from tune.storage import Storage

REPORT_EVERY_S = 1.0
"""Reports are for the display alone, so they follow the clock: a result costs the driver about a millisecond."""


def job(trial: Trial, storage: Storage, data_dir: Path, threads: int, device: str) -> dict[str, Any]:
    """What a worker needs to know of a trial, as plain JSON values."""
    return {
        "key": trial.key,
        "name": trial.name,
        "runs": [spec.model_dump(mode="json") for spec in trial.runs],
        "storage": str(storage.root),
        "data_dir": str(data_dir.resolve()),
        "threads": threads,
        "device": device,
    }


def train_trial(config: dict[str, Any]) -> None:
    """Train a trial's runs, and write each one's result to the storage.

    Reports to Ray: epoch, epochs, members, seconds (of training), val_elbo (best member's), and at the end failures,
    as JSON the reasons of runs that came to nothing, by key. Leaves the traceback of an exception on the storage.
    """
    storage = Storage(config["storage"])
    error_file = storage.error_file(config["key"])
    try:
        _train(config, storage)
    except Exception:
        error_file.parent.mkdir(parents=True, exist_ok=True)
        error_file.write_text(traceback.format_exc())
        raise


def _train(config: dict[str, Any], storage: Storage) -> None:
    torch.set_num_threads(config["threads"])  # rounding may depend on it, so it is fixed
    specs = [RunSpec.of(values) for values in config["runs"]]
    images = data.get(specs[0].dataset).load(Path(config["data_dir"]))
    parents = [storage.models(spec.parent) for spec in specs if spec.parent is not None]
    engine = build(specs, images, pick_device(config["device"]), parents or None)
    try:
        train(engine, storage.checkpoints(config["key"]), on_epoch=_Reporter())
    except DivergedError as error:
        # to train again would diverge again: no exception, which Ray would retry
        ray.tune.report(_progress(engine) | _failures({spec.key: str(error) for spec in specs}))
        return
    failures = {}
    for key, result in results(engine).items():
        if isinstance(result, DivergedError):
            failures[key] = str(result)
        else:
            result.save(storage.run_folder(key))
    ray.tune.report(_progress(engine) | _failures(failures))
    shutil.rmtree(storage.trial_folder(config["key"]), ignore_errors=True)


def _failures(reasons: dict[str, str]) -> dict[str, str]:
    # as text, because Ray flattens what is nested before a searcher sees it
    return {"failures": json.dumps(reasons)}


def _progress(engine: Engine) -> dict[str, Any]:
    measured = [float(value.max()) for value in engine.history.val_elbo if value.isfinite().any()]
    return {
        "epoch": engine.epoch,
        "epochs": engine.spec.training_epochs,
        "members": len(engine.members),
        "seconds": sum(engine.history.seconds),
        "val_elbo": measured[-1] if measured else None,
    }


class _Reporter:
    """Reports an engine's progress to Ray, at most once in `REPORT_EVERY_S`."""

    def __init__(self) -> None:
        self.due = 0.0

    def __call__(self, engine: Engine) -> None:
        if time.monotonic() >= self.due:
            ray.tune.report(_progress(engine))
            self.due = time.monotonic() + REPORT_EVERY_S
