"""A trained model's folder and its test images, shared by the commands' tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from rme.fitting import train_runs
from rme.model import Model
from rme.result import Result


@dataclass(frozen=True)
class Trained:
    """A VAE on images of 8x8, trained for an epoch.

    Attributes:
        folder: of its result.
        images: .npz file with arrays `train` and `test`, its images.
    """

    result: Result
    folder: Path
    images: Path

    @property
    def model(self) -> Model:
        return Model.of(self.result)


@pytest.fixture(scope="package")
def trained(small, tmp_path_factory) -> Trained:
    spec = small.spec("vae", epochs=1)
    result = train_runs([spec], small.images, torch.device("cpu"))[spec.key]
    assert isinstance(result, Result)
    folder = tmp_path_factory.mktemp("commands")
    result.save(folder / "storage" / "runs" / spec.key)
    np.savez(folder / "images.npz", train=small.images.train.numpy(), test=small.images.test.numpy())
    return Trained(result, folder / "storage" / "runs" / spec.key, folder / "images.npz")
