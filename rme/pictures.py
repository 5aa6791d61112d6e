"""A grid of images as one picture: an array, the bytes of a PNG file, or a file."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rme import checkpoint

GAP = 2
"""Pixels between the images of a grid."""
WHITE = 255

Pixels = NDArray[np.uint8]


def grid(images: Pixels, columns: int | None = None, gap: int = GAP) -> Pixels:
    """The images row by row on white, `gap` pixels apart: uint8 (n, C, H, W) -> (H', W') for C = 1, or (H', W', 3).

    Args:
        images: grey (C = 1) or colour (C = 3).
        columns: images in a row; None: as many as rows, or one more.
        gap: pixels between neighbours; none around the picture.

    ValueError for no images, another shape or dtype, or fewer than one column.
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3) or images.dtype != np.uint8:
        raise ValueError(f"images {images.dtype} {images.shape}: valid are uint8 (n, 1, H, W) and (n, 3, H, W)")
    count, channels, height, width = images.shape
    if not count:
        raise ValueError("no images to draw")
    if columns is not None and columns < 1:
        raise ValueError(f"columns={columns}: valid values are 1 and more")
    columns = min(columns or math.ceil(math.sqrt(count)), count)
    rows = math.ceil(count / columns)
    shape = (rows * (height + gap) - gap, columns * (width + gap) - gap, channels)
    picture: Pixels = np.full(shape, WHITE, np.uint8)
    for i, image in enumerate(images):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        picture[top : top + height, left : left + width] = image.transpose(1, 2, 0)
    return picture[..., 0] if channels == 1 else picture


def above(upper: Pixels, lower: Pixels, columns: int) -> Pixels:
    """Both sets of n images for one grid of so many columns: each row of `upper` above the same row of `lower`.

    (n, C, H, W) and (n, C, H, W) -> (2m, C, H, W), where m >= n fills the last row, with white images.
    """
    missing = -len(upper) % columns
    white: Pixels = np.full((missing, *upper.shape[1:]), WHITE, np.uint8)
    pair = [np.concatenate([images, white]).reshape(-1, columns, *images.shape[1:]) for images in (upper, lower)]
    return np.stack(pair, 1).reshape(-1, *upper.shape[1:])


def png(images: Pixels, columns: int | None = None, gap: int = GAP) -> bytes:
    """The bytes of a PNG file with `grid` of these images; same arguments and errors."""
    buffer = io.BytesIO()
    Image.fromarray(grid(images, columns, gap)).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def write(file: Path, images: Pixels, columns: int | None = None) -> None:
    """Write `png` of these images, atomically. OSError as when writing a file."""
    content = png(images, columns)
    checkpoint.write_atomically(file, lambda temporary: temporary.write_bytes(content))


def of_unit(images: NDArray[np.floating]) -> Pixels:
    """Images in [0, 1] as uint8 0..255, rounded; values outside are clipped. The shape stays."""
    return (np.clip(images, 0, 1) * 255).round().astype(np.uint8)
