"""Writes a sweep to MLflow: a parent run for each cell, with a child for each run.

Recording is idempotent, and may happen any time after a run's result is on the storage. A run is found by its tag
`run_key`; if a killed driver left it half-written, it is completed, never duplicated.
"""

from __future__ import annotations

import logging
import math
import os
import sqlite3
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # two lines for each run

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Experiment, Metric, Param, Run, RunStatus, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from analysis.cells import cell_of
from analysis.collect import AmbiguousRuns, collect
from analysis.names import CELL, CELL_KEY, CURVE, FAILURE, MODEL, RUN_KEY, TRACEBACK
from analysis.stats import compare_column
from analysis.tracking_uri import check_server, sqlite_path
from rme import data
from rme.config import SCHEMA, RunSpec
from rme.errors import first_line
from rme.result import Result
from rme.timing import Timing
from tune.record.artifacts import save_pictures
from tune.record.commit import git_commit
from tune.record.mlmodel import save_model
from tune.store.errors import CommandError
from tune.store.failure import Failure

log = logging.getLogger(__name__)
for _name in ("mlflow", "alembic"):
    logging.getLogger(_name).setLevel(logging.WARNING)  # else they log each table of a new database

METRICS_PER_BATCH = 1000
"""MLflow's limit for one log_batch."""

SHOWN = "shown_val_iwae"
"""Tag of a cell's parent run: the validation IWAE of the run whose pictures it shows."""


class TrackingError(CommandError):
    """The tracking server cannot be reached or used."""


