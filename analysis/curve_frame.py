"""The data frame of training curves: one row for each run, metric, component and epoch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis.runs import IDENTITY
from analysis.stats import KEY_TYPES

CURVES = ("val_elbo", "elbo_q", "alpha", "kl")
"""The metrics: validation ELBO, nats; and for each component of a mixture its ELBO, nats, its mean weight, and its KL
from the components before it, nats."""

POINT = ["run_key", "metric", "component", "epoch", "value"]
"""The columns of a point: component is NA for val_elbo; epoch counts the run's own training, from 1."""

_OF_RUN = ["run_key", *IDENTITY, "method_label", "dataset_label"]

CURVE_COLUMNS = [*_OF_RUN, "parent_epochs", *POINT[1:]]

_NAME = re.compile(rf"val_elbo|({'|'.join(CURVES[1:])})_\d+")


def is_curve(name: str) -> bool:
    """Whether a recorded metric, such as `kl_1`, is one of `CURVES`."""
    return _NAME.fullmatch(name) is not None


def split(name: str) -> tuple[str, int | None]:
    """Metric and component of a recorded name: ("kl", 1) of `kl_1`, ("val_elbo", None) of `val_elbo`."""
    metric, _, number = name.rpartition("_")
    return (metric, int(number)) if number.isdecimal() else (name, None)


def points_of(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """A frame with the columns `POINT`; points that are not finite are dropped."""
    frame = pd.DataFrame(list(rows), columns=POINT).astype(
        {"run_key": "str", "metric": "str", "component": "Int64", "epoch": int, "value": float}
    )
    return frame[np.isfinite(frame["value"])].reset_index(drop=True)


def curve_frame(points: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """The points of `runs`, joined with their run: the columns `CURVE_COLUMNS`.

    parent_epochs is the number of epochs of the VAE that the run starts from, 0 for a run from scratch.
    """
    staged = runs["stage_epochs"].notna() if "stage_epochs" in runs else pd.Series(False, runs.index)
    about = runs[_OF_RUN].assign(parent_epochs=runs["epochs"].where(staged, 0).astype(int))
    frame = about.astype({**KEY_TYPES, "run_key": "str"}).merge(points, on="run_key")
    return frame[CURVE_COLUMNS]
