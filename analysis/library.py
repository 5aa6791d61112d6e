"""`rme.runs`: the data frame of the runs that sweeps have recorded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from analysis.collect import collect, experiments
from analysis.evidence import merge
from analysis.runs import CollectError, check_one_setting_per_cell
from analysis.tracking_uri import default_tracking_uri


def runs(
    experiment: str | None = None,
    *,
    storage: str | Path | None = None,
    tracking_uri: str | None = None,
    where: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Read the finished runs of an MLflow experiment or of a storage.

    Args:
        experiment: the experiment's name, which is the grid's.
        storage: instead of an experiment: the folder of a sweep's results, which needs no MLflow.
        tracking_uri: of MLflow; None: $MLFLOW_TRACKING_URI or `sqlite:///mlflow.db`.
        where: keeps only runs whose field has this value; see `analysis.collect.collect`.

    Returns:
        One row for each run, ordered by cell and seed, also of the runs that others start from. The columns are those
        of `analysis.collect.collect`. `mlflow_run_id` is what `rme.load` takes; runs of a storage have none, and
        `rme.load` takes their `run_key` and the storage.

    Raises:
        CollectError: neither or both of experiment and storage are given, or what they name does not exist or cannot be
            read; the message names the experiments that exist.
        AmbiguousRuns: a cell has runs with different settings; `where` chooses one of them.

    Example:
        >>> only = {"method": "vae", "decoder": "conv"}
        >>> _ = rme.sweep("smoke", inline=True, only=only, overrides={"epochs": 1})
        >>> rme.runs(storage="storage", where={"seed": 1})[["method_label", "dataset", "dim", "seed"]]
          method_label dataset  dim  seed
        0          VAE  digits   10     1
    """
    if storage is not None:
        for name, value in {"experiment": experiment, "tracking_uri": tracking_uri}.items():
            if value is not None:
                raise CollectError(f"storage={str(storage)!r} and {name}={value!r}: give one of them")
        from analysis.stored import stored  # late: imports torch

        frame, _ = merge([stored(Path(storage))], where)
        check_one_setting_per_cell(frame)
        return frame
    uri = tracking_uri or default_tracking_uri()
    if experiment is None:
        names = ", ".join(experiments(uri)) or "none"
        raise CollectError(f"give experiment=NAME or storage=DIR; the experiments of {uri} are {names}")
    return collect(uri, experiment, where)
