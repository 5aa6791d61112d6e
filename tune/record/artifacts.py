"""The files that MLflow has of runs: a run's model and its scores, a cell's pictures."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from rme.result import Result

MODEL = "model.safetensors"
"""Artifact of a run: one file, for a sweep leaves thousands."""

IMAGES = "images.safetensors"
"""Artifact of a cell: the shown run's test images, reconstructions and samples as numbers; `run_key` says whose."""


def write_model(result: Result, path: Path) -> None:
    """The chosen model's parameters, with what made it as metadata, and beside them the test images' scores in nats."""
    about = {"spec": result.spec.model_dump_json(), "key": result.spec.key, "restart": str(result.chosen)}
    scores = {"test.iwae": result.test_iwae, "test.elbo": result.test_elbo}
    tensors = {**result.models[result.chosen], **scores}
    save_file({name: value.contiguous() for name, value in tensors.items()}, path, about)


def save_pictures(result: Result, folder: Path) -> None:
    """Test images above their reconstructions, and samples; and all of them as numbers, for the report's figures."""
    count = result.samples.shape[0]
    _save_grid(result.reconstructions.flatten(0, 1), count, folder / "reconstructions.png")
    _save_grid(result.samples, int(count**0.5), folder / "samples.png")
    tensors = {
        "test_images": result.test_images,
        "reconstructions": result.reconstructions[1],  # of the first of them
        "samples": result.samples,
    }
    about = {"run_key": result.spec.key, "restart": str(result.chosen)}
    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / IMAGES, about)


def _save_grid(images: Tensor, columns: int, path: Path) -> None:
    import torchvision  # here, for it takes three seconds to load torch's compiler too, and a plan shows no picture

    torchvision.utils.save_image(images.float() / 255, path, nrow=columns, padding=1, pad_value=0.5)