class Tracker:
    """One experiment on one tracking server.

    Args:
        uri: `sqlite:///mlflow.db`, or a server's http URI.
        experiment: its name; created if missing.
        command: the command as typed, for the runs' tags.

    Raises:
        TrackingError: the server does not answer, MLflow does not know this kind of URI, or the experiment was deleted.
    """

    note = (
        "A run for each cell, with mean and sd over its seeds, rank and p within its column; below it, a run for each "
        "seed. In the search box:\n\n"
        "- the cells alone: `tags.cell_key != ''`, sorted by `cell/mean`\n"
        "- a table's column: `tags.cell_key != '' and params.dataset = 'mnist' and params.dim = '10'`\n"
        "- a cell with its runs: `tags.cell = 'MNIST d10 RME(5)'`; of a variant (the same method with other settings): "
        "`tags.cell = 'MNIST d10 RME(2), kl 20'`\n"
        "- all variants of a name: `params.variant = 'kl 20'`; runs without this param are of no variant\n"
        "- failed runs: `attributes.status = 'FAILED'`\n"
    )
    """The experiment's description in MLflow: how to find runs."""

    def __init__(self, uri: str, experiment: str, command: str = "") -> None:
        self.uri = uri
        self.command = command
        self.experiment = experiment
        self._parents: dict[str, Run] = {}
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
        path = sqlite_path(uri)
        _check_server(uri)
        try:
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
            self.client = MlflowClient(tracking_uri=uri)
            found = self.client.get_experiment_by_name(experiment)
            if found is None:
                # next to the database, not in the folder in which the command was started
                artifacts = (path.parent / "mlartifacts" / experiment).as_uri() if path else None
                # without the kind, MLflow's UI opens the page of GenAI traces
                tags = {"mlflow.experimentKind": "custom_model_development", "mlflow.note.content": self.note}
                self.experiment_id = self._create(experiment, artifacts, tags)
                self._index_tags()  # only for a new experiment: a command that only reads must not write
            else:
                self._check_active(found)
                self.experiment_id = found.experiment_id
        except TrackingError:
            raise
        except Exception as error:  # each of MLflow's stores raises errors of its own
            raise TrackingError(f"--tracking-uri {uri}: {first_line(error)}") from error

    def _create(self, experiment: str, artifacts: str | None, tags: dict[str, Any]) -> str:
        try:
            return self.client.create_experiment(experiment, artifacts, tags)
        except MlflowException as error:
            found = self.client.get_experiment_by_name(experiment)
            if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS) or found is None:
                raise
            return found.experiment_id  # another sweep has just created it

    def _check_active(self, experiment: Experiment) -> None:
        if experiment.lifecycle_stage != "active":
            raise TrackingError(
                f"--tracking-uri {self.uri}: the experiment {experiment.name!r} was deleted there; "
                f"restore it (`mlflow experiments restore -x {experiment.experiment_id}`) or name the grid otherwise"
            )

    # ------------------------------------------------------------------ reading
    def recorded(self) -> set[str]:
        """Keys of the runs that are recorded and finished."""
        return run_keys(self.finished())

    def finished(self) -> list[Run]:
        """The runs that are recorded and finished."""
        return list(self._search("attributes.status = 'FINISHED'"))

    def _search(self, condition: str = "") -> Iterator[Run]:
        """All child runs that meet a condition."""
        token = None
        wanted = f"tags.{RUN_KEY} != ''" + (f" and {condition}" if condition else "")
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
        """Record a finished run, or the part of it that is missing. MLflow's errors propagate."""
        spec = result.spec
        epochs = spec.training_epochs
        finished_at = (1000 * result.finished_at).long().tolist()
        now = int(1000 * time.time())  # used for methods without training, which have no times of their own
        run = self._child(spec, now if result.started_ms is None else result.started_ms, result.tags)
        if run.info.status == RunStatus.to_string(RunStatus.FINISHED):
            return
        # always the same time, because recording a metric again with another one would add a second point
        ended = finished_at[-1] if finished_at else run.info.start_time
        metrics = [Metric(name, value, ended, epochs) for name, value in result.metrics.items()]
        self._log(run, spec, [*metrics, *_history(result)], result.tags | self._add_files(run, result))
        self.client.set_terminated(run.info.run_id, RunStatus.to_string(RunStatus.FINISHED), ended)

    def _add_files(self, run: Run, result: Result) -> dict[str, str]:
        """Add a run's model, and the pictures of its cell's first run. Returns the tags that name the files."""
        with tempfile.TemporaryDirectory() as folder:
            tags = save_model(result, run.info.run_id, Path(folder))
            self._artifacts(run).log_artifacts(folder, MODEL)
        if SHOWN not in self._cell(result.spec).data.tags:
            self.show(result)
        return tags

    def record_timing(self, timing: Timing) -> None:
        """As `record`, for a timing. Its repeats become a curve with a point for each pass over the test set."""
        spec = timing.spec
        now = int(1000 * time.time())
        run = self._child(spec, now, timing.tags)
        if run.info.status == RunStatus.to_string(RunStatus.FINISHED):
            return
        metrics = [Metric(name, value, now, 0) for name, value in timing.metrics.items()]
        for name, values in (("time/repeat_ms", timing.ms), ("time/repeat_vae_ms", timing.vae_ms)):
            metrics += [Metric(name, value, now, i) for i, value in enumerate(values.tolist(), 1)]
        self._log(run, spec, metrics, timing.tags)
        self.client.set_terminated(run.info.run_id, RunStatus.to_string(RunStatus.FINISHED), now)

    def _log(self, run: Run, spec: RunSpec, metrics: list[Metric], tags: dict[str, str]) -> None:
        """Write metrics, and missing params and tags, in as few writes as MLflow's limits allow."""
        params = missing_params(run, spec)
        changed = [RunTag(name, value) for name, value in tags.items() if run.data.tags.get(name) != value]
        for i in range(0, max(1, len(metrics)), METRICS_PER_BATCH):
            self.client.log_batch(run.info.run_id, metrics[i : i + METRICS_PER_BATCH], params, changed)
            params, changed = [], []
        if FAILURE in run.data.tags:
            self._forget_failure(run)

    def _artifacts(self, run: Run) -> ArtifactRepository:
        """The place of a run's files. MLflow's client would read the whole run again for each file."""
        return get_artifact_repository(run.info.artifact_uri, tracking_uri=self.uri)

    def deserves_showing(self, result: Result) -> bool:
        """Whether the cell shows no pictures yet, or those of a run with a lower validation IWAE."""
        shown = self._cell(result.spec).data.tags.get(SHOWN, "-inf")
        return result.metrics["val/iwae"] > float(shown)

    def show(self, result: Result) -> None:
        """Replace the cell's pictures by those of this run, if it `deserves_showing`."""
        if not self.deserves_showing(result):
            return
        score = result.metrics["val/iwae"]
        parent = self._cell(result.spec)
        with tempfile.TemporaryDirectory() as folder:
            save_pictures(result, Path(folder))
            self._artifacts(parent).log_artifacts(folder)
        self.client.set_tag(parent.info.run_id, SHOWN, f"{score!r}")
        parent.data.tags[SHOWN] = f"{score!r}"

    def record_failure(self, spec: RunSpec, failure: Failure) -> None:
        """Mark a run as failed, with the reason as its tag `failure` and the traceback as an artifact."""
        run = self._child(spec, int(1000 * time.time()))
        reason = failure.reason[:5000]
        if run.info.status == RunStatus.to_string(RunStatus.FINISHED):
            return
        if run.info.status == RunStatus.to_string(RunStatus.FAILED) and run.data.tags.get(FAILURE) == reason:
            return
        self.client.log_batch(run.info.run_id, params=missing_params(run, spec), tags=[RunTag(FAILURE, reason)])
        if failure.traceback:
            self.client.log_text(run.info.run_id, failure.traceback, TRACEBACK)
        self.client.set_terminated(run.info.run_id, RunStatus.to_string(RunStatus.FAILED))

    def _forget_failure(self, run: Run) -> None:
        """Delete an earlier attempt's traceback and reason. The tag goes last, so that an interruption is completed."""
        files = self._artifacts(run)
        if any(artifact.path == TRACEBACK for artifact in files.list_artifacts()):
            files.delete_artifacts(TRACEBACK)
        self.client.delete_tag(run.info.run_id, FAILURE)

    def _child(self, spec: RunSpec, started: int, more_tags: dict[str, str] | None = None) -> Run:
        """The MLflow run of a run, created if missing."""
        run = self._find(RUN_KEY, spec.key)
        if run is None:
            tags = {
                RUN_KEY: spec.key,
                "cell": spec.cell,
                "method_label": spec.method_label,
                "dataset_label": data.label(spec.dataset),
                "data": data.identity(spec.dataset),
                "schema": str(SCHEMA),
                "git_commit": git_commit(),
                "mlflow.source.name": "tune/sweep.py",
                "mlflow.parentRunId": self._cell(spec).info.run_id,
            }
            if self.command:
                tags["command"] = self.command
            run = self.client.create_run(self.experiment_id, started, tags | (more_tags or {}), spec.run_name)
        return run

    def _cell(self, spec: RunSpec) -> Run:
        """The cell's parent run, created if missing. It is marked as finished at once, because it trains nothing."""
        key = spec.cell_key
        if key not in self._parents:
            run = self._find(CELL_KEY, key)
            if run is None:
                tags = {CELL_KEY: key, "cell": spec.cell, "method_label": spec.method_label}
                tags |= {"dataset_label": data.label(spec.dataset), "mlflow.source.name": "tune/sweep.py"}
                run = self.client.create_run(self.experiment_id, tags=tags, run_name=spec.cell)
            if run.info.status != RunStatus.to_string(RunStatus.FINISHED):
                missing = [param for param in missing_params(run, spec) if param.key != "seed"]
                self.client.log_batch(run.info.run_id, params=missing)
                self.client.set_terminated(run.info.run_id)
            self._parents[key] = run
        return self._parents[key]

    def summarise_cells(self) -> None:
        """Write mean, sd, n, rank and p of every cell to its parent run (rank and p within its column)."""
        try:
            runs = collect(self.uri, self.experiment)
        except AmbiguousRuns as error:
            log.info("the cells' statistics are not updated: %s", error)
            return
        if runs["test_iwae"].isna().all():
            return  # timings have no scores
        search = self.client.search_runs([self.experiment_id], f"tags.{CELL_KEY} != ''", max_results=50_000)
        parents = {tuple(run.data.params.get(name, "None") for name in CELL): run for run in search}
        now = int(1000 * time.time())
        for _, column in runs.groupby(["dataset", "dim", "decoder"]):
            for row in compare_column(column).to_dict("records"):
                cell = tuple(map(str, cell_of(row)))
                known = parents[cell].data.metrics
                numbers = {f"cell/{name}": row[name] for name in ("n", "mean", "sd", "rank", "p")}
                metrics = [
                    Metric(name, float(value), now, int(row["n"]))
                    for name, value in numbers.items()
                    if not pd.isna(value) and known.get(name) != float(value)
                ]
                if metrics:
                    self.client.log_batch(parents[cell].info.run_id, metrics=metrics)
        self._count_rows()

    def _index_tags(self) -> None:
        """Add a sqlite index of tags by value: recording a run first looks for its `run_key` among all runs."""
        # the database may be locked by another program; without the index, recording is only slower
        with suppress(sqlite3.OperationalError):
            self._in_sqlite("CREATE INDEX IF NOT EXISTS rme_tags_by_value ON tags (key, value)")

    def _count_rows(self) -> None:
        """Update sqlite's table statistics, without which sorting thousands of runs by a metric takes ten seconds."""
        self._in_sqlite("PRAGMA analysis_limit = 1000", "ANALYZE")

    def _in_sqlite(self, *statements: str) -> None:
        """Execute statements on the database if it is a sqlite file; with a server, do nothing."""
        path = sqlite_path(self.uri)
        if path is not None:
            with closing(sqlite3.connect(path, timeout=10)) as database:
                for statement in statements:
                    database.execute(statement)
                database.commit()


