"""The options of a sweep or search, as the command line parsed them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tune.run.stopping import TimeLimit

AUTO: Literal["auto"] = "auto"
"""Value of `--gpus-per-trial` and `--members`: measured on this machine."""


@dataclass(frozen=True)
class Resources:
    """Where trials run, and each trial's cores and GPUs.

    Attributes:
        address: of a running Ray cluster; None: Ray is started on this machine.
        cpus: cores per trial.
        gpus: GPUs per trial, or a fraction of one; None: 1 if GPUs are available, else 0.
    """

    address: str | None = None
    cpus: int = 1
    gpus: float | Literal["auto"] | None = None


@dataclass(frozen=True)
class Search:
    """The options of a search.

    Attributes:
        space: the search space's name or file.
        samples: how many samples to train.
        early_stopping: whether ASHA stops samples with low scores early.
    """

    space: str
    samples: int = 20
    early_stopping: bool = True


@dataclass(frozen=True)
class Options:
    """All options of one command.

    Attributes:
        command: the command as typed; program: its first words, before the options.
        grid: the grid's name or file; only, overrides: the texts of `--only` and `--set`.
        storage: the storage's folder; data_dir: the data sets' folder.
        tracking_uri: of MLflow.
        report: the report's folder; None: `report/` and the experiment's name.
        reports: whether a sweep that has ended writes the report.
        resources: where trials run.
        retry_failed: whether to train only failed runs.
        inline: whether to train in this process, without Ray and MLflow.
        record: whether to record only what the storage has, and train nothing.
        began: when the command began, on the monotonic clock.
        limit: when the command must stop; None: no limit.
        register: the registered model of which the best run becomes a version; None: nothing is registered.
        search: the search's options; None: a sweep.
        given: the typed ones of the options that say what runs where, by name (`--storage`).
    """

    command: str
    grid: str
    storage: str
    data_dir: Path
    tracking_uri: str
    only: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    report: Path | None = None
    reports: bool = True
    program: tuple[str, ...] = ("python", "tune/sweep.py")
    resources: Resources = Resources()
    retry_failed: bool = False
    inline: bool = False
    record: bool = False
    began: float = field(default_factory=time.monotonic)
    limit: TimeLimit | None = None
    register: str | None = None
    search: Search | None = None
    given: Mapping[str, str] = field(default_factory=dict)
