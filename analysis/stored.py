"""From a storage's results to the frame of runs, without MLflow. Needs torch, for results are safetensors files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.curve_frame import is_curve, points_of, split
from analysis.runs import CollectError, frame_of, newest, row_of
from rme import checkpoint, data
from rme.config import RunSpec, SpecError
from rme.result import MARKER, Result, as_method
from rme.timing import Timing


def stored_runs(folder: Path) -> pd.DataFrame:
    """The finished runs of a storage, as `analysis.collect.collect` gives them; their commit and command are unknown.

    Args:
        folder: the storage (`--storage` of a sweep): results are in `runs/KEY/`.

    Raises:
        CollectError: no such folder, or a result that is damaged or of another version.
    """
    return frame_of(newest([_row(result) for result in _results(folder)]))


def stored_points(folder: Path) -> pd.DataFrame:
    """The points of their training curves (`analysis.curve_frame`). Raises as `stored_runs`."""
    rows: list[dict[str, Any]] = []
    for result in _results(folder):
        if isinstance(result, Timing):
            continue
        measured = {"val_elbo": result.history_elbo, **result.diagnostics}
        elbo = result.history_elbo[:, result.chosen]
        epochs = elbo.isfinite().nonzero().flatten().tolist()
        for name, values in measured.items():
            if is_curve(name):
                metric, component = split(name)
                about = {"run_key": result.spec.key, "metric": metric, "component": component}
                rows += [about | {"epoch": epoch + 1, "value": values[epoch, result.chosen].item()} for epoch in epochs]
    return points_of(rows)


def _results(folder: Path) -> Iterator[Result | Timing]:
    if not (folder / "runs").is_dir():
        raise CollectError(f"{folder} is no storage of a sweep: it has no folder runs")
    for path in sorted((folder / "runs").glob(f"*/{MARKER}")):
        try:
            tensors, _ = checkpoint.load(path)
            kind = Timing if "vae_ms" in tensors else Result
            yield kind.load(path.parent)
        except checkpoint.CorruptFile as error:
            raise CollectError(f"{error}; the sweep makes it anew once it is removed") from error
        except (SpecError, KeyError, TypeError, ValueError) as error:
            raise CollectError(f"{path} is no result of this version: {error}") from error


def _row(result: Result | Timing) -> dict[str, Any]:
    spec, environment = result.spec, result.environment
    tags = {
        "run_key": spec.key,
        "method_label": spec.method_label,
        "dataset_label": data.label(spec.dataset),
        "device": environment["device"],
        "torch_version": environment["torch"],
    }
    started: Any = pd.NaT
    if isinstance(result, Result):
        tags["chosen_restart"] = str(result.chosen)
        tags["starts_from"] = spec.method_class.starts_from or "scratch"
        tags["updates"] = str(len(result.updates))
        model = as_method(spec, result.models[result.chosen])
        tags["parameters"] = str(sum(parameter.numel() for parameter in model.parameters()))
        kept = getattr(result, "kept_epochs", None)  # a result of before knows none
        if kept is not None:
            tags["kept_epoch"] = str(int(kept[result.chosen]))
        if len(result.finished_at):
            seconds = result.finished_at[0].item() - result.train_s / len(result.finished_at)
            started = pd.Timestamp(int(1000 * seconds), unit="ms", tz="UTC")
    row = row_of(params(spec), tags, result.metrics, spec.run_name)
    return row | {"mlflow_run_id": None, "mlflow_parent_id": None, "curves": (), "start_time": started}


def params(spec: RunSpec) -> dict[str, str]:
    """Every field that the run's method reads, and its variant, as text: what MLflow has of it."""
    values: dict[str, Any] = {**spec.canonical, "dataset": spec.dataset}
    del values["schema"]
    values |= {f"options.{name}": value for name, value in values.pop("options", {}).items()}
    if (variant := getattr(spec, "variant", None)) is not None:
        values["variant"] = variant
    return {name: str(value) for name, value in values.items()}
