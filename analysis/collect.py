"""From MLflow to one tidy data frame: a row for each finished run."""

from __future__ import annotations

import re
import sqlite3
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

IDENTITY = ["method", "order", "dataset", "dim", "decoder", "seed"]
"""What makes two runs of one experiment the same run, unless their settings differ."""

CELL = IDENTITY[:-1]
"""One number of a table: runs that share these are repetitions of one another."""

_INTEGERS = ["order", "dim", "seed", "restarts", "epochs", "chosen_restart"]
_PARAMS = [*IDENTITY, "restarts", "epochs"]
_TAGS = [
    "run_key", "method_label", "dataset_label", "chosen_restart", "device", "git_commit", "torch_version", "command",
]  # fmt: skip
_METRICS = {
    "val/iwae": "val_iwae",
    "val/elbo": "val_elbo",
    "test/iwae": "test_iwae",
    "test/elbo": "test_elbo",
    "time/inference_ms": "inference_ms",
    "time/inference_ms_sd": "inference_ms_sd",
    "time/ratio_to_vae": "ratio_to_vae",
    "time/ratio_to_vae_sd": "ratio_to_vae_sd",
    "time/train_s": "train_s",
}
_COLUMNS = [
    "run_key", "method", "order", "method_label", "dataset", "dataset_label", "dim", "decoder", "seed", "restarts",
    "epochs", "chosen_restart", *_METRICS.values(), "device", "git_commit", "torch_version", "command",
    "mlflow_run_id", "mlflow_parent_id", "start_time", "curves",
]  # fmt: skip
_PAGE = 5000  # each page sorts all runs anew
_CONNECT_S = 10.0


class CollectError(ValueError):
    """The runs cannot be read; the message, one line, says what is wrong and what would be right."""


class AmbiguousRuns(CollectError):
    """One cell holds runs of more than one setting; the message says which, and how to choose."""


