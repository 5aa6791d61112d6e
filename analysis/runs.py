"""The data frame of runs that all of `analysis` uses: its columns, how rows are built, and how they are selected.

A row is built from a run's params, tags and metrics, as MLflow has them; results on a storage provide the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.names import CELL, METRICS
from analysis.stats import KEY_TYPES, natural, variant_places
from rme.errors import nearest

IDENTITY = [*CELL, "seed"]
"""The columns that identify a run in an experiment, if all runs of a cell have the same settings."""

INTEGERS = [
    "order", "dim", "seed", "restarts", "epochs", "finish_epochs", "stage_epochs", "patience", "stage_patience",
    "chosen_restart", "kept_epoch", "updates", "parameters", "decoder_parameters", "train_images", "validation_images",
    "test_images", "threads",
]  # fmt: skip
RATES = ["learning_rate", "finish_learning_rate", "stage_learning_rate"]
SETTINGS = [
    "restarts", "epochs", "learning_rate", "finish_epochs", "finish_learning_rate", "stage_epochs",
    "stage_learning_rate", "keep", "stage_keep", "patience", "stage_patience",
]  # fmt: skip
"""Params with a column in every frame; NA if the run's method does not use it, or the run is older than the param."""

TAGS = [
    "run_key", "method_label", "dataset_label", "starts_from", "chosen_restart", "kept_epoch", "updates", "parameters",
    "decoder_parameters", "image_shape", "train_images", "validation_images", "test_images", "device", "device_type",
    "threads", "git_commit", "torch_version", "python_version", "command",
]  # fmt: skip
NUMBERS = [*RATES, *METRICS.values()]
PLACE = ["mlflow_run_id", "mlflow_parent_id", "curves", "epochs_before"]
"""The run's place in MLflow; empty for runs from other sources."""

COLUMNS = [
    "run_key", "method", "order", "variant", "method_label", "dataset", "dataset_label", "dim", "decoder", "seed",
    "starts_from", *SETTINGS, "chosen_restart", "kept_epoch", "updates", "parameters", "decoder_parameters",
    "image_shape", "train_images", "validation_images", "test_images", *METRICS.values(), "device", "device_type",
    "threads", "git_commit", "torch_version", "python_version", "command", "start_time", *PLACE,
]  # fmt: skip
"""The columns of every frame. Every other param follows as a further column, as text."""

_NAMED = 20  # values that an error names before "and n more"
_NEEDED = [name for name in IDENTITY if name != "variant"]


class CollectError(ValueError):
    """The runs cannot be read; the message, in one line, says why and what would be valid."""


class NoMatch(CollectError):
    """No run has the value that runs are chosen by; the message names the values that there are."""


class AmbiguousRuns(CollectError):
    """A cell has runs with different settings; the message names them and says how to choose."""


def row_of(params: Mapping[str, str], tags: Mapping[str, str], metrics: Mapping[str, float], name: str) -> dict:
    """A row of the frame from a run's record.

    Args:
        params: every field that affects the run, as text.
        tags: the recorded ones of `TAGS`.
        metrics: by MLflow's names.
        name: the run's, for error messages.

    Raises:
        CollectError: a param that identifies the run is missing, or the value of a numeric param is not a number.
    """
    missing = [field for field in _NEEDED if field not in params]
    if missing:
        raise CollectError(f"run {name} has no param {', '.join(missing)}")
    row: dict[str, Any] = {**params, **{tag: tags.get(tag) for tag in TAGS}}
    for kind, names in ((int, INTEGERS), (float, RATES)):
        for field in names:
            try:
                row[field] = None if row.get(field) in (None, "None", "") else kind(row[field])
            except ValueError as error:
                raise CollectError(f"run {name}: {field}={row[field]!r} is not a number") from error
    row["variant"] = None if row.get("variant") in (None, "None", "") else row["variant"]
    row["method_label"] = row["method_label"] or _label(row["method"], row["order"], row["variant"])
    row["dataset_label"] = row["dataset_label"] or row["dataset"]
    return row | {column: finite(metrics.get(metric)) for metric, column in METRICS.items()}


def _label(method: str, order: int | None, variant: str | None) -> str:
    return method.upper() + ("" if order is None else f"({order})") + ("" if variant is None else f", {variant}")


def finite(value: float | None) -> float:
    """The value, or NaN if it is missing or not finite. SQL stores have the largest double for an infinity."""
    return float(value) if value is not None and abs(value) < np.finfo(float).max else np.nan


def frame_of(rows: Iterable[Mapping[str, Any]], columns: Iterable[str] = COLUMNS) -> pd.DataFrame:
    """The data frame of these rows: `columns`, then all other fields by name; ordered by cell and seed."""
    frame = pd.DataFrame(list(rows))
    columns = list(columns)
    frame = frame.reindex(columns=[*columns, *sorted(set(frame.columns) - set(columns))])
    frame = frame.astype({name: "Int64" for name in INTEGERS if name in frame})
    frame = frame.astype({name: float for name in NUMBERS if name in frame})
    frame = frame.astype({name: kind for name, kind in KEY_TYPES.items() if name in frame})
    for name in TAGS:  # a text that no run has, which is a missing column in some sources and None in others
        if name in frame and name not in INTEGERS and frame[name].isna().all():
            frame[name] = pd.Series(None, frame.index, dtype=object)
    frame["start_time"] = pd.to_datetime(frame["start_time"], utc=True)
    return frame.sort_values(IDENTITY, key=_places, ignore_index=True)


