"""Reads the model of a recorded run from MLflow. Only a safetensors file is read; nothing is unpickled."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.tracking import MlflowClient

from analysis.collect import CollectError, check_reachable
from analysis.names import CELL_KEY, FAILURE, MODEL, RUN_KEY
from analysis.tracking_uri import default_tracking_uri
from rme.checkpoint import CorruptFile
from rme.errors import first_line
from rme.methods import Method
from rme.model_file import NAME, ModelFile, ModelFileError

os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # else two lines for each file

_PLACES = (f"{MODEL}/{NAME}", NAME)
"""Where a run may have its model: the second is that of runs that were recorded by earlier versions."""

_RUN = re.compile(rf"(?:runs:/)?(?P<run>[0-9a-f]{{32}})|runs:/(?P<of>[0-9a-f]{{32}})/(?:{MODEL}(?:/{NAME})?|{NAME})/?")
_REGISTERED = re.compile(r"models:/(?P<name>[^/@:]+)(?:/(?P<version>[0-9]+)|@(?P<alias>[^/@:]+))")

VALID = f"a run's id (32 hex digits), runs:/ID, runs:/ID/{MODEL}, models:/NAME/VERSION or models:/NAME@ALIAS"
"""The sources of `model_file`."""


class ModelError(ValueError):
    """An artifact is missing or invalid; the message says which, in a few words."""


def model_file(source: str, tracking_uri: str | None = None) -> ModelFile:
    """The model of a recorded run.

    Args:
        source: an MLflow run id (32 hex digits), `runs:/ID`, `runs:/ID/model`, `runs:/ID/model/model.safetensors`, or a
            registered model: `models:/NAME/VERSION` or `models:/NAME@ALIAS`.
        tracking_uri: the MLflow store; None: $MLFLOW_TRACKING_URI, or a database in the current folder.

    Raises:
        ModelError: the source is none of these, the store or the run does not exist or the server does not answer; or
            the run has no model: it is a cell's summary, a timing, failed, unfinished, or not of a sweep; or the file
            is damaged, of another version, or of a method that is not installed. The message is one line.
    """
    uri = tracking_uri or default_tracking_uri()
    run, registered = _RUN.fullmatch(source), _REGISTERED.fullmatch(source)
    if not (run or registered):
        raise ModelError(f"{source}: no model's place in MLflow; valid are {VALID}")
    try:
        check_reachable(uri)
        client = MlflowClient(uri)
        run_id = run["run"] or run["of"] if run else _run_of(client, source, uri)
        found = _check(client, _get_run(client, run_id, source, uri))
        return _file(client, run_id, f"runs:/{run_id} ({found.info.run_name}): ")
    except ModelError:
        raise
    except CollectError as error:
        raise ModelError(f"{source}: {error}") from error
    except Exception as error:  # each of MLflow's stores raises errors of its own
        raise ModelError(f"{source}: cannot read the MLflow store {uri}: {first_line(error)}") from error


def finished_runs(client: MlflowClient, cell: Run, count: int = 1000) -> list[Run]:
    """At most `count` finished runs of a cell's summary, the best by validation first. MLflow's errors propagate."""
    wanted = f"tags.mlflow.parentRunId = '{cell.info.run_id}' and attributes.status = 'FINISHED'"
    by_validation = ["metrics.`val/iwae` DESC"]
    return client.search_runs([cell.info.experiment_id], wanted, order_by=by_validation, max_results=count).to_list()


def load_model(client: MlflowClient, mlflow_run_id: str) -> Method:
    """The model of a run, an array of one member. Raises ModelError if it is missing, damaged or of another version."""
    try:
        return _file(client, mlflow_run_id).method
    except ModelFileError as error:
        raise ModelError(str(error)) from error


def download(client: MlflowClient, mlflow_run_id: str, name: str, folder: Path) -> Path:
    """Download an artifact into a folder. Raises ModelError if it is missing."""
    try:
        return Path(client.download_artifacts(mlflow_run_id, name, str(folder)))
    except (MlflowException, OSError) as error:
        raise ModelError(f"no {Path(name).name} was recorded") from error


def _file(client: MlflowClient, mlflow_run_id: str, prefix: str = "") -> ModelFile:
    with tempfile.TemporaryDirectory() as folder:
        try:
            path = _download_model(client, mlflow_run_id, Path(folder))
        except ModelError as error:
            raise ModelError(f"{prefix}{error}") from error
        try:
            return ModelFile.read(path)
        except (CorruptFile, ModelFileError) as error:
            raise ModelError(prefix + first_line(error).replace(str(path), NAME)) from error


def _download_model(client: MlflowClient, mlflow_run_id: str, folder: Path) -> Path:
    try:
        return download(client, mlflow_run_id, _PLACES[0], folder)
    except ModelError:
        return download(client, mlflow_run_id, _PLACES[1], folder)


# ---------------------------------------------------------------------- which run
def _run_of(client: MlflowClient, source: str, uri: str) -> str:
    """The id of the run of a registered model's version."""
    asked = _REGISTERED.fullmatch(source)
    assert asked is not None
    try:
        if asked["version"]:
            version = client.get_model_version(asked["name"], asked["version"])
        else:
            version = client.get_model_version_by_alias(asked["name"], asked["alias"])
    except MlflowException as error:
        raise ModelError(f"{source}: not found in {uri}: {first_line(error)}") from error
    if not version.run_id:
        raise ModelError(f"{source}: this version was not registered from a run")
    return version.run_id


def _get_run(client: MlflowClient, run_id: str, source: str, uri: str) -> Run:
    try:
        return client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
            raise
        raise ModelError(f"{source}: no run {run_id} in {uri}") from error


def _check(client: MlflowClient, run: Run) -> Run:
    """The run, if it is a sweep's and has a model. Raises ModelError."""
    name = f"runs:/{run.info.run_id} ({run.info.run_name})"
    if CELL_KEY in run.data.tags:
        raise ModelError(
            f"{name} is the summary of a cell, which has no model of its own; {_best_of_cell(client, run)}"
        )
    if RUN_KEY not in run.data.tags:
        raise ModelError(f"{name} is not a run of a sweep: it has no tag {RUN_KEY}")
    if run.info.status == "FAILED":
        raise ModelError(f"{name} failed and has no model: {run.data.tags.get(FAILURE, 'no reason recorded')}")
    if run.info.status != "FINISHED":
        raise ModelError(f"{name} is unfinished and has no model yet; the sweep's command completes it")
    if "val/iwae" not in run.data.metrics:
        raise ModelError(f"{name} is a timing, which has no model")
    return run


def _best_of_cell(client: MlflowClient, cell: Run) -> str:
    """Which run of a cell to load instead."""
    runs = finished_runs(client, cell, 1)
    if not runs or "val/iwae" not in runs[0].data.metrics:
        return "none of its runs has one yet"
    return f"that of its best run by validation is runs:/{runs[0].info.run_id}"
