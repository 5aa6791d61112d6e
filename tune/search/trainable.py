"""What a worker does for a sample of a search: train it and validate it. It never has the test images."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import ray.tune
import torch
from torch import Tensor

from rme import data
from rme.checkpoint import Checkpoints
from rme.config import RunSpec
from rme.engine import DivergedError, Engine
from rme.training import best_restart, build, pick_device, train, validate
from tune.search.samples import Sample, Samples
from tune.store.storage import Storage

ERROR_FILE = "error.txt"


def sample_job(samples: Samples, sample: Sample, data_dir: Path, threads: int, device: str) -> dict[str, Any]:
    """What a worker needs to know of a sample, as plain JSON values."""
    return {
        "runs": [spec.model_dump(mode="json") for spec in samples.runs_of(sample)],
        "storage": str(samples.storage.root),
        "folder": str(samples.training_folder(sample)),
        "data_dir": str(data_dir.resolve()),
        "threads": threads,
        "device": device,
    }


def train_sample(config: dict[str, Any]) -> None:
    """Train the runs of a sample as one array, from its newest checkpoint, and validate them.

    Reports to Ray while training: epoch, val_elbo; at the end: epoch, val_iwae, val_iwae_by_seed (a list), seconds; or
    diverged, the reason. Scores are means over the runs of their best restarts', in nats per image. Leaves the
    traceback of an exception in the sample's folder.
    """
    folder = Path(config["folder"])
    try:
        ray.tune.report(_train(config, folder))
    except Exception:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ERROR_FILE).write_text(traceback.format_exc())
        raise


def _train(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    torch.set_num_threads(config["threads"])  # rounding may depend on it, so it is fixed
    specs = [RunSpec.of(values) for values in config["runs"]]
    images = data.get(specs[0].dataset).load(Path(config["data_dir"])).without_test()
    storage = Storage(config["storage"])
    parents = [storage.models(spec.parent) for spec in specs if spec.parent is not None]
    engine = build(specs, images, pick_device(config["device"]), parents or None)
    try:
        train(engine, Checkpoints(folder), on_epoch=_Reporter())
        iwae, _ = validate(engine)
        by_seed = _best_of_each_run(engine, iwae)
    except DivergedError as error:
        return {"epoch": engine.epoch, "diverged": str(error)}
    return {
        "epoch": engine.epoch,
        "val_iwae": sum(by_seed) / len(by_seed),
        "val_iwae_by_seed": by_seed,
        "seconds": sum(engine.history.seconds),
    }


def _best_of_each_run(engine: Engine, score: Tensor) -> list[float]:
    """For each run the best of its restarts' scores (B,). Raises DivergedError when one has no finite score."""
    per_run = score.reshape(len(engine.specs), -1)
    return [row[best_restart(row)].item() for row in per_run]


class _Reporter:
    """Reports each validation ELBO, those from before an interruption too: who judges starts anew with the driver."""

    def __init__(self) -> None:
        self.reported = 0

    def __call__(self, engine: Engine) -> None:
        for epoch, elbo in enumerate(engine.history.val_elbo, 1):
            if epoch > self.reported and elbo.isfinite().any():
                by_run = _best_of_each_run(engine, elbo)
                ray.tune.report({"epoch": epoch, "val_elbo": sum(by_run) / len(by_run)})
        self.reported = engine.epoch
