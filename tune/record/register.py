"""Registers the model of a cell's best recorded run in MLflow's model registry: `--register NAME`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, RESOURCE_DOES_NOT_EXIST, ErrorCode

from analysis.names import CELL_KEY, MODEL, RUN_KEY
from analysis.recorded_model import finished_runs
from rme.config import RunSpec
from rme.errors import first_line
from rme.timing import TimingSpec
from tune.store.errors import CommandError

LISTED = 12
"""How many cells an error names."""


class RegisterError(CommandError):
    """No model can be registered; the message says why."""


@dataclass(frozen=True)
class Registered:
    """A version of a registered model.

    Attributes:
        uri: `models:/NAME/VERSION`.
        run_name: of its run.
        new: whether the version was created now; False: the run was registered before.
        recorded: how many of the runs are recorded, among which this is the best.
    """

    uri: str
    run_name: str
    new: bool
    recorded: int


def check_one_cell(name: str, runs: Sequence[RunSpec]) -> None:
    """Raise RegisterError unless the best of these runs can be registered as `name`: models of one cell."""
    if any(isinstance(spec, TimingSpec) for spec in runs):
        raise RegisterError(f"--register {name}: a grid of timings has no models")
    cells = {spec.cell_key: spec.cell for spec in runs}
    if len(cells) > 1:
        names = [*cells.values()]
        more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
        raise RegisterError(
            f"--register {name} needs one cell, and the grid has {len(names)}: {', '.join(names[:LISTED])}{more}; "
            "choose one with --only FIELD=VALUE"
        )


def register_best(uri: str, experiment: str, runs: Sequence[RunSpec], name: str) -> Registered | None:
    """Register the model of the best recorded run of a cell by validation IWAE, unless it is a version already.

    Args:
        uri: the MLflow store.
        experiment: the experiment's name.
        runs: of one cell; only these are candidates.
        name: of the registered model; created if missing.

    Returns:
        The version; None if none of the runs is recorded.

    Raises:
        RegisterError: MLflow refuses, or the run was recorded without what MLflow needs to load its model.
    """
    try:
        client = MlflowClient(uri)
        recorded = _recorded(client, experiment, runs)
        if not recorded:
            return None
        best = recorded[0]
        run_name = best.info.run_name
        version = _version_of(client, name, best)
        if version is not None:
            return Registered(f"models:/{name}/{version}", run_name, False, len(recorded))
        if all(artifact.path != MODEL for artifact in client.list_artifacts(best.info.run_id)):
            raise RegisterError(
                f"--register {name}: {run_name} was recorded by an earlier version, without what MLflow needs to load "
                "its model; --record --experiment ANOTHER records it anew"
            )
        version = _create_version(client, name, best, len(recorded))
        return Registered(f"models:/{name}/{version}", run_name, True, len(recorded))
    except RegisterError:
        raise
    except Exception as error:  # each of MLflow's stores raises errors of its own
        raise RegisterError(f"--register {name}: {first_line(error)}") from error


def _recorded(client: MlflowClient, experiment: str, runs: Sequence[RunSpec]) -> list[Run]:
    """Those of the runs that are recorded and finished, the best by validation first."""
    found = client.get_experiment_by_name(experiment)
    if found is None:
        return []
    cells = client.search_runs([found.experiment_id], f"tags.{CELL_KEY} = '{runs[0].cell_key}'", max_results=1)
    keys = {spec.key for spec in runs}
    return [run for cell in cells for run in finished_runs(client, cell) if run.data.tags.get(RUN_KEY) in keys]


def _version_of(client: MlflowClient, name: str, run: Run) -> str | None:
    """The newest version of a registered model that is this run's; None if it has none."""
    versions = client.search_model_versions(f"name = '{name}' and run_id = '{run.info.run_id}'")
    return str(max(int(version.version) for version in versions)) if versions else None


def _check_no_prompt(client: MlflowClient, name: str) -> None:
    """Raise RegisterError if a name is that of a prompt, which MLflow keeps in the same registry."""
    try:
        client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
            raise
        raise RegisterError(f"--register {name}: MLflow has a prompt of this name; choose another") from error


def _create_version(client: MlflowClient, name: str, run: Run, count: int) -> str:
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
            raise
        _check_no_prompt(client, name)
    tags, seed = run.data.tags, run.data.params["seed"]
    version = client.create_model_version(
        name,
        source=f"{run.info.artifact_uri}/{MODEL}",
        run_id=run.info.run_id,
        tags={RUN_KEY: tags[RUN_KEY]},
        description=f"{tags['cell']}, seed {seed}, the best of {count} by validation IWAE: test IWAE "
        f"{run.data.metrics['test/iwae']:.2f} nats per image",
    )
    return str(version.version)
