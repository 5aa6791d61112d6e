"""The options that name a model, and the model that they name."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rme.command_line import CommandError

if TYPE_CHECKING:
    from rme.model import Model


def options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--model", required=True, metavar="RUN",
        help="a run's folder, a model's .safetensors file, an MLflow run id or URI (runs:/ID), or a run's key",
    )  # fmt: skip
    add("--storage", type=Path, default=Path("storage"), metavar="DIR",
        help="a sweep's results, for --model with a run's key; default: %(default)s")  # fmt: skip
    add("--tracking-uri", metavar="URI", help="MLflow's store; default: $MLFLOW_TRACKING_URI, or mlflow.db here")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N; default: %(default)s")


def load(options: argparse.Namespace) -> Model:
    """The model that the options name. LoadError if there is none, CommandError for a device that is not available."""
    from rme.device import pick_device
    from rme.loading import load

    try:
        pick_device(options.device)
    except ValueError as error:
        raise CommandError(f"--{error}") from None
    return load(options.model, storage=options.storage, tracking_uri=options.tracking_uri, device=options.device)
