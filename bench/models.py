"""Makes the settings of benchmarked runs."""

from __future__ import annotations

from typing import Any

from rme import data, methods
from rme.config import RunSpec
from rme.nets import ImageShape


def spec(method: str, order: int | None = None, **fields: Any) -> RunSpec:
    """A run of MNIST, dim 50, unless `fields` differ. The decoder is convolutional if the method allows it.

    Raises SpecError.
    """
    decoders = methods.get(method).decoders
    values = {"dataset": "mnist", "dim": 50, "decoder": "conv" if "conv" in decoders else decoders[0], **fields}
    return RunSpec.of({"method": method, "order": order, **values})


def image_shape(run: RunSpec) -> ImageShape:
    """(C, H, W) of the images of the run's data set."""
    return data.get(run.dataset).shape