def _history(result: Result) -> Iterator[Metric]:
    """The chosen restart's losses, validation ELBO and diagnostics, at the epochs at which the ELBO was measured."""
    elbo = result.history_elbo[:, result.chosen]
    for epoch in elbo.isfinite().nonzero().flatten().tolist():
        at = int(1000 * result.finished_at[epoch].item())
        yield Metric(f"{CURVE}val_elbo", elbo[epoch].item(), at, epoch + 1)
        for name, values in result.diagnostics.items():
            if math.isfinite(value := values[epoch, result.chosen].item()):
                yield Metric(f"{CURVE}{name}", value, at, epoch + 1)
        for u, name in enumerate(result.updates):
            yield Metric(f"{CURVE}loss_{name}", result.losses[epoch, u, result.chosen].item(), at, epoch + 1)


def missing_params(run: Run, spec: RunSpec) -> list[Param]:
    """The params that a run lacks: a driver may have been killed right after it created the run."""
    return [Param(name, value) for name, value in spec.params.items() if name not in run.data.params]


def run_keys(runs: Iterable[Run]) -> set[str]:
    return {run.data.tags[RUN_KEY] for run in runs}


def finished_without_creating(uri: str, experiment: str) -> list[Run]:
    """As `Tracker.finished`, for a plan: creates neither a database nor an experiment."""
    path = sqlite_path(uri)
    if path is not None and not path.exists():
        return []
    _check_server(uri)
    try:
        if MlflowClient(tracking_uri=uri).get_experiment_by_name(experiment) is None:
            return []
    except Exception as error:
        raise TrackingError(f"--tracking-uri {uri}: {first_line(error)}") from error
    return Tracker(uri, experiment).finished()


def _check_server(uri: str) -> None:
    """Raise TrackingError if a server does not answer."""
    try:
        check_server(uri)
    except ConnectionError as error:
        raise TrackingError(f"--tracking-uri {uri}: {error}") from error
