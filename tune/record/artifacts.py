"""The pictures of a cell in MLflow: reconstructions and samples of its best run."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from analysis.names import IMAGES, RUN_KEY
from rme.result import Result


def save_pictures(result: Result, folder: Path) -> None:
    """Write a run's pictures as PNG, and their pixels as a safetensors file for the report's figures.

    The pictures are test images above their reconstructions, and samples.
    """
    count = result.samples.shape[0]
    _save_grid(result.reconstructions.flatten(0, 1), count, folder / "reconstructions.png")
    _save_grid(result.samples, int(count**0.5), folder / "samples.png")
    tensors = {
        "test_images": result.test_images,
        "reconstructions": result.reconstructions[1],  # of the first test images
        "samples": result.samples,
    }
    about = {RUN_KEY: result.spec.key, "restart": str(result.chosen)}
    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / IMAGES, about)


def _save_grid(images: Tensor, columns: int, path: Path) -> None:
    import torchvision  # late: it loads torch's compiler, which takes three seconds, and a plan needs no pictures

    torchvision.utils.save_image(images.float() / 255, path, nrow=columns, padding=1, pad_value=0.5)
