"""The messages between the driver and its workers: a `Job` to a worker, an `Outcome` for each of its reports.

Ray flattens nested configurations and results, and copies them and writes them to disk many times. So they consist of
a few plain values, with everything else as JSON text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rme.config import RunSpec
from tune.plan.kinds import KINDS, kind_of
from tune.plan.trials import Trial
from tune.store.failure import Failure
from tune.store.storage import Storage


@dataclass(frozen=True)
class Job:
    """The task of one worker.

    Attributes:
        key: of the trial, or of the search's sample.
        name: its readable name.
        runs: the runs to train as one array, or to time.
        storage: the storage's folder.
        folder: the checkpoints' folder.
        data_dir: the data sets' folder.
        threads: number of CPU threads; fixed, because rounding may depend on it.
        device: "cpu" or "cuda".
        gpus: number of GPUs; a fraction is a share of one GPU's memory.
        sweep: name of the sweep or search, for its lock when it is stopping.
    """

    key: str
    name: str
    runs: tuple[RunSpec, ...]
    storage: Path
    folder: Path
    data_dir: Path
    threads: int
    device: str
    gpus: float
    sweep: str = ""

    @classmethod
    def of_trial(
        cls,
        trial: Trial,
        storage: Storage,
        data_dir: Path,
        *,
        threads: int,
        device: str,
        gpus: float,
        sweep: str = "",
    ) -> Job:
        """The job of a trial, whose checkpoints are in its folder of the storage."""
        folder = storage.trial_folder(trial.key)
        return cls(trial.key, trial.name, trial.runs, storage.root, folder, data_dir, threads, device, gpus, sweep)

    def to_config(self) -> dict[str, Any]:
        """The job as a Ray configuration, from which the driver reads key, name, threads and gpus."""
        about = {
            "kind": kind_of(self.runs[0]).name,
            "runs": [spec.model_dump(mode="json") for spec in self.runs],
            "storage": str(self.storage),
            "folder": str(self.folder),
            "data_dir": str(self.data_dir.resolve()),
            "device": self.device,
            "sweep": self.sweep,
        }
        return {
            "key": self.key, "name": self.name, "threads": self.threads, "gpus": self.gpus, "job": json.dumps(about)
        }  # fmt: skip

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Job:
        """The job that `to_config` wrote."""
        about = json.loads(config["job"])
        kind = KINDS[about["kind"]]
        return cls(
            key=config["key"],
            name=config["name"],
            runs=tuple(kind.spec.of(values) for values in about["runs"]),
            storage=Path(about["storage"]),
            folder=Path(about["folder"]),
            data_dir=Path(about["data_dir"]),
            threads=config["threads"],
            device=about["device"],
            gpus=config["gpus"],
            sweep=about["sweep"],
        )


@dataclass(frozen=True)
class Outcome:
    """A worker's report: its progress, or how the job ended.

    Attributes:
        epoch, epochs: finished and total number of epochs; of a timing, repeats.
        members: how many models train together now.
        seconds: of training so far.
        val_elbo: of a search's sample, the validation ELBO for ASHA, nats per image; None before the first.
        val_elbos: for the display, the validation ELBO of each run's best restart, in the runs' order; NaN for a run
            without one. Empty before the first.
        val_iwae: at the end of a search's sample, the validation IWAE of each run's best restart, in the runs' order.
        diverged: at the end of a sample without a score, the reason.
        ended: at the end of a trial, by run key the failure, or None for a run with a result.
        held_elsewhere: whether the job was not done because another process trains one of its runs.
        stopped: whether the job was left, with a checkpoint, because the sweep is stopping.
        raised: the exception that ended this attempt; Ray starts another one.
        warnings: logged since the last report.
    """

    epoch: int = 0
    epochs: int = 0
    members: int = 0
    seconds: float = 0.0
    val_elbo: float | None = None
    val_elbos: tuple[float, ...] = ()
    val_iwae: tuple[float, ...] | None = None
    diverged: str | None = None
    ended: Mapping[str, Failure | None] | None = None
    held_elsewhere: bool = False
    stopped: bool = False
    raised: Failure | None = None
    warnings: tuple[str, ...] = ()

    def to_result(self) -> dict[str, Any]:
        """The outcome as a Ray result: epoch, epochs, members and seconds, and every other field that has a value.

        val_iwae is the mean over the runs, which Optuna maximises.
        """
        result: dict[str, Any] = {
            "epoch": self.epoch, "epochs": self.epochs, "members": self.members, "seconds": self.seconds
        }  # fmt: skip
        if self.val_elbo is not None:
            result["val_elbo"] = self.val_elbo
        if self.val_elbos:
            result["val_elbos"] = json.dumps(self.val_elbos)
        if self.val_iwae is not None:
            result |= {
                "val_iwae": sum(self.val_iwae) / len(self.val_iwae), "val_iwae_by_run": json.dumps(self.val_iwae)
            }  # fmt: skip
        if self.diverged is not None:
            result["diverged"] = self.diverged
        if self.ended is not None:
            result["ended"] = json.dumps({key: failure and failure.to_json() for key, failure in self.ended.items()})
        for name in ("held_elsewhere", "stopped"):
            if getattr(self, name):
                result[name] = True
        if self.raised is not None:
            result["raised"] = self.raised.to_json()
        if self.warnings:
            result["warnings"] = json.dumps(self.warnings)
        return result

    @classmethod
    def from_result(cls, result: Mapping[str, Any]) -> Outcome:
        """The outcome that `to_result` wrote. Ray's own entries are ignored, missing ones have their defaults."""
        by_run, ended = result.get("val_iwae_by_run"), result.get("ended")
        raised = result.get("raised")
        return cls(
            epoch=int(result.get("epoch", 0)),
            epochs=int(result.get("epochs", 0)),
            members=int(result.get("members", 0)),
            seconds=float(result.get("seconds", 0.0)),
            val_elbo=result.get("val_elbo"),
            val_elbos=tuple(json.loads(result.get("val_elbos", "[]"))),
            val_iwae=None if by_run is None else tuple(json.loads(by_run)),
            diverged=result.get("diverged"),
            ended=None if ended is None else _failures(json.loads(ended)),
            held_elsewhere=bool(result.get("held_elsewhere", False)),
            stopped=bool(result.get("stopped", False)),
            raised=None if raised is None else Failure.from_json(raised),
            warnings=tuple(json.loads(result.get("warnings", "[]"))),
        )


def _failures(texts: Mapping[str, str | None]) -> dict[str, Failure | None]:
    return {key: None if text is None else Failure.from_json(text) for key, text in texts.items()}
