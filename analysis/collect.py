"""Reads finished runs from MLflow into a data frame; `python -m analysis.collect` writes it to a file."""

from __future__ import annotations

import argparse
import sqlite3
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from analysis.curve_frame import CURVE_COLUMNS, CURVES, POINT, curve_frame, is_curve, points_of, split
from analysis.evidence import curves_path, merge, read_points, read_runs, write_points, write_runs
from analysis.names import CURVE, EPOCHS_BEFORE, FAILURE, RUN_KEY
from analysis.runs import (
    IDENTITY,
    AmbiguousRuns,
    CollectError,
    NoMatch,
    check_one_setting_per_cell,
    choose,
    finite,
    frame_of,
    matching,
    newest,
    row_of,
)
from analysis.tracking_uri import (
    DEFAULT_TRACKING_URI,
    TrackingURIError,
    check_scheme,
    check_server,
    default_tracking_uri,
    sqlite_path,
)
from rme.errors import first_line, nearest

if TYPE_CHECKING:  # MLflow's client takes seconds to load, and runs from files do not need it
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

__all__ = [
    "CURVES",
    "CURVE_COLUMNS",
    "IDENTITY",
    "AmbiguousRuns",
    "CollectError",
    "collect",
    "curves",
    "experiments",
    "failures",
]

_PAGE = 5000  # large, because MLflow sorts all runs for each page


