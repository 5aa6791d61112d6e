"""How each row of a grid is trained: its start, its length, its learning rate, and which epoch is kept."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from analysis.rate_text import rate_text
from rme import data
from rme.config import RunSpec


@dataclass(frozen=True)
class Terms:
    """How the runs of a row are trained.

    Attributes:
        method: its name in tables, with order and variant.
        starts_from: "vae", the finished VAE of the same cell, or "scratch".
        start_epochs: epochs of that VAE; 0 from scratch.
        start_learning_rate: that VAE's, before its finish; None from scratch.
        epochs: of its own training; 0 if nothing is trained.
        learning_rate: of its own training, before its finish; None if nothing is trained.
        finish_epochs, finish_learning_rate: the finish of the training from scratch, which is its own or that of the
            VAE that it starts from; 0 and None without a finish.
        keep: which epoch's parameters are kept.
        patience: epochs, of its own training; None: it trains to its last epoch.
    """

    method: str
    starts_from: str
    start_epochs: int
    start_learning_rate: float | None
    epochs: int
    learning_rate: float | None
    finish_epochs: int
    finish_learning_rate: float | None
    keep: str
    patience: int | None

    @classmethod
    def of(cls, spec: RunSpec) -> Terms:
        start, trained = spec.parent, bool(spec.training_epochs)
        return cls(
            method=spec.method_label,
            starts_from=spec.method_class.starts_from or "scratch",
            start_epochs=start.training_epochs if start is not None else 0,
            start_learning_rate=start.rate if start is not None else None,
            epochs=spec.training_epochs,
            learning_rate=spec.rate if trained else None,
            finish_epochs=spec.finish_epochs,
            finish_learning_rate=spec.finish_learning_rate if spec.finish_epochs else None,
            keep=spec.own_keep,
            patience=spec.own_patience if trained else None,
        )

    @property
    def start(self) -> str:
        """`VAE, 60 at 5e-4`, or `scratch`."""
        if self.start_learning_rate is None:
            return self.starts_from
        start = f"{self.starts_from.upper()}, {self.start_epochs:,} at {rate_text(self.start_learning_rate)}"
        return f"{start}, {self.finish}" if self.finish else start

    @property
    def finish(self) -> str:
        """`last 8 at 2e-5`; empty without a finish."""
        if self.finish_learning_rate is None:
            return ""
        return f"last {self.finish_epochs:,} at {rate_text(self.finish_learning_rate)}"


@dataclass(frozen=True)
class Row:
    """Cells of one row of the grid that are trained alike: all of them, or those of some data sets or decoders."""

    terms: Terms
    datasets: tuple[str, ...]
    decoders: tuple[str, ...]
    cells: int

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self.terms), "datasets": self.datasets, "decoders": self.decoders, "cells": self.cells}


def rows(runs: Iterable[RunSpec]) -> list[Row]:
    """The different terms of these runs, in order of first appearance, with the cells that they apply to."""
    found: dict[Terms, dict[str, RunSpec]] = {}
    for cell_key, spec in {spec.cell_key: spec for spec in runs}.items():
        found.setdefault(Terms.of(spec), {})[cell_key] = spec
    return [
        Row(
            terms,
            tuple(dict.fromkeys(data.label(spec.dataset) for spec in cells.values())),
            tuple(dict.fromkeys(spec.decoder for spec in cells.values())),
            len(cells),
        )
        for terms, cells in found.items()
    ]
