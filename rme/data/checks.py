"""Checks of a user's own images before a training: what would end in a useless model is an error or a warning."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from torch import Tensor

from rme.data.base import DataError, Dataset, Images

if TYPE_CHECKING:
    from rme.config import RunSpec

CHUNK = 4096
"""Images that are compared together: usually the first few already show that pixels vary."""


def check(dataset: Dataset, images: Images, spec: RunSpec) -> list[str]:
    """Check a data set's images for a run. Returns warnings, one line each; DataError as `check_images`."""
    return check_images(images, dataset.name, spec.batch_size, len(dataset.split(images, spec.seed).train))


def check_images(images: Images, where: str, batch_size: int, train_count: int) -> list[str]:
    """Check images. Returns warnings, one line each: of test images that are training images too.

    Args:
        images: before the validation images are held out.
        where: where they came from, at the start of each message.
        batch_size: the run's.
        train_count: number of training images without the validation images.

    Raises DataError if a batch needs more training images, if the largest pixel is 1, if every training image is of one
    value throughout, or if all training images are equal.
    """
    if train_count < batch_size:
        raise DataError(
            f"{where}: {train_count} training images, after 10% are held out for validation, are fewer than "
            f"batch_size={batch_size}; set batch_size={max(1, train_count)} or less, or add images"
        )
    if fault := _fault(images.train):
        raise DataError(f"{where}: {fault}")
    both = 0 if images.test is images.train else repeated(images.train, images.test)
    if both == 0:
        return []
    are, them = ("image is a training image", "it") if both == 1 else ("images are training images", "them")
    return [f"{where}: {both:,} test {are} too, of {len(images.test):,}; the test score is too good by {them}"]


def repeated(train: Tensor, test: Tensor) -> int:
    """How many test images equal a training image in every pixel, by hashes of 128 bits; both (N, C, H, W) uint8."""
    of_test = _hashes(test)
    both = set(of_test).intersection(_hashes(train))
    return sum(each in both for each in of_test)


def _hashes(images: Tensor) -> list[bytes]:
    return [hashlib.blake2b(image, digest_size=16).digest() for image in images.numpy()]


def _fault(train: Tensor) -> str | None:
    """Why nothing can be learnt from these images (N, C, H, W) uint8, or None."""
    largest, shaped, varied = 0, False, False
    for chunk in train.split(CHUNK):
        flat = chunk.flatten(1)
        largest = max(largest, int(flat.max()))
        shaped = shaped or bool((flat != flat[:, :1]).any())
        varied = varied or bool((chunk != train[:1]).any())
        if largest > 1 and shaped and varied:
            return None
    if largest == 1:
        return "the training images' largest pixel is 1, so they are nearly black: pixels are 0..255; multiply by 255"
    if not varied:
        return f"all {len(train):,} training images are equal, so there is nothing to learn"
    return "every training image has a single value throughout, so there is nothing to learn"
