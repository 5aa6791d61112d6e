"""A run's model as MLflow knows models: a folder with the file `MLmodel`, the model's one file, and an example.

`mlflow.pyfunc.load_model` loads the folder and `mlflow.register_model` registers it; `rme.pyfunc` scores the images.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from analysis.names import MODEL
from rme import pyfunc
from rme.model_file import NAME, ModelFile
from rme.result import Result

HISTORY = "mlflow.log-model.history"
"""MLflow's tag of a run's models: with it, MLflow's page lists the model and offers to register it."""


def save_model(result: Result, mlflow_run_id: str, folder: Path) -> dict[str, str]:
    """Write the folder of a run's chosen model. Written again for the same run, it is the same.

    Returns:
        The tag that the run needs, by name.
    """
    # late: only the process that writes to MLflow needs them
    from mlflow.models import Model, ModelSignature
    from mlflow.models.utils import _save_example  # as MLflow's own flavors do; no public function is as cheap
    from mlflow.pyfunc import add_to_model
    from mlflow.types import DataType, ParamSchema, ParamSpec, Schema, TensorSpec

    ModelFile.of(result).write(folder / NAME)
    example = result.test_images[:1].numpy()
    signature = ModelSignature(
        Schema([TensorSpec(np.dtype("uint8"), (-1, *example.shape[1:]))]),
        Schema([TensorSpec(np.dtype("float64"), (-1,))]),
        ParamSchema([ParamSpec(name, DataType.long, default) for name, default in pyfunc.DEFAULTS.items()]),
    )
    model = Model(
        artifact_path=MODEL,
        run_id=mlflow_run_id,
        utc_time_created=_ended(result),
        signature=signature,
        model_uuid=mlflow_run_id,  # a run has one model
    )
    add_to_model(model, pyfunc.__name__, data=NAME)
    _save_example(model, example, str(folder))
    # the same example as a server's request: MLflow works without it, and a server takes a request for each file
    assert model.saved_input_example_info is not None
    (folder / model.saved_input_example_info.pop("serving_input_path")).unlink()
    model.save(folder / "MLmodel")
    return {HISTORY: json.dumps([model.get_tags_dict()])}


def _ended(result: Result) -> datetime | None:
    """When the run's training ended, in UTC without a zone, as MLflow writes it; None without a training: now."""
    if not len(result.finished_at):
        return None
    return datetime.fromtimestamp(result.finished_at[-1].item(), UTC).replace(tzinfo=None)
