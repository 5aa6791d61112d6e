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
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
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
from analysis.collect import AmbiguousRuns, collected
from analysis.names import CELL, CELL_KEY, CURVE, EPOCHS_BEFORE, FAILURE, MODEL, RUN_KEY, TRACEBACK
from analysis.stats import compare_column
from analysis.tracking_uri import TrackingURIError, check_server, check_uri, sqlite_path
from rme import data
from rme.config import SCHEMA, RunSpec
from rme.errors import first_line
from rme.result import Result
from rme.timing import Timing, TimingSpec
from tune.record import notes, views
from tune.record.artifacts import save_pictures
from tune.record.commit import git_commit
from tune.record.data_set import data_set_input
from tune.record.mlmodel import save_model
from tune.store.errors import CommandError
from tune.store.failure import Failure

log = logging.getLogger(__name__)
for _name in ("mlflow", "alembic"):
    logging.getLogger(_name).setLevel(logging.WARNING)  # else they log each table of a new database

METRICS_PER_BATCH = 1000
"""MLflow's limit for one log_batch."""

PAGE = 5000
"""Runs read at once: many, because MLflow sorts all runs for each page."""

SHOWN = "shown_val_iwae"
"""Tag of a cell's parent run: the validation IWAE of the run whose pictures it shows."""


FINISHED, FAILED, RUNNING = (
    RunStatus.to_string(status) for status in (RunStatus.FINISHED, RunStatus.FAILED, RunStatus.RUNNING)
)


