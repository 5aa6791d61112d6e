"""The result of a run: scores, its restarts' models and their training curves, in one file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rme import checkpoint
from rme.config import RunSpec
from rme.methods.base import Method
from rme.model_file import as_method, key_of, named, unnamed

if TYPE_CHECKING:
    from rme.model import Model

STOPPED = "stopped_after_epoch"
"""The entry of `Result.environment` of a training that a callback stopped."""

_ENVIRONMENT_TAGS = {
    "train_images": "train_images", "validation_images": "validation_images", "python": "python_version",
    "device_type": "device_type", "threads": "threads",
}  # fmt: skip
"""Entries of `Result.environment` that are tags, and the tags' names."""

MARKER = "result.safetensors"
"""The name of a result's file in its folder. It is written atomically, so it is complete if it exists."""


@dataclass(frozen=True, repr=False)
class Result:
    """One finished run of R restarts, U updates and E epochs.

    Attributes:
        spec: the run's settings.
        chosen: index of the restart with the best validation IWAE.
        models: for each restart its parameters and buffers, name -> tensor.
        val_iwae, val_elbo: of each restart, (R,) nats per image; NaN for a diverged restart.
        kept_epochs: for each restart the epoch whose parameters were kept, (R,) int64.
        test_iwae, test_elbo: of the chosen restart, for each test image, (n,) nats; empty if there is no test set.
        inference_ms: the chosen restart's inference time for a batch of 128, ms.
        train_s: this run's share of its array's training time, s.
        updates: names of the U updates.
        losses: (E, U, R) mean losses by epoch, nats per image; NaN after the end of a restart's training.
        history_elbo: (E, R) validation ELBO by epoch, nats per image; NaN if not measured after that epoch.
        diagnostics: the method's diagnostics by name, (E, R) each, at the epochs of history_elbo.
        finished_at: (E,) when each epoch ended, s since 1970.
        reconstructions: uint8 (2, n, C, H, W): test images (without a test set validation images), and the model's
            reconstructions of them.
        samples: uint8 (n, C, H, W): decoder means at draws of the prior.
        test_images: uint8 (m, C, H, W): the run's first test images (without a test set validation images), for
            studying the model without the data set.
        environment: device, torch version and so on, as strings.

    Example:
        >>> result = rme.fit(rme.RunSpec(method="vae", dataset="digits", dim=2, epochs=1, restarts=2, iwae_samples=2))
        >>> result
        Result of digits d2 VAE seed 0
          test IWAE ..., ELBO ... nats per image
          ...
        >>> result.test_iwae.shape, len(result.models)
        (torch.Size([500]), 2)
        >>> result.model.encode(images).mean.shape
        torch.Size([5, 2])
    """

    spec: RunSpec
    chosen: int
    models: list[dict[str, Tensor]]
    val_iwae: Tensor
    val_elbo: Tensor
    kept_epochs: Tensor
    test_iwae: Tensor
    test_elbo: Tensor
    inference_ms: float
    train_s: float
    updates: list[str]
    losses: Tensor
    history_elbo: Tensor
    diagnostics: dict[str, Tensor]
    finished_at: Tensor
    reconstructions: Tensor
    samples: Tensor
    test_images: Tensor
    environment: dict[str, str]

    _TENSORS = (
        "val_iwae", "val_elbo", "kept_epochs", "test_iwae", "test_elbo", "losses", "history_elbo", "finished_at",
        "reconstructions", "samples", "test_images",
    )  # fmt: skip

    @property
    def metrics(self) -> dict[str, float]:
        """The run's metrics by their names in MLflow; without a test set, none of `test/`."""
        test = {"test/iwae": self.test_iwae.mean().item(), "test/elbo": self.test_elbo.mean().item()}
        return {
            "val/iwae": self.val_iwae[self.chosen].item(),
            "val/elbo": self.val_elbo[self.chosen].item(),
            **(test if len(self.test_iwae) else {}),
            "time/inference_ms": self.inference_ms,
            "time/train_s": self.train_s,
        }

    @property
    def stopped(self) -> int | None:
        """After which epoch a callback stopped the training; None if it came to its end."""
        return int(self.environment[STOPPED]) if STOPPED in self.environment else None

    @property
    def key(self) -> str:
        """The run's key (`rme.model_file.key_of`)."""
        return key_of(self.spec, self.stopped)

    @property
    def tags(self) -> dict[str, str]:
        """The run's tags in MLflow; those that differ between restarts are of the chosen one."""
        method = self.method
        return {
            "device": self.environment["device"],
            "torch_version": self.environment["torch"],
            "members": self.environment["members"],
            "chosen_restart": str(self.chosen),
            "starts_from": self.spec.method_class.starts_from or "scratch",
            "kept_epoch": str(int(self.kept_epochs[self.chosen])),
            "updates": str(len(self.updates)),
            "parameters": str(sum(parameter.numel() for parameter in method.parameters())),
            "decoder_parameters": str(sum(parameter.numel() for parameter in method.decoder.parameters())),
            "image_shape": "x".join(map(str, self.test_images.shape[1:])),
            "test_images": str(len(self.test_iwae)),
            # missing in results of earlier versions
            **{tag: self.environment[name] for name, tag in _ENVIRONMENT_TAGS.items() if name in self.environment},
        }

    @property
    def started_ms(self) -> int | None:
        """When the training started, ms since 1970; None for a method without training."""
        if not len(self.finished_at):
            return None
        return int(1000 * self.finished_at[0].item()) - int(1000 * self.train_s / self.spec.training_epochs)

    @property
    def method(self) -> Method:
        """The chosen restart's model, as an array of one member."""
        return as_method(self.spec, self.models[self.chosen])

    @property
    def model(self) -> Model:
        """The chosen restart's model, on the CPU; `Model.of` for another restart."""
        from rme.model import Model

        return Model.of(self)

    def __repr__(self) -> str:
        metrics = self.metrics
        kept = int(self.kept_epochs[self.chosen])
        lines = [f"Result of {self.spec.run_name}"]
        for name, part in (("test", "test"), ("validation", "val")):
            if f"{part}/iwae" in metrics:
                iwae, elbo = metrics[f"{part}/iwae"], metrics[f"{part}/elbo"]
                lines.append(f"{name} IWAE {iwae:.2f}, ELBO {elbo:.2f} nats per image")
        lines.append(f"restart {self.chosen} of {len(self.models)} chosen, epoch {kept} of {len(self.losses)} kept")
        if self.stopped is not None:
            lines.append(f"stopped by a callback after epoch {self.stopped}")
        lines.append(f"trained in {self.train_s:.0f} s on {self.environment['device']}")
        return "\n  ".join(lines)

    def _repr_html_(self) -> str:
        from rme.repr_html import of_result

        return of_result(self)

    def save(self, folder: str | Path) -> None:
        """Write `folder/result.safetensors` atomically. OSError propagates.

        `rme.load` reads its model, and `Result.load` all of it.
        """
        tensors = named(self.models)
        tensors |= {name: getattr(self, name) for name in self._TENSORS}
        tensors |= {f"diagnostics.{name}": values for name, values in self.diagnostics.items()}
        about = {
            "spec": self.spec.model_dump(mode="json"),
            "key": self.key,
            "restarts": len(self.models),
            "chosen": self.chosen,
            "inference_ms": self.inference_ms,
            "train_s": self.train_s,
            "updates": self.updates,
            "environment": self.environment,
            "metrics": self.metrics,
        }
        checkpoint.save(Path(folder) / MARKER, tensors, about)

    @classmethod
    def load(cls, folder: str | Path, key: str | None = None) -> Result:
        """Read a result that `save` wrote. `key`: the run that it must be of, if given.

        Raises:
            FileNotFoundError: the folder has no result.
            CorruptFile: the result is damaged, or another run's.
        """
        return cls.of_file(Path(folder) / MARKER, key)

    @classmethod
    def of_file(cls, path: Path, key: str | None = None) -> Result:
        """As `load`, for the file itself."""
        tensors, about = read(path, key)
        # missing in files of earlier versions
        tensors.setdefault("test_images", tensors["reconstructions"][0])
        tensors.setdefault("kept_epochs", torch.full((about["restarts"],), len(tensors["losses"])))
        return cls(
            spec=RunSpec.of(about["spec"]),
            chosen=about["chosen"],
            models=unnamed(tensors, about["restarts"]),
            inference_ms=about["inference_ms"],
            train_s=about["train_s"],
            updates=about["updates"],
            environment=about["environment"],
            diagnostics={
                name.removeprefix("diagnostics."): values
                for name, values in tensors.items()
                if name.startswith("diagnostics.")
            },
            **{name: tensors[name] for name in cls._TENSORS},
        )


def load_models(folder: Path, key: str | None = None) -> list[dict[str, Tensor]]:
    """The parameters of a result's restarts. Errors as in `Result.load`."""
    tensors, about = read(folder / MARKER, key)
    return unnamed(tensors, about["restarts"])


def read(path: Path, key: str | None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and metadata of a result's or timing's file. Errors as in `Result.load`."""
    tensors, about = checkpoint.load(path)
    if key is not None and about.get("key") != key:
        raise checkpoint.CorruptFile(f"{path}: the result of run {about.get('key')}, not of {key}")
    return tensors, about
