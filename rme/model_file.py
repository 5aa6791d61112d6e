"""The file of a trained model, in safetensors: its parameters, its scores on the test images, and its run.

MLflow has such a file for each run. Results on the storage contain the models of all restarts, named as by `named`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from rme.checkpoint import CorruptFile
from rme.config import RunSpec, SpecError
from rme.errors import first_line
from rme.methods.base import Method

if TYPE_CHECKING:
    from rme.result import Result

NAME = "model.safetensors"
"""The file's name."""

VERSION = 1
"""To be incremented when the format changes. Files without a version have version 1."""

_SCORES = ("test.iwae", "test.elbo")


class ModelFileError(ValueError):
    """The file's model cannot be built by this version of the code."""


@dataclass(frozen=True)
class ModelFile:
    """The content of a model's file.

    Attributes:
        spec: the run.
        restart: index of the restart.
        parameters: parameters and buffers, name -> tensor.
        test_iwae, test_elbo: for each test image, (n,) nats.
    """

    spec: RunSpec
    restart: int
    parameters: dict[str, Tensor]
    test_iwae: Tensor
    test_elbo: Tensor

    @classmethod
    def of(cls, result: Result) -> ModelFile:
        """The chosen model of a run."""
        return cls(result.spec, result.chosen, result.models[result.chosen], result.test_iwae, result.test_elbo)

    @property
    def method(self) -> Method:
        """The model, an array of one member. Raises ModelFileError if its parameters do not fit the run's method."""
        try:
            return as_method(self.spec, self.parameters)
        except (KeyError, RuntimeError) as error:  # load_state_dict raises the latter
            raise ModelFileError(f"{NAME} is not a model of this version: {first_line(error)}") from error

    def write(self, path: Path) -> None:
        """Write the file. OSError propagates."""
        tensors = {**self.parameters, "test.iwae": self.test_iwae, "test.elbo": self.test_elbo}
        about = {
            "version": str(VERSION), "spec": self.spec.model_dump_json(), "key": self.spec.key,
            "restart": str(self.restart),
        }  # fmt: skip
        save_file({name: value.contiguous() for name, value in tensors.items()}, path, about)

    @classmethod
    def read(cls, path: Path) -> ModelFile:
        """Read a file. Nothing is unpickled.

        Raises:
            FileNotFoundError: the file does not exist.
            CorruptFile: the file is damaged.
            ModelFileError: the file has another version, or its run is invalid in this version of the code.
        """
        if not path.exists():
            raise FileNotFoundError(path)
        try:
            with safe_open(path, framework="pt") as file:
                about = file.metadata() or {}
                tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, ValueError) as error:
            raise CorruptFile(f"{path} is damaged: {error}") from error
        if about.get("version", "1") != str(VERSION):
            raise ModelFileError(f"{path.name} has version {about['version']}; this code reads version {VERSION}")
        try:
            scores = [tensors.pop(name) for name in _SCORES]
            return cls(RunSpec.of(json.loads(about["spec"])), int(about.get("restart", 0)), tensors, *scores)
        except (KeyError, ValueError, SpecError) as error:
            raise ModelFileError(f"{path.name} is not a model of this version: {first_line(error)}") from error


# ---------------------------------------------------------------------- parameters of models
def as_method(spec: RunSpec, model: Mapping[str, Tensor]) -> Method:
    """A model of one member from its parameters, name -> tensor without the member axis."""
    pixel_mean = model["pixel_mean"]
    shape: Any = tuple(pixel_mean.shape)
    method = spec.method_class(spec, shape, 1).to(pixel_mean.dtype)
    method.requires_grad_(False)
    method.load_state_dict({name: value.unsqueeze(0) for name, value in model.items()})
    return method


def stack_models(models: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Parameters of B models as one array, name -> (B, ...)."""
    return {name: torch.stack([model[name] for model in models]) for name in models[0]}


def named(models: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Parameters of several models in one mapping, `model.RESTART.NAME` -> tensor."""
    return {f"model.{r}.{name}": value for r, model in enumerate(models) for name, value in model.items()}


def unnamed(tensors: Mapping[str, Tensor], count: int) -> list[dict[str, Tensor]]:
    """The `count` models from which `named` made these tensors; other tensors are ignored."""
    models: list[dict[str, Tensor]] = [{} for _ in range(count)]
    for name, value in tensors.items():
        if name.startswith("model."):
            _, restart, parameter = name.split(".", 2)
            models[int(restart)][parameter] = value
    return models
