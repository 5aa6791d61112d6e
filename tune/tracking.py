"""The only room that writes MLflow: a parent run for each cell, a child for each run, written from the driver alone.

A run is recorded when its result is on the storage, so MLflow can be written late, or again: recording is idempotent.
A run is found by its tag `run_key`; one left half-written by a killed driver is completed, never doubled.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

import numpy as np
import pandas as pd
import torchvision
from mlflow import MlflowClient
from mlflow.entities import Experiment, Metric, Param, Run, RunStatus, RunTag, ViewType
from safetensors.torch import save_file
from torch import Tensor

from analysis.collect import CELL, AmbiguousRuns, collect
from analysis.stats import compare_column
from rme import data
from rme.config import RunSpec
from rme.result import Result

log = logging.getLogger(__name__)
for _name in ("mlflow", "alembic"):
    logging.getLogger(_name).setLevel(logging.WARNING)  # they announce each table of a new database

METRICS_PER_BATCH = 1000
"""MLflow's limit for one log_batch."""

CELL_TAG = "cell_key"


class TrackingError(RuntimeError):
    """A tracking server that cannot be reached or used."""


class Tracker:
    """One experiment on one tracking server.

    Args:
        uri: `sqlite:///mlflow.db`, or a server's http URI.
        experiment: its name; made if it is not there.

    Raises:
        TrackingError: the server does not answer, or the URI is of no kind that MLflow knows.
    """

    def __init__(self, uri: str, experiment: str) -> None:
        self.uri = uri
        self.experiment = experiment
        self._cells: dict[str, str] = {}
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
        path = sqlite_path(uri)
        try:
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
            self.client = MlflowClient(tracking_uri=uri)
            found = self.client.get_experiment_by_name(experiment)
            if found is None:
                # beside the database, not in whatever folder the command was given
                artifacts = (path.parent / "mlartifacts" / experiment).as_uri() if path else None
                tags = {"mlflow.experimentKind": "custom_model_development"}  # else the UI opens on GenAI traces
                self.experiment_id = self.client.create_experiment(experiment, artifacts, tags)
            else:
                self._check_active(found)
                self.experiment_id = found.experiment_id
        except TrackingError:
            raise
        except Exception as error:  # MLflow lets through what its many stores raise
            raise TrackingError(f"--tracking-uri {uri}: {_first_line(error)}") from error

    def _check_active(self, experiment: Experiment) -> None:
        if experiment.lifecycle_stage != "active":
            raise TrackingError(
                f"--tracking-uri {self.uri}: the experiment {experiment.name!r} was deleted there; "
                f"restore it (`mlflow experiments restore -x {experiment.experiment_id}`) or name the grid otherwise"
            )

    # ------------------------------------------------------------------ reading
    def recorded(self) -> set[str]:
        """Keys of the runs that are recorded and finished."""
        return {run.data.tags["run_key"] for run in self._search("attributes.status = 'FINISHED'")}

    def _search(self, condition: str = "") -> Iterator[Run]:
        """Child runs, page by page."""
        token = None
        wanted = "tags.run_key != ''" + (f" and {condition}" if condition else "")
        while True:
            page = self.client.search_runs(
                [self.experiment_id], wanted, ViewType.ACTIVE_ONLY, max_results=1000, page_token=token
            )
            yield from page
            token = page.token
            if not token:
                return

    def _find(self, tag: str, value: str) -> Run | None:
        found = self.client.search_runs([self.experiment_id], f"tags.{tag} = '{value}'", max_results=1)
        return found[0] if found else None

    # ------------------------------------------------------------------ writing
    def record(self, result: Result) -> None:
        """Record a finished run, whatever of it is there already. MLflow's errors pass through."""
        spec = result.spec
        epochs = spec.training_epochs
        started = int(1000 * (result.finished_at[0].item() - result.train_s / epochs))
        run = self._child(spec, started)
        if run.info.status == RunStatus.to_string(RunStatus.FINISHED):
            return
        run_id = run.info.run_id
        ended = int(1000 * result.finished_at[-1].item())
        metrics = [Metric(name, value, ended, epochs) for name, value in result.metrics.items()]
        metrics += list(_history(result))
        for i in range(0, len(metrics), METRICS_PER_BATCH):
            self.client.log_batch(run_id, metrics=metrics[i : i + METRICS_PER_BATCH])
        environment = result.environment
        tags = {
            "device": environment["device"],
            "torch_version": environment["torch"],
            "members": environment["members"],
            "chosen_restart": str(result.chosen),
        }
        self.client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])
        if "failure" in run.data.tags:
            self.client.delete_tag(run_id, "failure")
        with tempfile.TemporaryDirectory() as folder:
            _write_artifacts(result, Path(folder))
            self.client.log_artifacts(run_id, folder)
        self.client.set_terminated(run_id, RunStatus.to_string(RunStatus.FINISHED), ended)

    def record_failure(self, spec: RunSpec, reason: str) -> None:
        """Mark a run as failed, with the reason as its tag `failure`."""
        run = self._child(spec, int(1000 * time.time()))
        if run.info.status == RunStatus.to_string(RunStatus.FINISHED):
            return
        self.client.set_tag(run.info.run_id, "failure", reason[:5000])
        self.client.set_terminated(run.info.run_id, RunStatus.to_string(RunStatus.FAILED))

    def _child(self, spec: RunSpec, started: int) -> Run:
        """The run's MLflow run, made if it is not there, with its parameters."""
        run = self._find("run_key", spec.key)
        if run is None:
            tags = {
                "run_key": spec.key,
                "cell": spec.cell,
                "method_label": spec.method_label,
                "dataset_label": data.label(spec.dataset),
                "git_commit": git_commit(),
                "mlflow.source.name": "tune/sweep.py",
                "mlflow.parentRunId": self._cell(spec),
            }
            run = self.client.create_run(self.experiment_id, started, tags, spec.run_name)
        self._log_params(run, _params(spec))
        return run

    def _log_params(self, run: Run, params: list[Param]) -> None:
        """Those that are not there; a killed driver may have got no further than making the run."""
        missing = [param for param in params if param.key not in run.data.params]
        if missing:
            self.client.log_batch(run.info.run_id, params=missing)

    def _cell(self, spec: RunSpec) -> str:
        """The id of the cell's parent run, made if it is not there; finished from the start: nothing runs in it."""
        key = spec.cell_key
        if key not in self._cells:
            run = self._find(CELL_TAG, key)
            if run is None:
                tags = {CELL_TAG: key, "cell": spec.cell, "method_label": spec.method_label}
                run = self.client.create_run(self.experiment_id, tags=tags, run_name=spec.cell)
            if run.info.status != RunStatus.to_string(RunStatus.FINISHED):
                self._log_params(run, [param for param in _params(spec) if param.key != "seed"])
                self.client.set_terminated(run.info.run_id)
            self._cells[key] = run.info.run_id
        return self._cells[key]

    def summarise_cells(self) -> None:
        """Write mean, sd, n, rank and p of every cell on its parent run (rank and p within its column)."""
        try:
            runs = collect(self.uri, self.experiment)
        except AmbiguousRuns as error:
            log.info("cells are not summarised: %s", error)
            return
        search = self.client.search_runs([self.experiment_id], f"tags.{CELL_TAG} != ''", max_results=50_000)
        parents = {tuple(run.data.params[name] for name in CELL): run for run in search}
        now = int(1000 * time.time())
        for _, column in runs.groupby(["dataset", "dim", "decoder"]):
            for row in compare_column(column).to_dict("records"):
                cell = tuple("None" if pd.isna(row[name]) else str(row[name]) for name in CELL)
                known = parents[cell].data.metrics
                numbers = {f"cell/{name}": row[name] for name in ("n", "mean", "sd", "rank", "p")}
                metrics = [
                    Metric(name, float(value), now, int(row["n"]))
                    for name, value in numbers.items()
                    if not pd.isna(value) and known.get(name) != float(value)
                ]
                if metrics:
                    self.client.log_batch(parents[cell].info.run_id, metrics=metrics)


