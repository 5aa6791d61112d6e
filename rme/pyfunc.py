"""Scores images for MLflow: `mlflow.pyfunc.load_model("runs:/ID/model")` loads a recorded model through this file.

MLflow calls `_load_pyfunc`, whose name it prescribes; MLflow itself is not imported here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rme.model import Model

OWN_SEED = -1
"""Value of the param `seed` for the run's own, because a param of MLflow's must have a number as its default."""

DEFAULTS = {"k": 100, "seed": OWN_SEED}
"""The params of `Scorer.predict`, and their defaults."""


class Scorer:
    """A model as MLflow uses it: from images to their log-likelihoods.

    Attributes:
        model: with everything else that it can do, such as samples and reconstructions. MLflow's users reach it by
            `mlflow.pyfunc.load_model(...).get_raw_model().model`.
    """

    def __init__(self, model: Model) -> None:
        self.model = model

    def get_raw_model(self) -> Scorer:
        """For MLflow's `PyFuncModel.get_raw_model`."""
        return self

    def predict(self, images: Any, params: Mapping[str, Any] | None = None) -> np.ndarray:
        """log p(x) of each image in nats, estimated by IWAE (eq. 1): (N,) float64.

        Args:
            images: uint8 (N, C, H, W), or what else `Model.log_likelihood` accepts.
            params: `k`, draws per image (100 by default), and `seed`; the default, -1, is the run's own.

        Raises:
            ImagesError: the images do not fit the model.
            ValueError: a param does not exist, or its value is impossible.
        """
        chosen = {**DEFAULTS, **(params or {})}
        if unknown := chosen.keys() - DEFAULTS.keys():
            raise ValueError(f"params {', '.join(sorted(unknown))}: valid names are {', '.join(DEFAULTS)}")
        seed = int(chosen["seed"])
        if seed < OWN_SEED:
            raise ValueError(f"seed={seed}: expected 0 or more, or {OWN_SEED} for the run's own")
        scores = self.model.log_likelihood(images, k=int(chosen["k"]), seed=None if seed == OWN_SEED else seed)
        return scores.numpy()


def _load_pyfunc(path: str) -> Scorer:
    """The model in a file. Errors as in `ModelFile.read`."""
    return Scorer(Model.read(Path(path)))
