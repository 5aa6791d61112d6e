"""The samples of a search as they lie on the storage: what a search that was broken off goes on from.

STORAGE/search/<key>/search.json        what is searched
STORAGE/search/<key>/0007.json          a sample's values and, once it has ended, how
STORAGE/search/<key>/0007/              its checkpoints while it is trained
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from optuna.distributions import distribution_to_json

from rme.checkpoint import write_atomically
from rme.config import RunSpec
from tune.search.space import Space
from tune.store.storage import Storage


class Status(StrEnum):
    """How a sample stands. Those that are open or failed are trained by the next command."""

    OPEN = "open"
    DONE = "done"
    STOPPED = "stopped"
    DIVERGED = "diverged"
    FAILED = "failed"


@dataclass
class Sample:
    """One choice of values.

    Attributes:
        number: the samples' order, from 0.
        values: of the searched fields.
        curve: pairs (epoch, validation ELBO): the mean over the runs of their best restarts', nats per image.
        val_iwae: the score, in the same mean; None unless it is done.
        val_iwae_by_seed: each run's, by its seed.
        reason: of a failure or divergence.
        train_s: seconds of training.
        ended_at: seconds since 1970.
    """

    number: int
    values: dict[str, Any]
    outcome: Status = Status.OPEN
    curve: list[tuple[int, float]] = field(default_factory=list)
    val_iwae: float | None = None
    val_iwae_by_seed: dict[str, float] = field(default_factory=dict)
    reason: str = ""
    train_s: float = 0.0
    ended_at: float = 0.0

    @property
    def missing(self) -> bool:
        """It is still to be trained, or to be tried again."""
        return self.outcome in (Status.OPEN, Status.FAILED)


def samples_in(folder: Path) -> list[Sample]:
    """The samples that lie in the folder of one search, by number."""
    return [_read(path) for path in sorted(folder.glob("[0-9]*.json"))]


def _read(path: Path) -> Sample:
    content = json.loads(path.read_text())
    content["outcome"] = Status(content["outcome"])
    content["curve"] = [(int(epoch), float(elbo)) for epoch, elbo in content["curve"]]
    return Sample(**content)


class Samples:
    """The samples of one search: of a space, for runs of one cell, with or without early stopping.

    Samples of other runs, of other values of the fields that are not searched, or of another space are other searches;
    and where none is to be stopped early, those among which some may have been.
    """

    def __init__(self, storage: Storage, runs: Sequence[RunSpec], space: Space, *, early_stopping: bool = True) -> None:
        self.early_stopping = early_stopping
        self.storage = storage
        self.runs = list(runs)
        self.space = space
        settings = [
            {name: value for name, value in spec.canonical.items() if name not in space.fields} for spec in runs
        ]
        options = {name for name in space.fields if name.startswith("options.")}
        for values in settings:
            values["options"] = {k: v for k, v in values.get("options", {}).items() if f"options.{k}" not in options}
        about: dict[str, Any] = {
            "runs": settings,
            "space": {name: json.loads(distribution_to_json(d)) for name, d in sorted(space.fields.items())},
        }
        if not early_stopping:
            about["early_stopping"] = "none"
        self.key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
        self.folder = storage.root / "search" / self.key
        self._write("search.json", {"cell": runs[0].cell, "seeds": [spec.seed for spec in runs], **about})
        self.all = samples_in(self.folder)

    def add(self, values: Mapping[str, Any]) -> Sample:
        """A new sample, noted down before it is trained."""
        sample = Sample(len(self.all), dict(values))
        self.all.append(sample)
        self.note(sample)
        return sample

    def note(self, sample: Sample) -> None:
        """Write down how a sample stands; the checkpoints of one that has ended are not needed any more."""
        self._write(f"{sample.number:04d}.json", asdict(sample))
        if not sample.missing:
            shutil.rmtree(self.training_folder(sample), ignore_errors=True)

    def training_folder(self, sample: Sample) -> Path:
        return self.folder / f"{sample.number:04d}"

    def name_of(self, sample: Sample) -> str:
        """Its name among all searches' samples."""
        return f"{self.key}-{sample.number:04d}"

    def runs_of(self, sample: Sample) -> list[RunSpec]:
        """What is trained for a sample: the search's runs with its values."""
        return [self.space.apply(spec, sample.values) for spec in self.runs]

    @property
    def best(self) -> Sample | None:
        """The done sample with the highest score, of equals the first."""
        done = [sample for sample in self.all if sample.val_iwae is not None]
        return max(done, key=lambda sample: (sample.val_iwae or 0.0, -sample.number)) if done else None

    def _write(self, name: str, content: Mapping[str, Any]) -> None:
        text = json.dumps(content, indent=1) + "\n"
        write_atomically(self.folder / name, lambda path: path.write_text(text))