def collect(tracking_uri: str, experiment: str, where: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Read the finished runs of an experiment.

    Args:
        tracking_uri: an MLflow store, such as `sqlite:///mlflow.db` or `http://host:5000`.
        experiment: the experiment's name, which is the grid's.
        where: keeps only runs whose param (or device, git_commit, torch_version, ...) has this value; numbers
            compare as numbers. A run without the param is kept, because the setting does not affect it.

    Returns:
        One row for each run, ordered by cell and seed; an empty frame with the same columns if no run has finished.
        Columns: run_key, method, order (NA for methods without order), variant (NA for a row's usual settings),
        method_label, dataset, dataset_label, dim, decoder, seed; starts_from ("vae" or "scratch"), restarts, epochs,
        learning_rate, finish_epochs, finish_learning_rate, stage_epochs, stage_learning_rate, keep, stage_keep,
        patience and stage_patience, each NA if not recorded; chosen_restart, and of that restart kept_epoch,
        updates (number of a training step's updates), parameters and decoder_parameters; image_shape (`1x28x28`),
        train_images, validation_images and test_images; val_iwae, val_elbo, test_iwae, test_elbo in nats
        per image (NaN if not recorded); inference_ms, ms per batch; of timings also inference_ms_sd, ratio_to_vae and
        ratio_to_vae_sd, over the repeats; train_s, s; device, device_type, threads, git_commit, torch_version,
        python_version, command, start_time (UTC),
        mlflow_run_id, mlflow_parent_id; for `curves` the names of the recorded curves, a tuple, and epochs_before, by
        which their steps exceed the epochs of the run's own training; then every other param, as text.

    Raises:
        CollectError: the store or the experiment does not exist, no run has a field or a value of `where`, or a run is
            incomplete.
        AmbiguousRuns: a cell has runs with different settings.
    """
    return collected(_read(tracking_uri, experiment, "FINISHED"), where)


def collected(runs: Iterable[Run], where: Mapping[str, str] | None = None) -> pd.DataFrame:
    """As `collect`, of finished runs that have been read already."""
    rows = choose(map(_row, runs), where)
    frame = frame_of(newest(rows))
    check_one_setting_per_cell(frame)
    return frame


def failures(tracking_uri: str, experiment: str, where: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Read the failed runs that no later attempt has finished.

    Returns:
        One row for each run, ordered by cell and seed. Columns: run_key, method, order, variant, method_label,
        dataset, dataset_label, dim, decoder, seed, reason, device, git_commit, mlflow_run_id, start_time (UTC).

    Raises:
        CollectError: the store or the experiment does not exist, or a run is incomplete.
    """
    read = _read(tracking_uri, experiment, "FAILED")
    rows = [_row(run) | {"reason": run.data.tags.get(FAILURE, "no reason recorded")} for run in read]
    failed = newest(matching(rows, where))
    if failed:
        finished = {run.data.tags[RUN_KEY] for run in _read(tracking_uri, experiment, "FINISHED")}
        failed = [row for row in failed if row["run_key"] not in finished]
    return frame_of(failed, FAILURE_COLUMNS)[FAILURE_COLUMNS]


FAILURE_COLUMNS = [
    "run_key", "method", "order", "variant", "method_label", "dataset", "dataset_label", "dim", "decoder", "seed",
    "reason", "device", "git_commit", "mlflow_run_id", "start_time",
]  # fmt: skip


# ---------------------------------------------------------------------- training curves
def curves(
    tracking_uri: str,
    experiment: str,
    where: Mapping[str, str] | None = None,
    *,
    runs: pd.DataFrame | None = None,
    metrics: Iterable[str] = CURVES,
) -> pd.DataFrame:
    """Read training curves, in long form.

    Each metric of each run is one query, which takes some milliseconds, or longer with a server. For a large
    experiment, pass only the `runs` that you need.

    Args:
        tracking_uri: as for `collect`.
        experiment: as for `collect`.
        where: as for `collect`.
        runs: read only the curves of these rows of `collect`'s frame; by default of all.
        metrics: names of `CURVES`.

    Returns:
        One row for each run, metric and epoch. Columns: run_key, method, order, variant, dataset, dim, decoder, seed,
        the labels; parent_epochs, those of the VAE that the run starts from, or 0; metric; component (NA for val_elbo);
        epoch, of the run's own training, from 1; value (finite). Runs without curves have no rows.

    Raises:
        CollectError: as for `collect`.
    """
    chosen = collect(tracking_uri, experiment, where) if runs is None else runs
    check_reachable(tracking_uri)
    wanted = set(metrics)
    rows: list[dict[str, Any]] = []
    try:
        client = _client(tracking_uri)
        for run in chosen.to_dict("records"):
            before = run["epochs_before"] or 0
            for name in run["curves"]:
                metric, component = split(name)
                if metric not in wanted:
                    continue
                points = client.get_metric_history(run["mlflow_run_id"], f"{CURVE}{name}")
                points.sort(key=lambda point: point.timestamp)
                values = {point.step - before: finite(point.value) for point in points}
                about = {"run_key": run["run_key"], "metric": metric, "component": component}
                rows += [about | {"epoch": epoch, "value": value} for epoch, value in sorted(values.items())]
    except Exception as error:  # each of MLflow's stores raises errors of its own
        raise CollectError(f"cannot read the MLflow store {tracking_uri!r}: {first_line(error)}") from error
    return curve_frame(points_of(rows), chosen)


# ---------------------------------------------------------------------- reading the store
def _read(tracking_uri: str, experiment: str, status: str) -> list[Run]:
    """All runs of this status that have a run_key; parent runs of cells have none."""
    check_reachable(tracking_uri)
    try:
        client = _client(tracking_uri)
        found = client.get_experiment_by_name(experiment)
        if found is not None and found.lifecycle_stage == "active":
            return list(_pages(client, found.experiment_id, f"attributes.status = '{status}' and tags.{RUN_KEY} != ''"))
    except Exception as error:  # each of MLflow's stores raises errors of its own
        raise CollectError(f"cannot read the MLflow store {tracking_uri!r}: {first_line(error)}") from error
    raise _no_experiment(tracking_uri, experiment)


def check_experiment(tracking_uri: str, experiment: str) -> None:
    """Raise CollectError, with the names that there are, if the store does not exist or has no such experiment."""
    check_reachable(tracking_uri)
    try:
        found = _client(tracking_uri).get_experiment_by_name(experiment)
    except Exception as error:  # each of MLflow's stores raises errors of its own
        raise CollectError(f"cannot read the MLflow store {tracking_uri!r}: {first_line(error)}") from error
    if found is None or found.lifecycle_stage != "active":
        raise _no_experiment(tracking_uri, experiment)


def _no_experiment(tracking_uri: str, experiment: str) -> CollectError:
    names = experiments(tracking_uri)
    close, valid = nearest(experiment, names), ", ".join(names) or "none"
    return CollectError(f"no experiment {experiment!r} in {tracking_uri}; {close}it has {valid}")


def experiments(tracking_uri: str) -> list[str]:
    """The names of a store's experiments, sorted. Raises CollectError: the store does not exist."""
    check_reachable(tracking_uri)
    try:
        return sorted(e.name for e in _client(tracking_uri).search_experiments())
    except Exception as error:  # each of MLflow's stores raises errors of its own
        raise CollectError(f"cannot read the MLflow store {tracking_uri!r}: {first_line(error)}") from error


def _client(tracking_uri: str) -> MlflowClient:
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri)


def _pages(client: MlflowClient, experiment_id: str, query: str) -> Iterator[Run]:
    token = None
    while True:
        page = client.search_runs([experiment_id], query, max_results=_PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def check_reachable(tracking_uri: str) -> None:
    """Raise CollectError if the store cannot be read, where MLflow would create or alter a database, or retry long."""
    if tracking_uri.startswith("sqlite"):
        path = sqlite_path(tracking_uri)
        if path is None or not path.is_file():
            raise CollectError(f"no MLflow database at {path or tracking_uri} (tracking URI {tracking_uri!r})")
        try:
            with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
                database.execute("SELECT name FROM experiments LIMIT 1")
        except sqlite3.Error as error:
            raise CollectError(f"{path} is not an MLflow database: {error}") from error
    try:
        check_scheme(tracking_uri)
        check_server(tracking_uri)
    except (TrackingURIError, ConnectionError) as error:
        raise CollectError(f"tracking URI {tracking_uri}: {error}") from error


# ---------------------------------------------------------------------- one row for each run
def _row(run: Run) -> dict[str, Any]:
    tags = run.data.tags
    row = row_of(run.data.params, tags, run.data.metrics, f"{run.info.run_id} ({run.info.run_name})")
    row["mlflow_run_id"] = run.info.run_id
    row["mlflow_parent_id"] = tags.get("mlflow.parentRunId")
    names = (name.removeprefix(CURVE) for name in sorted(run.data.metrics) if name.startswith(CURVE))
    row["curves"] = tuple(name for name in names if is_curve(name))
    row["epochs_before"] = int(tags.get(EPOCHS_BEFORE, 0))
    row["start_time"] = pd.Timestamp(run.info.start_time, unit="ms", tz="UTC")
    return row


# ---------------------------------------------------------------------- command line
def parser() -> argparse.ArgumentParser:
    """The command line's options."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.collect",
        description="Write all finished runs to a CSV file, which `python -m analysis.report --runs` reads, and their "
        "training curves to a second file. Sources may be combined; a run in several of them counts once.",
    )
    add = parser.add_argument
    add("--experiment", metavar="E", help="runs of this MLflow experiment (the grid's name)")
    add("--tracking-uri", metavar="URI",
        help=f"default: $MLFLOW_TRACKING_URI or {DEFAULT_TRACKING_URI}")  # fmt: skip
    add("--storage", type=Path, action="append", default=[], metavar="DIR",
        help="runs of this storage, without MLflow; can be given several times")  # fmt: skip
    add("--runs", type=Path, action="append", default=[], metavar="A.csv",
        help="runs from an earlier file; can be given several times")  # fmt: skip
    add("--where", type=assignment, action="append", default=[], metavar="FIELD=VALUE",
        help="only the runs with this param; can be given several times")  # fmt: skip
    add("--no-curves", action="store_true", help="do not write curves, which is faster")
    add("--out", required=True, type=Path, metavar="RUNS.csv", help="file to write")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Returns 0, or 2 with a line on stderr if the file cannot be written."""
    options = parser().parse_args(arguments)
    if not (options.experiment or options.storage or options.runs):
        parser().error("say what to collect: --experiment E, --storage DIR or --runs A.csv")
    if options.tracking_uri and not options.experiment:
        parser().error(f"--tracking-uri {options.tracking_uri} without --experiment: give --experiment E, or leave "
                       "--tracking-uri out")  # fmt: skip
    try:
        runs, points = _collect_all(options)
        write_runs(runs, options.out)
        if not options.no_curves:
            write_points(points, curves_path(options.out))
    except (CollectError, OSError) as error:
        print(f"analysis.collect: {error}", file=sys.stderr)
        return 2
    print(f"{len(runs)} run{'' if len(runs) == 1 else 's'} in {options.out}")
    return 0


def _collect_all(options: argparse.Namespace) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The runs of all sources, and the points of their curves."""
    where, draw = dict(options.where), not options.no_curves
    sources: list[tuple[pd.DataFrame, pd.DataFrame]] = []
    for path in options.runs:
        sources.append((read_runs(path, checked=False), read_points(curves_path(path)) if draw else points_of([])))
    for folder in options.storage:
        from analysis.stored import stored  # late: imports torch, which no other source needs

        sources.append(stored(folder))
    if options.experiment:
        uri = options.tracking_uri or default_tracking_uri()
        try:
            runs = collect(uri, options.experiment, where)
        except NoMatch:
            if not sources:  # the runs that match may all be in the others
                raise
        else:
            found = curves(uri, options.experiment, runs=runs) if draw else points_of([])
            sources.append((runs, found[POINT]))
    runs, points = merge(sources, where)
    if runs.empty:
        raise CollectError("no finished run was found" + (" that matches" if where else ""))
    check_one_setting_per_cell(runs)
    return runs, points


def assignment(text: str) -> tuple[str, str]:
    """(FIELD, VALUE) of an option's FIELD=VALUE."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not FIELD=VALUE")
    return name, value


if __name__ == "__main__":
    sys.exit(main())