def collect(tracking_uri: str, experiment: str, where: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Read the finished runs of an experiment.

    Args:
        tracking_uri: an MLflow store, such as `sqlite:///mlflow.db` or `http://host:5000`.
        experiment: name of the experiment, one for each grid.
        where: keeps the runs whose param (or device, git_commit, torch_version, ...) has this value; numbers
            compare as numbers. A run that lacks the param is kept: the setting does not concern it.

    Returns:
        One row for each run, ordered by cell and seed; an empty frame with the same columns if none has finished.
        Columns: run_key, method, order (NA for a method that has none), method_label, dataset, dataset_label, dim,
        decoder, seed, restarts, epochs, chosen_restart; val_iwae, val_elbo, test_iwae, test_elbo in nats per image
        (NaN where it was not recorded); inference_ms, the milliseconds of a batch, and of a timing
        ratio_to_vae, and inference_ms_sd and ratio_to_vae_sd over its repeats; train_s, seconds; device, git_commit,
        torch_version, command, mlflow_run_id, mlflow_parent_id, start_time (UTC); curves, a tuple of the names of what
        was recorded during training, for the function of that name; then every other param, as text.

    Raises:
        CollectError: no such store or experiment, a field of `where` that no run has, or a run that is incomplete.
        AmbiguousRuns: two settings in one cell.
    """
    runs = _select(_read(tracking_uri, experiment, "FINISHED"), where)
    # a repeated recording of the same run is no second sample: the newest stands
    newest = {run.data.tags["run_key"]: run for run in sorted(runs, key=lambda run: run.info.start_time)}
    frame = _frame([_row(run) for run in newest.values()], _COLUMNS)
    _check_one_setting_per_cell(frame)
    return frame


def failures(tracking_uri: str, experiment: str, where: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Read the failed runs that no later attempt has finished.

    Returns:
        One row for each run, ordered by cell and seed. Columns: run_key, method, order, method_label, dataset,
        dataset_label, dim, decoder, seed, reason, device, git_commit, mlflow_run_id, start_time (UTC).

    Raises:
        CollectError: no such store or experiment, or a run that is incomplete.
    """
    failed = [run for run in _read(tracking_uri, experiment, "FAILED") if _matches(run, where or {})]
    newest = {run.data.tags["run_key"]: run for run in sorted(failed, key=lambda run: run.info.start_time)}
    if newest:
        for run in _read(tracking_uri, experiment, "FINISHED"):
            newest.pop(run.data.tags["run_key"], None)
    columns = [
        "run_key", "method", "order", "method_label", "dataset", "dataset_label", "dim", "decoder", "seed", "reason",
        "device", "git_commit", "mlflow_run_id", "start_time",
    ]  # fmt: skip
    rows = [_row(run) | {"reason": run.data.tags.get("failure", "no reason recorded")} for run in newest.values()]
    return _frame(rows, columns)[columns]


# ---------------------------------------------------------------------- training curves
CURVES = ("val_elbo", "elbo_q", "alpha", "kl")
"""Validation ELBO, nats; of each component its own ELBO, its mean weight, and its KL from those before it, nats."""

_CURVE = re.compile(rf"val_elbo|({'|'.join(CURVES[1:])})_\d+")

CURVE_COLUMNS = [
    "run_key", *IDENTITY, "method_label", "dataset_label", "parent_epochs", "metric", "component", "epoch", "value",
]  # fmt: skip


def curves(
    tracking_uri: str,
    experiment: str,
    where: Mapping[str, str] | None = None,
    *,
    runs: pd.DataFrame | None = None,
    metrics: Iterable[str] = CURVES,
) -> pd.DataFrame:
    """Read what was recorded during training, in long form.

    MLflow is asked for one metric of one run at a time, some milliseconds each, and by a server longer. Of a large
    experiment pass the `runs` that are wanted.

    Args:
        tracking_uri: as for `collect`.
        experiment: as for `collect`.
        where: as for `collect`.
        runs: read the curves of these, rows of `collect`'s frame; by default of all that `collect` gives.
        metrics: names of `CURVES`.

    Returns:
        One row for each run, metric and epoch. Columns: run_key, method, order, dataset, dim, decoder, seed, the
        labels; parent_epochs: of the VAE that the run starts from, 0 from scratch; metric; component (NA for val_elbo);
        epoch: of the run's own training, from 1; value (finite). Runs and metrics that have none are not in it.

    Raises:
        CollectError: as for `collect`.
    """
    chosen = collect(tracking_uri, experiment, where) if runs is None else runs
    _check_reachable(tracking_uri)
    wanted = set(metrics)
    rows: list[dict[str, Any]] = []
    try:
        client = MlflowClient(tracking_uri)
        for run in chosen.to_dict("records"):
            about = {name: run[name] for name in CURVE_COLUMNS[: len(IDENTITY) + 3]}
            about["parent_epochs"] = 0 if pd.isna(run.get("stage_epochs")) else int(run["epochs"])
            for name in run["curves"]:
                metric, component = _split(name)
                if metric not in wanted:
                    continue
                points = client.get_metric_history(run["mlflow_run_id"], f"train/{name}")
                newest = {point.step: _number(point.value) for point in sorted(points, key=lambda p: p.timestamp)}
                rows += [
                    about | {"metric": metric, "component": component, "epoch": epoch, "value": value}
                    for epoch, value in sorted(newest.items())
                ]
    except Exception as error:  # MLflow lets its backends' own exceptions through
        raise CollectError(f"cannot read the MLflow store {tracking_uri!r}: {_first_line(error)}") from error
    frame = pd.DataFrame(rows, columns=CURVE_COLUMNS).astype({"order": "Int64", "component": "Int64", "value": float})
    return frame[np.isfinite(frame["value"])].reset_index(drop=True)


def _split(name: str) -> tuple[str, int | None]:
    """`kl_1` is the metric kl of component 1."""
    metric, _, number = name.rpartition("_")
    return (metric, int(number)) if number.isdecimal() else (name, None)


# ---------------------------------------------------------------------- reading the store
def _read(tracking_uri: str, experiment: str, status: str) -> list[Run]:
    """All runs of that status that have a run_key, page by page; a cell's summary run has none."""
    _check_reachable(tracking_uri)
    try:
        client = MlflowClient(tracking_uri)
        found = client.get_experiment_by_name(experiment)
        if found is not None and found.lifecycle_stage == "active":
            return list(_pages(client, found.experiment_id, f"attributes.status = '{status}' and tags.run_key != ''"))
        names = sorted(e.name for e in client.search_experiments())
    except Exception as error:  # MLflow lets its backends' own exceptions through
        raise CollectError(f"cannot read the MLflow store {tracking_uri!r}: {_first_line(error)}") from error
    raise CollectError(f"no experiment {experiment!r} in {tracking_uri}; there are {', '.join(names) or 'none'}")


def _pages(client: MlflowClient, experiment_id: str, query: str) -> Iterator[Run]:
    token = None
    while True:
        page = client.search_runs([experiment_id], query, max_results=_PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _check_reachable(tracking_uri: str) -> None:
    """Fail early and clearly where MLflow would create a database, alter a foreign one, or retry for minutes."""
    if tracking_uri.startswith("sqlite"):
        path = Path(tracking_uri.partition(":///")[2].partition("?")[0])
        if not path.is_file():
            raise CollectError(f"no MLflow database at {path} (tracking URI {tracking_uri!r})")
        try:
            with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
                database.execute("SELECT name FROM experiments LIMIT 1")
        except sqlite3.Error as error:
            raise CollectError(f"{path} is not an MLflow database: {error}") from error
    elif tracking_uri.startswith(("http://", "https://")):
        try:
            urllib.request.urlopen(f"{tracking_uri.rstrip('/')}/health", timeout=_CONNECT_S).close()
        except urllib.error.HTTPError:
            pass  # something answers; whether it is MLflow, and lets us in, MLflow's client tells better
        except (OSError, ValueError) as error:
            raise CollectError(f"the tracking server {tracking_uri} does not answer: {error}") from error


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


# ---------------------------------------------------------------------- choosing runs
def _select(runs: list[Run], where: Mapping[str, str] | None) -> list[Run]:
    present = {field for run in runs for field in _fields(run)}
    for name, wanted in (where or {}).items():
        if runs and name not in present:
            raise CollectError(f"where {name}={wanted}: no run has that field; there are {', '.join(sorted(present))}")
    return [run for run in runs if _matches(run, where or {})]


def _matches(run: Run, where: Mapping[str, str]) -> bool:
    fields = _fields(run)
    return all(_same(fields[name], str(wanted)) for name, wanted in where.items() if name in fields)


def _fields(run: Run) -> dict[str, str]:
    """What `where` can ask for."""
    return {name: run.data.tags[name] for name in _TAGS if name in run.data.tags} | run.data.params


def _same(recorded: str, wanted: str) -> bool:
    try:
        return float(recorded) == float(wanted)
    except ValueError:
        return recorded == wanted


# ---------------------------------------------------------------------- one row for each run
def _row(run: Run) -> dict[str, Any]:
    params, tags = run.data.params, run.data.tags
    missing = [name for name in IDENTITY if name not in params]
    if missing:
        raise CollectError(f"run {run.info.run_id} ({run.info.run_name}) has no param {', '.join(missing)}")
    row: dict[str, Any] = {**params, **{name: tags.get(name) for name in _TAGS}}
    for name in _INTEGERS:
        try:
            row[name] = None if row.get(name) in (None, "None", "") else int(row[name])
        except ValueError as error:
            raise CollectError(f"run {run.info.run_id} ({run.info.run_name}): {name}={row[name]!r}") from error
    row["method_label"] = row["method_label"] or _label(row["method"], row["order"])
    row["dataset_label"] = row["dataset_label"] or row["dataset"]
    row |= {column: _number(run.data.metrics.get(metric)) for metric, column in _METRICS.items()}
    row["mlflow_run_id"] = run.info.run_id
    row["mlflow_parent_id"] = tags.get("mlflow.parentRunId")
    names = (name.removeprefix("train/") for name in sorted(run.data.metrics) if name.startswith("train/"))
    row["curves"] = tuple(name for name in names if _CURVE.fullmatch(name))
    row["start_time"] = pd.Timestamp(run.info.start_time, unit="ms", tz="UTC")
    return row


def _label(method: str, order: int | None) -> str:
    return method.upper() if order is None else f"{method.upper()}({order})"


def _number(value: float | None) -> float:
    """NaN for what is missing or not finite; SQL stores keep an infinity as the largest double."""
    return float(value) if value is not None and abs(value) < np.finfo(float).max else np.nan


def _frame(rows: list[dict[str, Any]], columns: list[str]) -> pd.DataFrame:
    frame = pd.DataFrame(rows)
    others = sorted(set(frame.columns) - set(columns))
    frame = frame.reindex(columns=[*columns, *others])
    for name in _INTEGERS:
        if name in frame:
            frame[name] = frame[name].astype("Int64")
    return frame.sort_values(IDENTITY, ignore_index=True)


# ---------------------------------------------------------------------- one setting for each cell
def _check_one_setting_per_cell(runs: pd.DataFrame) -> None:
    """Runs of one cell are repetitions: apart from the seed, nothing may differ between them."""
    settings = [name for name in runs.columns if name not in (*_COLUMNS, *CELL)] + ["restarts", "epochs"]
    for _, cell in runs.groupby(CELL, dropna=False):
        differing = [name for name in settings if cell[name].nunique(dropna=False) > 1]
        repeated = cell.loc[cell["seed"].duplicated(), "seed"]
        # under one summary run, a field that differs is one that the method does not read
        one_parent = cell["mlflow_parent_id"].nunique(dropna=False) == 1 and cell["mlflow_parent_id"].notna().all()
        if repeated.empty and (one_parent or not differing):
            continue
        first = cell.iloc[0]
        seed = f"seed {repeated.iloc[0]} twice" if len(repeated) else "seeds of different settings"
        name = f"{first['dataset_label']} d{first['dim']} {first['decoder']} {first['method_label']}"
        if not differing:  # other code, or an option that was not recorded as a param
            differing = [tag for tag in ("git_commit", "run_key") if cell[tag].nunique(dropna=False) > 1][:1]
        values = {name: sorted({str(value) for value in cell[name]}) for name in differing}
        listed = "; ".join(f"{field} {' or '.join(choices)}" for field, choices in values.items())
        field, choices = next(iter(values.items()))
        raise AmbiguousRuns(
            f"{name} has {seed}, which differ in {listed}. Choose with where={{{field!r}: {choices[0]!r}}} "
            f"or --where {field}={choices[0]}"
        )
