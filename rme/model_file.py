"""The file of a trained model, in safetensors: its parameters, its run, its scores, and what a summary of it shows.

MLflow has such a file for each run, and `rme.Model.save` writes one. Results on the storage contain the models of all
restarts, named as by `named`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from rme import methods
from rme.checkpoint import CorruptFile, digest, write_atomically
from rme.config import RunSpec, SpecError
from rme.errors import first_line
from rme.methods.base import Method

if TYPE_CHECKING:
    from rme.result import Result

NAME = "model.safetensors"
"""The file's name."""

VERSION = 2
"""To be incremented when the format changes. Files without a version have version 1, which is still read."""

SHOWN = 8
"""How many test images a file has, for showing reconstructions without the data set."""

_LONGEST_REASON = 300

_EXTRA = {
    "test.iwae": "test_iwae", "test.elbo": "test_elbo", "shown.images": "images", "shown.val_elbo": "val_elbo",
}  # fmt: skip
"""The tensors that are not parameters, and the fields that they are. The first version had only those of the test."""


class ModelFileError(ValueError):
    """The file's model cannot be built by this version of the code."""


def _nothing() -> Tensor:
    return torch.empty(0)


@dataclass(frozen=True)
class ModelFile:
    """The content of a model's file.

    Attributes:
        spec: the run.
        restart: index of the restart.
        parameters: parameters and buffers, name -> tensor.
        test_iwae, test_elbo: for each test image, (n,) nats; empty without a test set.
        images: uint8 (m, C, H, W), the first of its run's test images; empty if unknown.
        val_elbo: (E,), nats per image by epoch; NaN where it was not measured; empty if unknown.
        metrics: the run's metrics by their names in MLflow; empty if unknown.
        key: the run's key; empty: that of its spec, which needs a user's own data set to exist.
        stopped: after which epoch a callback stopped the training; None if it came to its end.
    """

    spec: RunSpec
    restart: int
    parameters: dict[str, Tensor]
    test_iwae: Tensor = field(default_factory=_nothing)
    test_elbo: Tensor = field(default_factory=_nothing)
    images: Tensor = field(default_factory=_nothing)
    val_elbo: Tensor = field(default_factory=_nothing)
    metrics: dict[str, float] = field(default_factory=dict)
    key: str = ""
    stopped: int | None = None

    @classmethod
    def of(cls, result: Result) -> ModelFile:
        """The chosen model of a run."""
        return cls(
            result.spec,
            result.chosen,
            result.models[result.chosen],
            result.test_iwae,
            result.test_elbo,
            result.test_images[:SHOWN],
            result.history_elbo[:, result.chosen],
            result.metrics,
            stopped=result.stopped,
        )

    @property
    def method(self) -> Method:
        """The model, an array of one member. Raises ModelFileError if its parameters do not fit the run's method."""
        try:
            return as_method(self.spec, self.parameters)
        except (KeyError, RuntimeError) as error:  # load_state_dict raises the latter, in many lines
            reason = " ".join(str(error).split())[:_LONGEST_REASON]
            raise ModelFileError(f"{NAME} is not a model of this version: {reason}") from error

    @property
    def run_key(self) -> str:
        """The run's key."""
        return self.key or key_of(self.spec, self.stopped)

    def write(self, path: Path) -> None:
        """Write the file, atomically. OSError propagates."""
        extra = {name: getattr(self, field) for name, field in _EXTRA.items()}
        tensors = {name: value.detach().cpu().contiguous() for name, value in {**self.parameters, **extra}.items()}
        about = {
            "version": str(VERSION), "spec": self.spec.model_dump_json(), "key": self.run_key,
            "restart": str(self.restart), "metrics": json.dumps(self.metrics), "stopped": json.dumps(self.stopped),
        }  # fmt: skip
        about["sha256"] = digest(tensors, _text(about))
        try:
            write_atomically(path, lambda temporary: save_file(tensors, temporary, about))
        except SafetensorError as error:  # raised by safetensors if the disk is full
            raise OSError(f"{path}: {error}") from error

    @classmethod
    def read(cls, path: Path) -> ModelFile:
        """Read a file. Nothing is unpickled.

        Raises:
            FileNotFoundError: the file does not exist.
            CorruptFile: the file is damaged.
            ModelFileError: the file is of something else or has another version, or its run is invalid in this version
                of the code: its method is not installed.
        """
        if not path.exists():
            raise FileNotFoundError(path)
        try:
            with safe_open(path, framework="pt") as file:
                about = file.metadata() or {}
                tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, ValueError) as error:
            raise CorruptFile(f"{path} is damaged: {error}") from error
        if "spec" not in about:
            raise ModelFileError(f"{path} is not a model's file: it names no run")
        version = about.get("version", "1")
        if version not in ("1", str(VERSION)):
            raise ModelFileError(f"{path} has version {version}; this code reads versions 1 and {VERSION}")
        if version != "1" and about.pop("sha256", None) != digest(tensors, _text(about)):
            raise CorruptFile(f"{path} is damaged: its content does not match its hash")
        try:
            values = json.loads(about["spec"])
            _require_method(values)
            extra = {field: tensors.pop(name) for name, field in _EXTRA.items() if version != "1" or "test" in name}
            return cls(
                RunSpec.of(values),
                int(about.get("restart", 0)),
                tensors,
                **extra,
                metrics=json.loads(about.get("metrics", "{}")),
                key=about.get("key", ""),
                stopped=json.loads(about.get("stopped", "null")),
            )
        except KeyError as error:
            raise ModelFileError(f"{path} is not a model of this version: it lacks {error}") from error
        except (TypeError, ValueError, SpecError) as error:
            raise ModelFileError(f"{path} is not a model of this version: {first_line(error)}") from error


def key_of(spec: RunSpec, stopped: int | None) -> str:
    """The key of a run; of one that a callback stopped after an epoch with it: it is not what its spec describes."""
    return spec.key if stopped is None else f"{spec.key}-stopped-{stopped}"


def _text(about: Mapping[str, str]) -> str:
    return json.dumps(about, sort_keys=True)


def _require_method(values: Mapping[str, Any]) -> None:
    name = values["method"]
    if name not in methods.names():
        known = ", ".join(methods.names())
        raise ModelFileError(f"its method {name!r} is not installed (rme/methods has {known})")


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