@dataclass(frozen=True)
class Span:
    """When a run was carried out: start and end, ms since 1970."""

    start: int
    end: int

    @classmethod
    def of(cls, result: Result) -> Span:
        """The training's; now for a method without training, which has no times of its own."""
        if result.started_ms is None:
            return cls.now()
        return cls(result.started_ms, int(1000 * result.finished_at[-1].item()))

    @classmethod
    def now(cls) -> Span:
        now = int(1000 * time.time())
        return cls(now, now)


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

    def __init__(self, uri: str, experiment: str, command: str = "") -> None:
        self.uri = uri
        self.command = command
        self.experiment = experiment
        self._parents: dict[str, Run] = {}
        self._described = False
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
        path = sqlite_path(uri)
        _check(uri)
        try:
            self.client = MlflowClient(tracking_uri=uri)
            found = self.client.get_experiment_by_name(experiment)
            if found is None:
                # next to the database, not in the folder in which the command was started
                artifacts = (path.parent / "mlartifacts" / experiment).as_uri() if path else None
                self.experiment_id = self._create(experiment, artifacts, views.KIND)
                self._index_tags()  # only for a new experiment: a command that only reads must not write
            else:
                self._check_active(found)
                self.experiment_id = found.experiment_id
        except TrackingError:
            raise
        except Exception as error:  # each of MLflow's stores raises errors of its own
            raise TrackingError(f"--tracking-uri {uri}: {first_line(error)}") from error

    def _create(self, experiment: str, artifacts: str | None, tags: Mapping[str, Any]) -> str:
        try:
            return self.client.create_experiment(experiment, artifacts, dict(tags))
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
                [self.experiment_id], wanted, ViewType.ACTIVE_ONLY, max_results=PAGE, page_token=token
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
        spec, tags = result.spec, result.tags
        run = self._child(spec, Span.of(result), tags)
        if run.info.status == FINISHED:
            return
        # always the same time, because recording a metric again with another one would add a second point
        ended = run.info.start_time if result.started_ms is None else Span.of(result).end
        before = int(run.data.tags.get(EPOCHS_BEFORE, 0))
        metrics = [Metric(name, value, ended, before + spec.training_epochs) for name, value in result.metrics.items()]
        self._log(run, spec, [*metrics, *_history(result, before)], tags | self._add_files(run, result))
        self._end(run, spec, ended)

    def _end(self, run: Run, spec: RunSpec, ended: int) -> None:
        """The last writes of a finished run: its data set, and that it has finished."""
        self.client.log_inputs(run.info.run_id, datasets=[data_set_input(spec.dataset)])
        if not self._described:  # a new experiment is described by its first run, not only when it is summarised
            if notes.WRITTEN not in self.client.get_experiment(self.experiment_id).tags:
                self._describe(list(self._parents.values()), timings=isinstance(spec, TimingSpec))
            self._described = True
        self.client.set_terminated(run.info.run_id, FINISHED, ended)

    def _add_files(self, run: Run, result: Result) -> dict[str, str]:
        """Add a run's model, and the pictures of its cell's first run. Returns the tags that name the files."""
        with tempfile.TemporaryDirectory() as folder:
            tags = save_model(result, run.info.run_id, Path(folder))
            self._artifacts(run).log_artifacts(folder, MODEL)
        if SHOWN not in self._cell(result.spec, Span.of(result)).data.tags:
            self.show(result)
        return tags

    def record_timing(self, timing: Timing) -> None:
        """As `record`, for a timing. Its repeats become a curve with a point for each pass over the test set."""
        spec, tags, span = timing.spec, timing.tags, Span.now()
        run, now = self._child(spec, span, tags), span.end
        if run.info.status == FINISHED:
            return
        metrics = [Metric(name, value, now, 0) for name, value in timing.metrics.items()]
        for name, values in (("time/repeat_ms", timing.ms), ("time/repeat_vae_ms", timing.vae_ms)):
            metrics += [Metric(name, value, now, i) for i, value in enumerate(values.tolist(), 1)]
        self._log(run, spec, metrics, tags)
        self._end(run, spec, now)

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
        shown = self._cell(result.spec, Span.of(result)).data.tags.get(SHOWN, "-inf")
        return result.metrics["val/iwae"] > float(shown)

    def show(self, result: Result) -> None:
        """Replace the cell's pictures by those of this run, if it `deserves_showing`."""
        if not self.deserves_showing(result):
            return
        score = result.metrics["val/iwae"]
        parent = self._cell(result.spec, Span.of(result))
        with tempfile.TemporaryDirectory() as folder:
            save_pictures(result, Path(folder))
            self._artifacts(parent).log_artifacts(folder)
        self.client.set_tag(parent.info.run_id, SHOWN, f"{score!r}")
        parent.data.tags[SHOWN] = f"{score!r}"

    def record_failure(self, spec: RunSpec, failure: Failure) -> None:
        """Mark a run as failed, with the reason as its tag `failure` and in its description, and the traceback as an
        artifact.
        """
        run = self._child(spec, Span.now(), failed=True)
        reason = failure.reason[:5000]
        if run.info.status == FINISHED:
            return
        if run.info.status == FAILED and run.data.tags.get(FAILURE) == reason:
            return
        tags = {FAILURE: reason} | notes.updated(run.data.tags, notes.of_failure(reason, bool(failure.traceback)))
        self.client.log_batch(run.info.run_id, params=missing_params(run, spec), tags=_tags(tags))
        if failure.traceback:
            self.client.log_text(run.info.run_id, failure.traceback, TRACEBACK)
        self.client.set_terminated(run.info.run_id, FAILED)

    def _forget_failure(self, run: Run) -> None:
        """Delete an earlier attempt's traceback and reason. The tag goes last, so that an interruption is completed."""
        files = self._artifacts(run)
        if any(artifact.path == TRACEBACK for artifact in files.list_artifacts()):
            files.delete_artifacts(TRACEBACK)
        for name, value in notes.updated(run.data.tags, "").items():
            if value:  # a user's own words
                self.client.set_tag(run.info.run_id, name, value)
            elif name in run.data.tags:
                self.client.delete_tag(run.info.run_id, name)
        self.client.delete_tag(run.info.run_id, FAILURE)

    def _child(
        self, spec: RunSpec, span: Span, more_tags: Mapping[str, str] | None = None, *, failed: bool = False
    ) -> Run:
        """The MLflow run of a run, created if missing. `failed`: whether it has failed."""
        cell = self._cell(spec, span, failed=failed)
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
                "mlflow.parentRunId": cell.info.run_id,
            }
            if self.command:
                tags["command"] = self.command
            if spec.parent is not None:
                tags[EPOCHS_BEFORE] = str(spec.parent.training_epochs)
            run = self.client.create_run(self.experiment_id, span.start, tags | dict(more_tags or {}), spec.run_name)
        return run

    def _cell(self, spec: RunSpec, span: Span, *, failed: bool = False) -> Run:
        """The cell's parent run, created if missing.

        It never waits for runs to come, because a killed sweep would leave it running: it has the status and the time
        of the runs recorded so far. Here, those of the first; `summarise_cells` makes up for the others.

        Args:
            spec: one of the cell's runs.
            span: when that run was carried out.
            failed: whether it has failed.
        """
        key = spec.cell_key
        if key not in self._parents:
            run = self._find(CELL_KEY, key)
            if run is None:
                tags = {CELL_KEY: key, "cell": spec.cell, "method_label": spec.method_label}
                tags |= {"dataset_label": data.label(spec.dataset), "mlflow.source.name": "tune/sweep.py"}
                run = self.client.create_run(self.experiment_id, span.start, tags, spec.cell)
            if run.info.status == RUNNING:
                missing = [param for param in missing_params(run, spec) if param.key != "seed"]
                self.client.log_batch(run.info.run_id, params=missing)
                self.client.log_inputs(run.info.run_id, datasets=[data_set_input(spec.dataset)])
                self._end_cell(run, FAILED if failed else FINISHED, span.end)
                run = self.client.get_run(run.info.run_id)
            self._parents[key] = run
        if self._parents[key].info.status == FAILED and not failed:
            self._end_cell(self._parents[key], FINISHED, span.end)
            self._parents[key] = self.client.get_run(self._parents[key].info.run_id)
        return self._parents[key]

    def _end_cell(self, cell: Run, status: str, ended: int) -> None:
        """Set the status and the end of a cell; nothing if it has them, or a later end."""
        # earlier versions set a start, and an end, after the runs'
        ended = max(ended, cell.info.start_time, cell.info.end_time or 0)
        if (cell.info.status, cell.info.end_time) != (status, ended):
            self.client.set_terminated(cell.info.run_id, status, ended)

    def summarise_cells(self) -> None:
        """Update every cell's parent run and the experiment's description and views.

        A parent gets mean, sd, n, rank and p (rank and p within its column), status and end of its runs, and a
        description that names the best.
        """
        runs = list(self._search())
        cells = self.client.search_runs([self.experiment_id], f"tags.{CELL_KEY} != ''", max_results=50_000)
        complete = [cell for cell in cells if set(CELL) - {"variant"} <= cell.data.params.keys()]
        self._describe(complete, timings=any("time/ratio_to_vae" in run.data.metrics for run in runs))
        of_cell = defaultdict(list)
        for run in runs:
            of_cell[run.data.tags.get("mlflow.parentRunId")].append(run)
        numbers = self._statistics([run for run in runs if run.info.status == FINISHED])
        now = int(1000 * time.time())
        for cell in complete:
            ended = [run for run in of_cell[cell.info.run_id] if run.info.status in (FINISHED, FAILED)]
            found = numbers.get(tuple(cell.data.params.get(name, "None") for name in CELL), {})
            metrics = [
                Metric(name, value, now, int(found["cell/n"]))
                for name, value in found.items()
                if cell.data.metrics.get(name) != value
            ]
            tags = notes.updated(cell.data.tags, notes.of_cell(self.experiment_id, ended))
            if metrics or tags:
                self.client.log_batch(cell.info.run_id, metrics=metrics, tags=_tags(tags))
            if ended:
                all_failed = all(run.info.status == FAILED for run in ended)
                self._end_cell(cell, FAILED if all_failed else FINISHED, max(run.info.end_time or 0 for run in ended))
        self._count_rows()

    def _statistics(self, finished: Sequence[Run]) -> dict[tuple[str, ...], dict[str, float]]:
        """For each cell (its fields `CELL`, as text) its numbers by their names in MLflow; none for timings."""
        try:
            runs = collected(finished)
        except AmbiguousRuns as error:
            log.info("the cells' statistics are not updated: %s", error)
            return {}
        if runs["test_iwae"].isna().all():
            return {}  # timings have no scores
        return {
            tuple(map(str, cell_of(row))): {
                f"cell/{name}": float(row[name]) for name in ("n", "mean", "sd", "rank", "p") if not pd.isna(row[name])
            }
            for _, column in runs.groupby(["dataset", "dim", "decoder"])
            for row in compare_column(column).to_dict("records")
        }

    def _describe(self, cells: Sequence[Run], timings: bool) -> None:
        """Give the experiment its kind, its views and its description, as far as no user has set others.

        `timings`: whether the runs are timings.
        """
        listed = [views.TIMINGS, views.FAILED] if timings else [views.CELLS, views.RUNS, views.FAILED]
        self._set_page(listed, notes.of_experiment(self.experiment_id, cells, timings))

    def _set_page(self, listed: Sequence[views.View], note: str) -> None:
        """Set the experiment's kind, views and description where they are missing, or were written by this program."""
        experiment = self.client.get_experiment(self.experiment_id)
        found, created = experiment.tags, experiment.creation_time or 0
        tags = {name: value for name, value in views.KIND.items() if not found.get(name)}
        tags |= dict(view.tag(created) for view in listed if views.outdated(found, view, created))
        tags |= notes.updated(found, note)
        for name, value in tags.items():
            self.client.set_experiment_tag(self.experiment_id, name, value)

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


