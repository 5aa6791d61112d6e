"""The samples of a search on the storage, from which an interrupted search resumes.

STORAGE/search/<key>/search.json        the runs and the space of the search
STORAGE/search/<key>/0007.json          a sample's values and, once it has ended, its outcome and scores
STORAGE/search/<key>/0007/              its checkpoints while it is trained
STORAGE/search/<key>/optuna.log         what optuna-dashboard shows (`tune.search.study`), written from these
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
    """A sample's state. The next command trains samples that are open or failed."""

    OPEN = "open"
    DONE = "done"
    STOPPED = "stopped"
    DIVERGED = "diverged"
    FAILED = "failed"


@dataclass
class Sample:
    """One choice of values, and what its training gave.

    Attributes:
        number: its place in the search, from 0.
        values: of the searched fields.
        curve: pairs (epoch, validation ELBO), in nats per image: the mean over the runs, each by its best restart.
        val_iwae: the score, the same mean of the validation IWAE; None unless the sample is done.
        val_iwae_by_seed: the validation IWAE of each run, by its seed.
        reason: why it failed or diverged.
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
        """Whether it is still to be trained, or to be tried again."""
        return self.outcome in (Status.OPEN, Status.FAILED)


def samples_in(folder: Path) -> list[Sample]:
    """The samples in the folder of one search, by number."""
    return [_read(path) for path in sorted(folder.glob("[0-9]*.json"))]


def _read(path: Path) -> Sample:
    content = json.loads(path.read_text())
    content["outcome"] = Status(content["outcome"])
    content["curve"] = [(int(epoch), float(elbo)) for epoch, elbo in content["curve"]]
    return Sample(**content)


class Samples:
    """The samples of one search.

    A search is identified by its runs (except their values of the searched fields), its space, and whether it stops
    samples early.
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
        """Add a sample and write it to the storage, before it is trained."""
        sample = Sample(len(self.all), dict(values))
        self.all.append(sample)
        self.note(sample)
        return sample

    def note(self, sample: Sample) -> None:
        """Write a sample's state to the storage. Deletes its checkpoints if it needs no more training."""
        self._write(f"{sample.number:04d}.json", asdict(sample))
        if not sample.missing:
            shutil.rmtree(self.training_folder(sample), ignore_errors=True)

    def training_folder(self, sample: Sample) -> Path:
        return self.folder / f"{sample.number:04d}"

    def name_of(self, sample: Sample) -> str:
        """The sample's name, unique among all searches."""
        return f"{self.key}-{sample.number:04d}"

    def runs_of(self, sample: Sample) -> list[RunSpec]:
        """The runs to train for a sample: the search's runs with its values. Raises SpecError."""
        return [self.space.apply(spec, sample.values) for spec in self.runs]

    @property
    def best(self) -> Sample | None:
        """The sample with the highest score, the first of equals; None if none is done."""
        done = [sample for sample in self.all if sample.val_iwae is not None]
        return max(done, key=lambda sample: (sample.val_iwae or 0.0, -sample.number)) if done else None

    def _write(self, name: str, content: Mapping[str, Any]) -> None:
        text = json.dumps(content, indent=1) + "\n"
        write_atomically(self.folder / name, lambda path: path.write_text(text))
