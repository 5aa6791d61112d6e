"""A timing's worker: one model, alone on whole GPUs or whole cores, from its images to its result on storage."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from rme import allocator, data, timing
from rme.device import pick_device
from rme.timing import TimingSpec
from tune.plan.grid import Trial
from tune.run.trainable import NOTHING_YET, ended, report, run_alone
from tune.store.storage import Storage


def time_trial(config: dict[str, Any]) -> None:
    """Measure a trial's timings, and write each one's result to the storage.

    Reports to Ray what `tune.run.trainable.train_trial` reports, with repeats for epochs.
    """
    run_alone(config, _time, TimingSpec)


def _time(trial: Trial, config: dict[str, Any], storage: Storage) -> dict[str, Any]:
    torch.set_num_threads(config["threads"])
    device = pick_device(config["device"])
    if device.type == "cpu":
        allocator.keep_freed_memory()  # as when a model is trained and scored
    last: dict[str, Any] = NOTHING_YET
    for spec in trial.runs:
        assert isinstance(spec, TimingSpec)
        if storage.has_result(spec.key):  # another sweep was faster
            continue
        images = data.get(spec.dataset).load(Path(config["data_dir"]))
        began = time.monotonic()

        def tell(repeat: int, repeats: int = spec.repeats, began: float = began) -> None:
            nonlocal last
            last = NOTHING_YET | {
                "epoch": repeat, "epochs": repeats, "members": 1, "seconds": time.monotonic() - began
            }  # fmt: skip
            report(last)

        timing.measure(spec, images, device, tell).save(storage.run_folder(spec.key))
    return last | ended({spec.key: None for spec in trial.runs})
