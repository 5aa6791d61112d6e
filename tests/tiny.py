"""Synthetic images, and small specs and engines that use them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rme import data
from rme.config import RunSpec
from rme.data import Images
from rme.engine import Engine, member_parameters
from rme.model_file import stack_models


def blobs(count: int, shape: tuple[int, int, int], seed: int) -> Tensor:
    """Synthetic images, uint8 (count, C, H, W): a bright spot at a random place on a noisy background."""
    g = torch.Generator().manual_seed(seed)
    channels, height, width = shape
    centre = torch.rand(count, 2, 1, 1, generator=g) * 0.6 + 0.2
    rows, columns = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    spot = torch.exp(-((rows - centre[:, 0]) ** 2 + (columns - centre[:, 1]) ** 2) / 0.03)
    tint = torch.rand(count, channels, 1, 1, generator=g) * 0.5 + 0.5
    noisy = 200 * spot.unsqueeze(1) * tint + 50 * torch.rand(count, *shape, generator=g)
    return noisy.round().to(torch.uint8)


def write_npz(path: Path, train: int = 12, test: int = 4) -> Path:
    """Write a data set of a few synthetic 28x28 images; returns `path`. Training on it is fast: one batch of 11."""
    images = {"train": blobs(train, (1, 28, 28), 1), "test": blobs(test, (1, 28, 28), 2)}
    np.savez(path, **{name: value.permute(0, 2, 3, 1).numpy() for name, value in images.items()})
    return path


class Tiny:
    """Specs and engines on 40 synthetic images: 36 for training, 4 for validation."""

    def __init__(self, side: int = 28) -> None:
        self.images = Images(blobs(40, (1, side, side), 1), blobs(12, (1, side, side), 2))
        self._parents: dict[tuple[str, int], list[dict[str, Tensor]]] = {}

    def spec(self, method: str = "vae", order: int | None = None, **fields) -> RunSpec:
        """A run whose parameters change visibly within a few steps: every rate is 1e-3, unlike the defaults."""
        settings = {
            "dataset": "digits", "dim": 3, "epochs": 2, "restarts": 1, "batch_size": 16, "iwae_samples": 4,
            "learning_rate": 1e-3, "stage_learning_rate": 1e-3, "kl_max": 5.0,
        }  # fmt: skip
        return RunSpec(method=method, order=order, **{**settings, **fields})

    def engine(self, specs: RunSpec | Sequence[RunSpec], images: Images | None = None, device: str = "cpu") -> Engine:
        """An engine for runs of one cell; a method that starts from a VAE gets parents, each trained for one epoch."""
        specs = [specs] if isinstance(specs, RunSpec) else list(specs)
        images = images or self.images
        splits = [data.get(s.dataset).split(images, s.seed) for s in specs]
        parents = None
        if specs[0].parent is not None:
            parents = stack_models([model for s in specs for model in self.models(s.parent, images)])
        return Engine(specs, images, splits, device=device, parents=parents)

    def models(self, spec: RunSpec, images: Images) -> list[dict[str, Tensor]]:
        """Models of a run after one epoch, one per restart; cached."""
        key = (spec.key, id(images))
        if key not in self._parents:
            engine = self.engine(spec, images)
            engine.train_epoch()
            self._parents[key] = [member_parameters(engine.method, i) for i in range(len(engine.members))]
        return self._parents[key]
