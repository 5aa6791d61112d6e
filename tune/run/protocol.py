"""What the driver and a worker tell each other, and how Ray carries it.

Ray copies a trial's configuration and results and writes them to disk many times, and flattens what is nested. So both
travel as a few plain values, with everything else as JSON text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rme.config import RunSpec
from tune.plan.kinds import KINDS, kind_of
from tune.store.failure import Failure


@dataclass(frozen=True)
class Job:
    """What a worker is to do.

    Attributes:
        key: of the trial, or of a search's sample.
        name: the same, readable.
        runs: the runs that it trains as one array, or times.
        storage: the storage's folder.
        folder: where the checkpoints are.
        data_dir: where the data sets are.
        threads: CPU threads; rounding may depend on them, so they are fixed.
        device: "cpu" or "cuda".
        gpus: how many GPUs it gets; a fraction is a share of one GPU's memory.
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

    def to_config(self) -> dict[str, Any]:
        """As a configuration of Ray's, in which the driver reads key, name, threads and gpus."""
        about = {
            "kind": kind_of(self.runs[0]).name,
            "runs": [spec.model_dump(mode="json") for spec in self.runs],
            "storage": str(self.storage),
            "folder": str(self.folder),
            "data_dir": str(self.data_dir.resolve()),
            "device": self.device,
        }
        return {
            "key": self.key, "name": self.name, "threads": self.threads, "gpus": self.gpus, "job": json.dumps(about)
        }  # fmt: skip

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Job:
        """What `to_config` wrote."""
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
        )


@dataclass(frozen=True)
class Outcome:
    """How far a worker is, or how it ended. Every report is one; the last one says how the job ended.

    Attributes:
        epoch, epochs: how many epochs are done, and of how many; of a timing, repeats.
        members: how many models train together now.
        seconds: of training so far.
        val_elbo: the validation ELBO that the display or ASHA goes by, nats per image; None before the first.
        val_iwae: of a sample that ended well, the validation IWAE of each run's best restart, in the runs' order.
        diverged: of a sample that has no score, the reason.
        ended: of a trial that ended, for each run by key its failure, or None if it has a result.
        held_elsewhere: whether another process trains a run of the job, so that nothing was done.
        raised: the exception that ends this attempt; Ray starts another one.
        warnings: what was logged since the last report.
    """

    epoch: int = 0
    epochs: int = 0
    members: int = 0
    seconds: float = 0.0
    val_elbo: float | None = None
    val_iwae: tuple[float, ...] | None = None
    diverged: str | None = None
    ended: Mapping[str, Failure | None] | None = None
    held_elsewhere: bool = False
    raised: Failure | None = None
    warnings: tuple[str, ...] = field(default=())

    def to_result(self) -> dict[str, Any]:
        """As a result of Ray's: epoch and seconds always, everything else where there is something to say.

        val_iwae is the mean over the runs, by which Optuna goes.
        """
        result: dict[str, Any] = {
            "epoch": self.epoch, "epochs": self.epochs, "members": self.members, "seconds": self.seconds
        }  # fmt: skip
        if self.val_elbo is not None:
            result["val_elbo"] = self.val_elbo
        if self.val_iwae is not None:
            result |= {
                "val_iwae": sum(self.val_iwae) / len(self.val_iwae), "val_iwae_by_run": json.dumps(self.val_iwae)
            }  # fmt: skip
        if self.diverged is not None:
            result["diverged"] = self.diverged
        if self.ended is not None:
            result["ended"] = json.dumps({key: failure and failure.to_json() for key, failure in self.ended.items()})
        if self.held_elsewhere:
            result["held_elsewhere"] = True
        if self.raised is not None:
            result["raised"] = self.raised.to_json()
        if self.warnings:
            result["warnings"] = json.dumps(self.warnings)
        return result

    @classmethod
    def from_result(cls, result: Mapping[str, Any]) -> Outcome:
        """What `to_result` wrote, among whatever Ray adds; an empty result is an outcome of nothing."""
        by_run, ended = result.get("val_iwae_by_run"), result.get("ended")
        raised = result.get("raised")
        return cls(
            epoch=int(result.get("epoch", 0)),
            epochs=int(result.get("epochs", 0)),
            members=int(result.get("members", 0)),
            seconds=float(result.get("seconds", 0.0)),
            val_elbo=result.get("val_elbo"),
            val_iwae=None if by_run is None else tuple(json.loads(by_run)),
            diverged=result.get("diverged"),
            ended=None if ended is None else _failures(json.loads(ended)),
            held_elsewhere=bool(result.get("held_elsewhere", False)),
            raised=None if raised is None else Failure.from_json(raised),
            warnings=tuple(json.loads(result.get("warnings", "[]"))),
        )


def _failures(texts: Mapping[str, str | None]) -> dict[str, Failure | None]:
    return {key: None if text is None else Failure.from_json(text) for key, text in texts.items()}