def _places(values: pd.Series) -> pd.Series:
    """Sort keys: variants by their order, other values unchanged."""
    return variant_places(values) if values.name == "variant" else values


def newest(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The newest row of each run_key, so that a run that was recorded twice counts once."""
    by_time = sorted(rows, key=lambda row: -np.inf if pd.isna(row["start_time"]) else row["start_time"].timestamp())
    return list({row["run_key"]: row for row in by_time}.values())


# ---------------------------------------------------------------------- choosing runs
def choose(rows: Iterable[Mapping[str, Any]], where: Mapping[str, str] | None) -> list[Mapping[str, Any]]:
    """The rows whose fields have these values. A row without a field is kept, because the field does not affect it.

    Raises:
        CollectError: no row has one of the fields.
        NoMatch: no row has a field's value.
    """
    rows = list(rows)
    present = {name for row in rows for name in _fields(row)}
    for name, wanted in (where or {}).items():
        if rows and name not in present:
            valid = ", ".join(sorted(present))
            close = nearest(name, present)
            raise CollectError(f"where {name}={wanted}: no run has that field; {close}valid fields are {valid}")
    chosen = matching(rows, where)
    if rows and not chosen:
        _check_values(rows, where or {})
    return chosen


def _check_values(rows: Sequence[Mapping[str, Any]], where: Mapping[str, str]) -> None:
    """Raise NoMatch for the first field whose value no row has."""
    fields = [_fields(row) for row in rows]
    for name, wanted in where.items():
        recorded = sorted({has[name] for has in fields if name in has}, key=natural)
        if any(_same(value, str(wanted)) for value in recorded):
            continue
        close = "" if any(value.replace(".", "").isdigit() for value in recorded) else nearest(str(wanted), recorded)
        more = f" and {len(recorded) - _NAMED} more" if len(recorded) > _NAMED else ""
        raise NoMatch(
            f"where {name}={wanted}: no finished run has that value; {close}valid values are "
            f"{', '.join(recorded[:_NAMED])}{more}"
        )


def matching(rows: Iterable[Mapping[str, Any]], where: Mapping[str, str] | None) -> list[Mapping[str, Any]]:
    """As `choose`, but a field that no row has is ignored."""
    fields = [(row, _fields(row)) for row in rows]
    wanted = {name: str(value) for name, value in (where or {}).items()}
    return [row for row, has in fields if all(_same(has[n], value) for n, value in wanted.items() if n in has)]


def _fields(row: Mapping[str, Any]) -> dict[str, str]:
    """The fields of a row for `where`, as text; a missing order or variant is "None"."""
    hidden = {*METRICS.values(), *PLACE, "start_time"}
    known = {name: str(value) for name, value in row.items() if name not in hidden and not pd.isna(value)}
    return dict.fromkeys(IDENTITY, "None") | known


def _same(recorded: str, wanted: str) -> bool:
    try:
        return float(recorded) == float(wanted)
    except ValueError:
        return recorded == wanted


# ---------------------------------------------------------------------- one setting for each cell
def check_one_setting_per_cell(runs: pd.DataFrame) -> None:
    """Check that the runs of each cell differ only in their seeds.

    Raises:
        AmbiguousRuns: a cell has runs with different settings.
    """
    settings = [name for name in runs.columns if name not in COLUMNS] + SETTINGS
    for _, cell in runs.groupby(CELL, dropna=False):
        differing = [name for name in settings if cell[name].nunique(dropna=False) > 1]
        repeated = cell.loc[cell["seed"].duplicated(), "seed"]
        # if all have one parent run in MLflow, a field that differs does not affect the method
        one_parent = cell["mlflow_parent_id"].nunique(dropna=False) == 1 and cell["mlflow_parent_id"].notna().all()
        if repeated.empty and (one_parent or not differing):
            continue
        first = cell.iloc[0]
        seed = f"seed {repeated.iloc[0]} twice" if len(repeated) else "seeds of different settings"
        name = f"{first['dataset_label']} d{first['dim']} {first['decoder']} {first['method_label']}"
        if not differing:  # other code, or a setting that is not a param
            differing = [tag for tag in ("git_commit", "run_key") if cell[tag].nunique(dropna=False) > 1][:1]
        values = {name: sorted({str(value) for value in cell[name]}) for name in differing}
        listed = "; ".join(f"{field} {' or '.join(choices)}" for field, choices in values.items())
        field, choices = next(iter(values.items()))
        raise AmbiguousRuns(
            f"{name} has {seed}, which differ in {listed}. Choose with where={{{field!r}: {choices[0]!r}}} "
            f"or --where {field}={choices[0]}; a grid tells two settings of one row apart by a `variant`"
        )
