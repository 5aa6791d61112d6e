"""What a user asked for, as frozen values: made once by the command line, and passed on unchanged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

AUTO: Literal["auto"] = "auto"
"""Of GPUs for a trial and of members in an array: measured on this machine."""


@dataclass(frozen=True)
class Resources:
    """Where trials run, and what each one gets.

    Attributes:
        address: of a running Ray cluster; None: Ray is started on this machine.
        cpus: cores of a trial.
        gpus: GPUs of a trial, or a fraction of one; None: 1 where there are GPUs, else 0.
    """

    address: str | None = None
    cpus: int = 1
    gpus: float | Literal["auto"] | None = None


@dataclass(frozen=True)
class Search:
    """What to search, and how.

    Attributes:
        space: a search space by name, or its file.
        samples: how many samples there are to be.
        early_stopping: whether ASHA stops samples that fall behind.
    """

    space: str
    samples: int = 20
    early_stopping: bool = True


@dataclass(frozen=True)
class Options:
    """A sweep as asked for.

    Attributes:
        command: what was typed.
        grid: a grid's name or file; only, overrides: the texts of `--only` and `--set`.
        storage: the storage's folder; data_dir: where data sets are.
        tracking_uri: where MLflow records.
        report: the report's folder; None: `report/` and the experiment's name.
        resources: what trials get.
        retry_failed: whether to train just what failed.
        search: what to search; None: a sweep.
        given: of the options that say what runs where, those that were typed, by name (`--storage`).
    """

    command: str
    grid: str
    storage: str
    data_dir: Path
    tracking_uri: str
    only: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    report: Path | None = None
    resources: Resources = Resources()
    retry_failed: bool = False
    search: Search | None = None
    given: Mapping[str, str] = field(default_factory=dict)
