"""Measures inference times (supplement, section 2.1; Tables 4 and 6). A timing is a run of its own, without training.

An untrained model takes as long as a trained one, because no network here has branches or numbers of steps that depend
on its weights or on the image. So a timing needs neither a training nor a parent.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from rme import checkpoint, data, evaluate, noise
from rme.config import SCHEMA, RunSpec
from rme.device import environment
from rme.result import MARKER, read
from rme.untrained import untrained


class TimingSpec(RunSpec):
    """The settings of one timing: method, order, data set, latent dimension, decoder and so on.

    Of a run's fields, only those in `FIELDS` affect it. Its key differs from every training's.
    """

    FIELDS: ClassVar[tuple[str, ...]] = (
        "method", "order", "dataset", "dim", "decoder", "seed", "batch_size", "precision", "options", "repeats",
    )  # fmt: skip

    restarts: int = Field(default=1, description="one model is timed", ge=1, le=1)
    repeats: int = Field(default=5, description="passes over the whole test set", ge=2)

    @property
    def parent(self) -> None:
        return None

    @property
    def training_epochs(self) -> int:
        """The repeats, which take the place of epochs."""
        return self.repeats

    @property
    def canonical(self) -> dict[str, Any]:
        plain = {name: getattr(self, name) for name in self.FIELDS if name not in ("dataset", "options")}
        options = {**self.method_class.options, **self.options}
        return {
            "schema": SCHEMA, "kind": "timing", "dataset": data.identity(self.dataset), **plain,
            **({"options": options} if options else {}),
        }  # fmt: skip


@dataclass(frozen=True)
class Timing:
    """The result of a timing.

    Attributes:
        spec: its settings.
        ms: for each of R repeats the time of a batch, ms, a mean over the test set: (R,) float64.
        vae_ms: the same for a VAE with the same data set, dim and decoder, measured just before: (R,).
        environment: device, torch version and so on, as strings.
    """

    spec: TimingSpec
    ms: Tensor
    vae_ms: Tensor
    environment: dict[str, str]

    @property
    def key(self) -> str:
        return self.spec.key

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics by their names in MLflow: times in ms, and the ratio to the VAE, in which clock drift cancels."""
        ms = self.ms.tolist()
        ratios = (self.ms / self.vae_ms).tolist()
        return {
            "time/inference_ms": statistics.mean(ms),
            "time/inference_ms_sd": statistics.stdev(ms),
            "time/ratio_to_vae": statistics.median(ratios),
            "time/ratio_to_vae_sd": statistics.stdev(ratios),
        }

    @property
    def tags(self) -> dict[str, str]:
        """The timing's tags in MLflow."""
        return {"device": self.environment["device"], "torch_version": self.environment["torch"]}

    def save(self, folder: Path) -> None:
        """Write the result's file. OSError propagates."""
        about = {"spec": self.spec.model_dump(mode="json"), "key": self.spec.key, "environment": self.environment}
        checkpoint.save(folder / MARKER, {"ms": self.ms, "vae_ms": self.vae_ms}, {**about, "metrics": self.metrics})

    @classmethod
    def load(cls, folder: Path, key: str | None = None) -> Timing:
        """Read a timing that `save` wrote. `key`: the run that it must be of, if given. Errors as in `Result.load`."""
        tensors, about = read(folder / MARKER, key)
        spec = TimingSpec(**about["spec"])
        return cls(spec, tensors["ms"], tensors["vae_ms"], about["environment"])


def measure(
    spec: TimingSpec,
    images: data.Images,
    device: torch.device,
    on_repeat: Callable[[int], None] = lambda repeat: None,
) -> Timing:
    """Time inference on the whole test set, in batches, `spec.repeats` times.

    Inference is q(z|x) and one draw from it for each image, because a flow is only computed by drawing. Each repeat
    times a VAE first, then the method, in the same process; before the first, both pass over the test set once untimed.
    No other process should use the device.

    Args:
        spec: the timing's settings.
        images: the data set; its test images are centred beforehand.
        device: where to run the models.
        on_repeat: called after each repeat with the number of finished repeats.
    """
    vae = spec.model_copy(update={"method": "vae", "order": None, "options": {}})
    models = [untrained([each], images.shape, device) for each in (vae, spec)]
    inferences = [
        evaluate.Inference(model, [noise.generator(spec.seed, 0, noise.EVALUATE, device)]) for model in models
    ]
    batches = [models[0].centred(part.unsqueeze(0).to(device)) for part in images.test.split(spec.batch_size)]
    for inference in inferences:
        inference.warm_up(batches)
        inference.ms(batches)
    ms: list[list[float]] = []
    for repeat in range(spec.repeats):
        ms.append([inference.ms(batches) for inference in inferences])
        on_repeat(repeat + 1)
    times = torch.tensor(ms, dtype=torch.float64)
    return Timing(spec, times[:, 1].contiguous(), times[:, 0].contiguous(), environment(device))
