"""Engines on random images, for benchmarks: they need torch and numpy alone, and no data set's files."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from rme import data, methods, nets, noise
from rme.data import Images, Split
from rme.engine import Engine
from rme.methods.base import Method

ImageShape = tuple[int, int, int]


@dataclass(frozen=True)
class PlainSpec:
    """Stands in for `rme.config.RunSpec` where pydantic is not installed: the same defaults, and no validation."""

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
    def cell_key(self) -> tuple:
        return tuple(str(getattr(self, f.name)) for f in dataclasses.fields(self) if f.name != "seed")

    @property
    def run_name(self) -> str:
        return f"{self.dataset} d{self.dim} {self.method_label} seed {self.seed}"


def spec(method: str, order: int | None = None, **fields: Any) -> Any:
    """A RunSpec, or where pydantic is missing its stand-in. The decoder is convolutional wherever it can be."""
    decoders = methods.get(method).decoders
    values = {"dataset": "mnist", "dim": 50, "decoder": "conv" if "conv" in decoders else decoders[0], **fields}
    try:
        from rme.config import RunSpec
    except ModuleNotFoundError as error:
        if error.name != "pydantic":
            raise
        return PlainSpec(method, order, **values)
    return RunSpec.of({"method": method, "order": order, **values})


def random_pixels(count: int, shape: ImageShape, seed: int = 0) -> Tensor:
    """Random images: uint8 (count, C, H, W)."""
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=g)


def engine(
    run: Any,
    shape: ImageShape,
    device: torch.device,
    members: int = 1,
    pixels: Tensor | None = None,
    first: int = 0,
) -> Engine:
    """An engine of `members` untrained models on random images (default: four batches of them).

    Member i has seed first + i, so an array from `first` on holds the models that engines of one member each hold.
    """
    if pixels is None:
        pixels = random_pixels(4 * run.batch_size, shape)
    everything = torch.arange(len(pixels))
    runs = [_changed(run, seed=first + i, restarts=1) for i in range(members)]
    splits = [Split(everything, everything, everything)] * members
    return Engine(runs, Images(pixels, pixels), splits, device=device, parents=_random_parents(runs, shape))


def _random_parents(runs: Sequence[Any], shape: ImageShape) -> dict[str, Tensor] | None:
    """Untrained models of what the runs start from, name -> (B, ...); None if they start from scratch."""
    run = runs[0]
    start = run.method_class.starts_from
    if start is None:
        return None
    fields = {"dataset": run.dataset, "dim": run.dim, "decoder": run.decoder}
    model = methods.get(start)(spec(start, **fields), shape, len(runs))
    nets.initialise(model, [noise.generator(r.seed, 0, noise.INIT) for r in runs])
    return dict(model.state_dict())


def _changed(run: Any, **values: Any) -> Any:
    return dataclasses.replace(run, **values) if isinstance(run, PlainSpec) else run.model_copy(update=values)


def batch(run: Any, members: int, device: torch.device) -> Tensor:
    """Indices of one training batch, (members, N), for `Engine.train_step`."""
    return torch.arange(run.batch_size, device=device).expand(members, -1)


def image_shape(run: Any) -> ImageShape:
    """(C, H, W) of the images of the run's data set."""
    return data.get(run.dataset).shape
