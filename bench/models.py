"""Makes the settings of benchmarked runs, also if pydantic is not installed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from rme import data, methods
from rme.methods.base import Method
from rme.nets import ImageShape


@dataclass(frozen=True)
class PlainSpec:
    """Replaces `rme.config.RunSpec` if pydantic is not installed: the same defaults, without validation."""

    method: str
    order: int | None = None
    dataset: str = "mnist"
    dim: int = 50
    decoder: str = "conv"
    seed: int = 0
    restarts: int = 3
    epochs: int = 2000
    batch_size: int = 128
    learning_rate: float = 5e-4
    iwae_samples: int = 100
    precision: str = "float32"
    stage_epochs: int | None = None
    stage_learning_rate: float | None = None
    eps_min: float = 0.001
    eps_max: float = 0.1
    kl_max: float = 500.0
    options: Mapping[str, float] = field(default_factory=dict)

    @property
    def method_class(self) -> type[Method]:
        return methods.get(self.method)

    @property
    def rate(self) -> float:
        method = self.method_class
        if method.starts_from is None:
            return self.learning_rate
        return method.stage_rate if self.stage_learning_rate is None else self.stage_learning_rate

    def rate_of(self, epoch: int) -> float:
        return self.rate

    @property
    def own_keep(self) -> Literal["best", "last"]:
        return "best"

    @property
    def own_patience(self) -> None:
        return None

    @property
    def method_label(self) -> str:
        label = self.method_class.label
        return label if self.order is None else f"{label}({self.order})"

    @property
    def parent(self) -> PlainSpec | None:
        start = self.method_class.starts_from
        return None if start is None else PlainSpec(start, None, self.dataset, self.dim, self.decoder, self.seed)

    def model_copy(self, update: Mapping[str, Any]) -> PlainSpec:
        return dataclasses.replace(self, **update)

    @property
    def cell_key(self) -> tuple:
        return tuple(str(getattr(self, f.name)) for f in dataclasses.fields(self) if f.name != "seed")

    @property
    def run_name(self) -> str:
        return f"{self.dataset} d{self.dim} {self.method_label} seed {self.seed}"


def spec(method: str, order: int | None = None, **fields: Any) -> Any:
    """A RunSpec, or a PlainSpec if pydantic is not installed. The decoder is convolutional if the method allows it."""
    decoders = methods.get(method).decoders
    values = {"dataset": "mnist", "dim": 50, "decoder": "conv" if "conv" in decoders else decoders[0], **fields}
    try:
        from rme.config import RunSpec
    except ModuleNotFoundError as error:
        if error.name != "pydantic":
            raise
        return PlainSpec(method, order, **values)
    return RunSpec.of({"method": method, "order": order, **values})


def image_shape(run: Any) -> ImageShape:
    """(C, H, W) of the images of the run's data set."""
    return data.get(run.dataset).shape
