"""Loads each cell's shown run from MLflow: its model, test images, reconstructions and samples.

A cell shows the pictures of its best run by validation IWAE (see `tune.record.tracking`). Only safetensors files are
read; nothing is unpickled.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd
from mlflow.tracking import MlflowClient
from safetensors import SafetensorError, safe_open
from torch import Tensor

from analysis.cells import runs_of
from analysis.names import CELL, IMAGES
from analysis.progress import Steps
from analysis.recorded_model import ModelError, download, load_model
from analysis.tables import Column, Row, sort_rows, to_column, to_row
from rme.methods import Method


@dataclass(frozen=True)
class Shown:
    """A cell's shown run.

    Attributes:
        column, row: its place in the tables.
        run_key, mlflow_run_id: identify the run; seed: its seed.
        images: uint8 (m, C, H, W), its first test images.
        reconstructions: uint8 (n, C, H, W), of the first n images, each from one draw of q(z|x).
        samples: uint8 (n, C, H, W), decoder means at draws of the prior.
        load: reads the model, an array of one member; raises ModelError.
    """

    column: Column
    row: Row
    run_key: str
    mlflow_run_id: str
    seed: int
    images: Tensor
    reconstructions: Tensor
    samples: Tensor
    load: Callable[[], Method]


@dataclass(frozen=True)
class Note:
    """A cell that is not in a figure, and why."""

    column: Column
    row: Row
    reason: str


@dataclass(frozen=True)
class Models:
    """The shown runs in the tables' order, column by column; and notes on the cells without one."""

    shown: list[Shown]
    notes: list[Note]


def shown_models(tracking_uri: str, runs: pd.DataFrame, steps: Steps | None = None) -> Models:
    """The shown run of each cell. A cell whose artifacts are missing or damaged becomes a note.

    Args:
        tracking_uri: the MLflow store that `runs` were read from.
        runs: as from `analysis.collect.collect`.
        steps: is told which cell's images are read.
    """
    steps = steps or Steps()
    client = MlflowClient(tracking_uri)
    shown: list[Shown] = []
    notes: list[Note] = []
    cells = sort_rows(runs.drop_duplicates(CELL))
    ordered = cells.sort_values(["dataset", "decoder", "dim"], key=_places, kind="stable")
    for i, (_, first) in enumerate(ordered.iterrows()):
        steps.doing("reading each cell's images", i, len(cells))
        cell = runs_of(runs, first)
        column = to_column(first)
        try:
            shown.append(_shown(client, column, to_row(first), cell))
        except ModelError as error:
            notes.append(Note(column, to_row(first), str(error)))
    return Models(shown, notes)


def _places(values: pd.Series) -> pd.Series:
    """Sort keys: dims by size, names in the order of their first appearance."""
    return values if values.name == "dim" else pd.Series(pd.factorize(values)[0], values.index)


def _shown(client: MlflowClient, column: Column, row: Row, cell: pd.DataFrame) -> Shown:
    parents = cell["mlflow_parent_id"].dropna().unique()
    if len(parents) != 1:
        raise ModelError("the cell has no parent run with images")
    tensors, about = _read(client, parents[0], IMAGES)
    missing = [name for name in ("test_images", "reconstructions", "samples") if name not in tensors]
    if missing or "run_key" not in about:
        raise ModelError(f"{IMAGES} lacks {', '.join(missing) or 'its run_key'}")
    of = cell[cell["run_key"] == about["run_key"]]
    if of.empty:  # another run is no substitute: these test images may be among its training images
        raise ModelError("the run with images is not among those chosen")
    run = of.iloc[0]
    return Shown(
        column=column,
        row=row,
        run_key=run["run_key"],
        mlflow_run_id=run["mlflow_run_id"],
        seed=int(run["seed"]),
        images=tensors["test_images"],
        reconstructions=tensors["reconstructions"],
        samples=tensors["samples"],
        load=partial(load_model, client, run["mlflow_run_id"]),
    )


def _read(client: MlflowClient, mlflow_run_id: str, name: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors artifact."""
    with tempfile.TemporaryDirectory() as folder:
        path = download(client, mlflow_run_id, name, Path(folder))
        try:
            with safe_open(path, framework="pt") as file:
                # copies, because the file is deleted
                return {key: file.get_tensor(key).clone() for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
        except SafetensorError as error:
            raise ModelError(f"{name} is damaged: {error}") from error
