"""The pictures of a cell in MLflow: reconstructions and samples of its best run, with a title and named rows."""

from __future__ import annotations

import math
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from safetensors.torch import save_file

from analysis.names import IMAGES, RUN_KEY
from rme.pictures import WHITE, Pixels, grid
from rme.result import Result

SIDE = 64
"""Smallest side, in pixels, at which an image is drawn: smaller ones are enlarged by a whole factor."""

MARGIN = 12
"""Pixels around the picture, and between its texts and images."""

_FONT = ImageFont.load_default(size=15)
_LINE = 20
"""Height of a line of text, in pixels."""


def save_pictures(result: Result, folder: Path) -> None:
    """Write a run's pictures as PNG, and their pixels as a safetensors file for the report's figures.

    The pictures are test images above their reconstructions, and samples.
    """
    metrics = result.metrics
    scores = f"validation IWAE {metrics['val/iwae']:.2f}"
    if "test/iwae" in metrics:
        scores += f", test IWAE {metrics['test/iwae']:.2f}"
    title = [result.spec.run_name, f"{scores} nats per image"]
    shown = "test images" if len(result.test_iwae) else "validation images"
    originals, reconstructions = result.reconstructions.numpy()
    _labelled({shown: originals, "reconstructions": reconstructions}, title).save(folder / "reconstructions.png")
    samples = result.samples.numpy()
    _labelled({"samples": samples}, title, columns=max(1, int(len(samples) ** 0.5))).save(folder / "samples.png")
    tensors = {
        "test_images": result.test_images,
        "reconstructions": result.reconstructions[1],  # of the first test images
        "samples": result.samples,
    }
    about = {RUN_KEY: result.spec.key, "restart": str(result.chosen)}
    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / IMAGES, about)


def _labelled(parts: dict[str, Pixels], title: list[str], columns: int | None = None) -> Image.Image:
    """Sets of images, (n, C, H, W) each, below one another, with the name of each on its left and a title above.

    `columns`: images in a row; None: all of a set.
    """
    pictures = {
        name: Image.fromarray(grid(_enlarged(images), columns or len(images))) for name, images in parts.items()
    }
    left = max(_width(name) for name in parts) + 2 * MARGIN
    width = max(left + max(picture.width for picture in pictures.values()), MARGIN + max(map(_width, title))) + MARGIN
    top = 2 * MARGIN + _LINE * len(title)
    height = top + sum(picture.height + MARGIN for picture in pictures.values())
    whole = Image.new("RGB", (width, height), (WHITE,) * 3)
    draw = ImageDraw.Draw(whole)
    for number, line in enumerate(title):
        draw.text((MARGIN, MARGIN + number * _LINE), line, "black", _FONT)
    for name, picture in pictures.items():
        draw.text((MARGIN, top + picture.height // 2), name, "black", _FONT, anchor="lm")
        whole.paste(picture, (left, top))
        top += picture.height + MARGIN
    return whole


def _enlarged(images: Pixels) -> Pixels:
    """Each pixel repeated, so that no side of an image is below `SIDE`: (n, C, H, W) -> (n, C, f H, f W)."""
    factor = max(1, math.ceil(SIDE / min(images.shape[2:])))
    return images.repeat(factor, 2).repeat(factor, 3)


def _width(text: str) -> int:
    return math.ceil(_FONT.getlength(text))