def _params(spec: RunSpec) -> list[Param]:
    """Every field that the run's method reads; another's value would say of the run what is not so."""
    values: dict[str, Any] = {**spec.canonical, "dataset": spec.dataset}
    del values["schema"]
    values |= {f"options.{name}": value for name, value in values.pop("options", {}).items()}
    return [Param(name, str(value)) for name, value in values.items()]


def _history(result: Result) -> Iterator[Metric]:
    """Losses and validation ELBO of the chosen restart, at the epochs at which the latter was measured."""
    elbo = result.history_elbo[:, result.chosen]
    for epoch in elbo.isfinite().nonzero().flatten().tolist():
        at = int(1000 * result.finished_at[epoch].item())
        yield Metric("train/val_elbo", elbo[epoch].item(), at, epoch + 1)
        for u, name in enumerate(result.updates):
            yield Metric(f"train/loss_{name}", result.losses[epoch, u, result.chosen].item(), at, epoch + 1)


def _write_artifacts(result: Result, folder: Path) -> None:
    """The chosen model and its configuration, per-image test scores, reconstructions and samples."""
    model = folder / "model"
    model.mkdir()
    chosen = result.models[result.chosen]
    save_file({name: value.contiguous() for name, value in chosen.items()}, model / "model.safetensors")
    about = {"spec": result.spec.model_dump(mode="json"), "key": result.spec.key, "restart": result.chosen}
    (model / "config.json").write_text(json.dumps(about, indent=2) + "\n")
    iwae, elbo = result.test_iwae.float().numpy(), result.test_elbo.float().numpy()
    np.savez_compressed(folder / "test_log_likelihood.npz", iwae=iwae, elbo=elbo)
    count = result.samples.shape[0]
    _save_grid(result.reconstructions.flatten(0, 1), count, folder / "reconstructions.png")
    _save_grid(result.samples, int(count**0.5), folder / "samples.png")


def _save_grid(images: Tensor, columns: int, path: Path) -> None:
    torchvision.utils.save_image(images.float() / 255, path, nrow=columns, padding=1, pad_value=0.5)


def sqlite_path(uri: str) -> Path | None:
    """The database file of a sqlite URI, absolute; None for other URIs."""
    if not uri.startswith("sqlite:///"):
        return None
    return Path(uri.removeprefix("sqlite:///")).resolve()


@cache
def git_commit() -> str:
    """The commit of this code, with `+` after it if the files were changed since; 'unknown' outside a checkout."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def recorded_without_creating(uri: str, experiment: str) -> set[str]:
    """As `Tracker.recorded`, for a plan: makes neither a database nor an experiment."""
    path = sqlite_path(uri)
    if path is not None and not path.exists():
        return set()
    try:
        if MlflowClient(tracking_uri=uri).get_experiment_by_name(experiment) is None:
            return set()
    except Exception as error:
        raise TrackingError(f"--tracking-uri {uri}: {_first_line(error)}") from error
    return Tracker(uri, experiment).recorded()
