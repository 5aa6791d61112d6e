"""A run's data set as MLflow knows data sets: a name, a digest, where the images are, and how many there are."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

import numpy as np
from mlflow.data.schema import TensorDatasetSchema
from mlflow.entities import Dataset, DatasetInput, InputTag
from mlflow.types import Schema, TensorSpec

from rme import data

CONTEXT = "mlflow.data.context"
"""MLflow's tag of what a run uses a data set for."""

LONGEST_DIGEST = 36
"""MLflow's limit."""


def data_set_input(name: str) -> DatasetInput:
    """The data set of a run, to be logged as its input. Errors as of `rme.data.get`."""
    return _input(name, data.identity(name))


@lru_cache(maxsize=64)
def _input(name: str, identity: str) -> DatasetInput:
    """As `data_set_input`. `identity`: it changes with the content of a file."""
    found = data.get(name)
    train, validation, test = found.split_sizes
    profile = {
        "num_rows": train + validation + test,
        "training_images": train,
        "validation_images": validation,
        "test_images": test,
        "image_shape": "x".join(map(str, found.shape)),
    }
    schema = TensorDatasetSchema(Schema([TensorSpec(np.dtype("uint8"), (-1, *found.shape))]))
    # a user's own images are files; those of a registered data set are found by its code
    own = found.users_own
    source = {"uri": Path(found.name).as_uri() if Path(found.name).is_absolute() else found.name}
    return DatasetInput(
        Dataset(
            name=found.label[:500],
            digest=identity[-LONGEST_DIGEST:],
            source_type="local" if own else "code",
            source=json.dumps(source if own else {"tags": {"mlflow.source.name": type(found).__module__}}),
            schema=json.dumps(schema.to_dict()),
            profile=json.dumps(profile),
        ),
        [InputTag(CONTEXT, "training")],
    )
