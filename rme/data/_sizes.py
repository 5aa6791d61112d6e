"""The sizes of a user's own images."""

from __future__ import annotations

SIDES = range(16, 129)
"""Sides of the square images that the networks support, in pixels."""
CHANNELS = (1, 3)
"""Numbers of channels: grey, colour."""
SUPPORTED = f"square, {SIDES[0]}x{SIDES[0]} to {SIDES[-1]}x{SIDES[-1]} pixels, grey (1 channel) or colour (3 channels)"
MIN_TRAIN = 10
"""Minimum number of training images, so that 10% of them is at least one."""


def is_supported(shape: tuple[int, ...]) -> bool:
    """Whether images of this shape (C, H, W) are square, with a side in `SIDES` and a number of channels allowed."""
    return len(shape) == 3 and shape[0] in CHANNELS and shape[1] == shape[2] and shape[1] in SIDES


def count_fault(train: int, test: int) -> str | None:
    """Why these numbers of training and test images are too small, or None."""
    if train < MIN_TRAIN:
        return f"train has {train} images, expected at least {MIN_TRAIN}, since 10% are held out for validation"
    if test == 0:
        return "test has 0 images, expected at least 1"
    return None
