"""Reads the data frame of runs from the results on a storage, without MLflow. Needs torch."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors import SafetensorError, safe_open

from analysis.curve_frame import is_curve, points_of, split
from analysis.names import RUN_KEY
from analysis.runs import CollectError, frame_of, newest, row_of
from rme import checkpoint, data
from rme.config import SpecError
from rme.result import MARKER, Result
from rme.timing import Timing

log = logging.getLogger(__name__)


def stored(folder: Path, keys: Collection[str] | None = None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The finished runs of a storage, and the points of their training curves.

    Args:
        folder: the storage (`--storage` of a sweep), with results in `runs/KEY/`.
        keys: read the runs with these keys only; None: all.

    Returns:
        the runs as from `analysis.collect.collect`, but without commit and command, and without a check of their
        settings; the points as in `analysis.curve_frame`. Results that now have another key, because they are of an
        earlier version of the code or of other images, are logged and left out.

    Raises:
        CollectError: the folder does not exist, or a result is damaged or of another version.
    """
    rows, points = [], []
    for result in _results(folder, keys):
        rows.append(_row(result))
        points += _points(result)
    return frame_of(newest(rows)), points_of(points)


def _results(folder: Path, keys: Collection[str] | None) -> Iterator[Result | Timing]:
    if not (folder / "runs").is_dir():
        raise CollectError(f"{folder} is no storage of a sweep: it has no folder runs")
    for path in sorted((folder / "runs").glob(f"*/{MARKER}")):
        if keys is not None and path.parent.name not in keys:
            continue
        try:
            result = _kind(path).load(path.parent)
            if result.key == path.parent.name:
                yield result
            else:  # its settings mean something else now
                log.warning("result passed over: %s is of an earlier version of this code, or of other images", path)
        except checkpoint.CorruptFile as error:
            raise CollectError(f"{error}; delete the file, and the sweep trains the run again") from error
        except (SpecError, KeyError, TypeError, ValueError) as error:
            raise CollectError(f"{path} is not a result of this version: {error}") from error


def _kind(path: Path) -> type[Result] | type[Timing]:
    try:
        with safe_open(path, framework="pt") as file:
            return Timing if "vae_ms" in file.keys() else Result  # noqa: SIM118
    except SafetensorError as error:
        raise checkpoint.CorruptFile(f"{path} is damaged: {error}") from error


def _points(result: Result | Timing) -> list[dict[str, Any]]:
    """The points of the chosen restart's curves, at the epochs at which the ELBO was measured."""
    if isinstance(result, Timing):
        return []
    chosen, elbo = result.chosen, result.history_elbo[:, result.chosen]
    epochs = elbo.isfinite().nonzero().flatten().tolist()
    found: list[dict[str, Any]] = []
    for name, values in {"val_elbo": result.history_elbo, **result.diagnostics}.items():
        if is_curve(name):
            metric, component = split(name)
            about = {"run_key": result.spec.key, "metric": metric, "component": component}
            found += [about | {"epoch": epoch + 1, "value": values[epoch, chosen].item()} for epoch in epochs]
    return found


def _row(result: Result | Timing) -> dict[str, Any]:
    spec = result.spec
    started: Any = pd.NaT
    if isinstance(result, Result) and result.started_ms is not None:
        started = pd.Timestamp(result.started_ms, unit="ms", tz="UTC")
    labels = {
        RUN_KEY: spec.key, "method_label": spec.method_label, "dataset_label": data.label(spec.dataset)
    }  # fmt: skip
    row = row_of(spec.params, labels | result.tags, result.metrics, spec.run_name)
    return row | {"mlflow_run_id": None, "mlflow_parent_id": None, "curves": (), "start_time": started}