def _tags(tags: Mapping[str, str]) -> list[RunTag]:
    return [RunTag(name, value) for name, value in tags.items()]


def _history(result: Result, before: int) -> Iterator[Metric]:
    """The chosen restart's losses, validation ELBO and diagnostics, at the epochs at which the ELBO was measured.

    `before`: epochs before this training; the steps go on from there.
    """
    elbo = result.history_elbo[:, result.chosen]
    for epoch in elbo.isfinite().nonzero().flatten().tolist():
        at, step = int(1000 * result.finished_at[epoch].item()), before + epoch + 1
        yield Metric(f"{CURVE}val_elbo", elbo[epoch].item(), at, step)
        for name, values in result.diagnostics.items():
            if math.isfinite(value := values[epoch, result.chosen].item()):
                yield Metric(f"{CURVE}{name}", value, at, step)
        for u, name in enumerate(result.updates):
            yield Metric(f"{CURVE}loss_{name}", result.losses[epoch, u, result.chosen].item(), at, step)


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
    _check(uri)
    try:
        if MlflowClient(tracking_uri=uri).get_experiment_by_name(experiment) is None:
            return []
    except Exception as error:
        raise TrackingError(f"--tracking-uri {uri}: {first_line(error)}") from error
    return Tracker(uri, experiment).finished()


def _check(uri: str) -> None:
    """Raise TrackingError if a server does not answer, or MLflow cannot record at this kind of URI or in this file."""
    try:
        check_uri(uri)
        check_server(uri)
    except (TrackingURIError, ConnectionError) as error:
        raise TrackingError(f"--tracking-uri {uri}: {error}") from error
