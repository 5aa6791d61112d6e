"""Grids of images: where each pixel goes, and PNG files as another library reads them."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from rme import pictures


def test_images_go_row_by_row_on_white():
    images = np.array([[[[1, 2], [3, 4]]], [[[5, 6], [7, 8]]], [[[9, 10], [11, 12]]]], np.uint8)
    assert pictures.grid(images, columns=2, gap=1).tolist() == [
        [1, 2, 255, 5, 6],
        [3, 4, 255, 7, 8],
        [255, 255, 255, 255, 255],
        [9, 10, 255, 255, 255],
        [11, 12, 255, 255, 255],
    ]
    assert pictures.grid(images, columns=9, gap=0).shape == (2, 6)
    assert pictures.grid(images, gap=0).shape == (4, 4)  # 2 columns


def test_a_png_file_has_the_pixels_of_colour_images(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 5), dtype=np.uint8)
    pictures.write(tmp_path / "new" / "grid.png", images, columns=2)
    assert (tmp_path / "new" / "grid.png").read_bytes() == pictures.png(images, 2)
    read = np.asarray(Image.open(io.BytesIO(pictures.png(images, 2))))
    assert read.shape == (4, 5 + pictures.GAP + 5, 3)
    assert (read[:, :5].transpose(2, 0, 1) == images[0]).all()
    assert (read[:, -5:].transpose(2, 0, 1) == images[1]).all()


def test_each_row_is_above_its_other_row():
    upper, lower = (np.arange(first, first + 3, dtype=np.uint8).reshape(3, 1, 1, 1) for first in (0, 100))
    assert pictures.grid(pictures.above(upper, lower, 2), 2, gap=0).tolist() == [
        [0, 1], [100, 101],
        [2, 255], [102, 255],
    ]  # fmt: skip


def test_unit_images_are_rounded_and_clipped():
    assert pictures.of_unit(np.array([-0.1, 0.0, 0.501, 1.0, 1.2])).tolist() == [0, 0, 128, 255, 255]


@pytest.mark.parametrize(
    ("images", "columns", "named"),
    [
        (np.zeros((2, 2, 4, 4), np.uint8), None, "(2, 2, 4, 4)"),
        (np.zeros((2, 1, 4, 4), np.float32), None, "float32"),
        (np.zeros((0, 1, 4, 4), np.uint8), None, "no images"),
        (np.zeros((2, 1, 4, 4), np.uint8), 0, "columns=0"),
    ],
)
def test_anything_else_is_refused(images, columns, named):
    with pytest.raises(ValueError, match=named.replace("(", r"\(").replace(")", r"\)")):
        pictures.grid(images, columns)
