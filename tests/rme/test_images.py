"""Images of every layout become (N, C, H, W), or are refused with what was found."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rme.images import ImagesError, as_bytes, as_images

PIXELS = np.arange(2 * 3 * 16 * 16, dtype=np.uint8).reshape(2, 3, 16, 16)


@pytest.mark.parametrize("shape", [None, (3, 16, 16)])
def test_layouts_are_told_apart(shape) -> None:
    for given in (PIXELS, PIXELS.transpose(0, 2, 3, 1), torch.from_numpy(PIXELS.copy()), PIXELS.tolist()):
        if isinstance(given, list):
            given = np.array(given, np.uint8)
        found = as_images(given, shape)
        assert found.dtype == torch.uint8 and found.is_contiguous() and np.array_equal(found.numpy(), PIXELS)
    grey = as_images(PIXELS[:, 0], None)
    assert grey.shape == (2, 1, 16, 16) and np.array_equal(grey[:, 0].numpy(), PIXELS[:, 0])


def test_reversed_and_read_only_arrays_are_read() -> None:
    assert np.array_equal(as_images(PIXELS[:, :, ::-1]).numpy(), PIXELS[:, :, ::-1])
    frozen = PIXELS.copy()
    frozen.flags.writeable = False
    assert np.array_equal(as_images(frozen).numpy(), PIXELS)


def test_floats_stay_in_their_unit_and_become_float32() -> None:
    found = as_images(PIXELS.astype(np.float64) / 255)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), PIXELS / 255, rtol=1e-7)
    assert np.array_equal(as_bytes(found).numpy(), PIXELS)


@pytest.mark.parametrize(("images", "shape", "said"), [
    (np.zeros((2, 16, 16), np.int64), None, "int64; expected uint8"),
    (np.zeros((2, 16, 16), bool), None, "bool"),
    (np.zeros((2, 2, 16, 16), np.uint8), None, r"shape \(2, 2, 16, 16\); expected .*one or three channels"),
    (np.zeros((16,), np.uint8), None, r"shape \(16,\)"),
    (np.zeros((2, 16, 17), np.uint8), (1, 16, 16), r"\(2, 16, 17\) does not fit .*\(1, 16, 16\)"),
    (np.zeros((2, 16, 16), np.uint8), (3, 16, 16), r"does not fit .*\(3, 16, 16\)"),
    (np.zeros((16, 16, 3), np.uint8), (3, 16, 16), r"images\[None\]"),
    (np.array([[[0, 1], [1, 0]]], np.uint8), None, "largest pixel is 1"),
    (np.array([[[0.0, 1.5]]]), None, "from 0 to 1.5"),
    (np.array([[[-0.1, 1.0]]]), None, "from -0.1"),
    (np.array([[[0.0, math.nan]]]), None, "1 of 1 images .*NaN"),
    (np.array([[[0.0, math.inf]]]), None, "1 of 1 images .*infinite"),
    (np.array([[[0.0, 1 / 255]]]), None, "divided by 255 twice"),
    (np.ma.masked_array(PIXELS[:, 0], PIXELS[:, 0] > 9), None, "masked array"),
    (torch.rand(2, 16, 16).to_sparse(), None, "sparse.*to_dense"),
    ("no images", None, "str is no array"),
    (None, None, "NoneType is no array"),
])  # fmt: skip
def test_what_is_no_image_is_refused(images, shape, said) -> None:
    with pytest.raises(ImagesError, match=f"^photos: .*{said}"):
        as_images(images, shape, name="photos")


def test_rounding_beyond_the_ends_and_other_byte_orders_are_accepted() -> None:
    values = np.array([[[-1e-7, 0.5, 1 + 1e-6]]])
    found = as_images(values).flatten().tolist()
    assert found == [0.0, 0.5, 1.0]
    assert np.array_equal(as_images(values.clip(0, 1).astype(">f8")).flatten().numpy(), np.float32([0, 0.5, 1]))


def test_black_images_are_images() -> None:
    assert as_images(np.zeros((2, 16, 16), np.uint8)).shape == (2, 1, 16, 16)
