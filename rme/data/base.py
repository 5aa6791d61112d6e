"""The interface of a data set: two tensors of images, and a split of them fixed by the run's seed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

HOLD_OUT = 1
"""Purpose of the permutation that selects the validation images. Not 0: SeedSequence([s, 0]) is SeedSequence(s)."""


class DataError(ValueError):
    """Images are not available; the message names the file, what was expected, and where to get it."""


@dataclass(frozen=True, eq=False)
class Images:
    """The images of a data set, pixels 0..255.

    Attributes:
        train: uint8, (N, C, H, W), contiguous; includes the validation images.
        test: uint8, (N', C, H, W), contiguous.

    Raises DataError if a tensor is not so, or if the two differ in (C, H, W).
    """

    train: Tensor
    test: Tensor

    def __post_init__(self) -> None:
        for part, images in (("train", self.train), ("test", self.test)):
            if images.dtype != torch.uint8 or images.ndim != 4 or not images.is_contiguous():
                layout = "" if images.is_contiguous() else "non-contiguous "
                found = f"{layout}{images.dtype} of shape {tuple(images.shape)}"
                raise DataError(f"{part} images are {found}, expected contiguous torch.uint8 of shape (N, C, H, W)")
        if self.train.shape[1:] != self.test.shape[1:]:
            shapes = f"{tuple(self.train.shape[1:])} and {tuple(self.test.shape[1:])}"
            raise DataError(f"train and test images differ in shape (C, H, W): {shapes}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        channels, height, width = self.train.shape[1:]
        return channels, height, width

    def without_test(self) -> Images:
        """The same with an empty `test`, (0, C, H, W), for callers that must not see the test set."""
        return Images(self.train, self.train.new_empty(0, *self.shape))


@dataclass(frozen=True, eq=False)
class Split:
    """The images of each part: int64 indices, ascending.

    Attributes:
        train: (n,), into `Images.train`.
        validation: (m,), into `Images.train`; disjoint from `train`.
        test: (k,), into `Images.test`.
    """

    train: Tensor
    validation: Tensor
    test: Tensor

    def without_test(self) -> Split:
        """The same without test indices, so that no test image is used even if all images are one pool."""
        return Split(self.train, self.validation, self.test[:0])


class Dataset(ABC):
    """A data set. A subclass in a file of `rme/data/` is registered automatically.

    It declares the attributes below and defines `load`. It overrides `prepare`, and `split` with `split_sizes`, if the
    defaults do not suit it.
    """

    name: str
    """The name in grids and `--only dataset=`, lower case."""
    label: str
    """The name in tables, as in the paper."""
    version: int
    """Part of every run's key. Raise it when the pixels that `load` returns change."""
    shape: tuple[int, int, int]
    """(C, H, W) of one image."""
    counts: tuple[int, int]
    """Lengths of `Images.train` and `Images.test`; if both are one pool of images, its size twice."""
    source: str
    """One sentence: where to get the files, and where under the data directory to put them."""
    users_own: bool = False
    """Whether the images are a user's own, which `rme.data.check` checks before a training."""

    @abstractmethod
    def load(self, data_dir: Path) -> Images:
        """Read the images; never downloads. Must end with `return self.images(train, test)`, which checks them.

        DataError names the file, what was expected, and where to get it.
        """

    def prepare(self, data_dir: Path) -> None:
        """Make the data available in `data_dir`, by downloading if possible; otherwise raise DataError.

        A sweep calls it once, in the driver, before any worker calls `load`.
        """
        self.load(data_dir)

    def must_write(self, data_dir: Path) -> bool:
        """Whether `prepare` would write into `data_dir`, to download, unpack or decode. Quick: reads no images.

        Raises DataError for missing files that `prepare` cannot download. The default knows of no files.
        """
        return False

    def split(self, images: Images, seed: int) -> Split:
        """Hold out 10% of the training images for validation, selected by `seed`; all test images are for testing.

        Raises DataError if 10% of the training images is less than one image.
        """
        count = len(images.train)
        held_out = tenth(count)
        if held_out == 0:
            raise DataError(f"{self.name}: 10% of {count} training images is none; at least 10 are needed")
        order = permutation(count, seed, HOLD_OUT)
        return Split(
            train=order[held_out:].sort().values,
            validation=order[:held_out].sort().values,
            test=torch.arange(len(images.test)),
        )

    @property
    def split_sizes(self) -> tuple[int, int, int]:
        """Numbers of training, validation and test images that `split` returns: from `counts`, without loading."""
        train, test = self.counts
        return train - tenth(train), tenth(train), test

    @property
    def identity(self) -> str:
        """The data set's part of a run's key."""
        return f"{self.name}-{self.version}"

    def images(self, train: Tensor, test: Tensor) -> Images:
        """Images of these tensors, (N, C, H, W) uint8; DataError if they differ from what the data set declares."""
        images = Images(train.contiguous(), test.contiguous())
        counts = (len(train), len(test))
        if counts != self.counts or images.shape != self.shape:
            raise DataError(
                f"{self.name}: found {counts[0]} training and {counts[1]} test images of shape {images.shape}, "
                f"expected {self.counts[0]} and {self.counts[1]} of shape {self.shape}. {self.source}"
            )
        return images


def tenth(count: int) -> int:
    """10% of `count` images, rounded: the share that is held out."""
    return round(0.1 * count)


def permutation(n: int, seed: int, purpose: int) -> Tensor:
    """The numbers 0..n-1 in an order fixed by (seed, purpose), int64, (n,): the same on every machine and NumPy."""
    # NumPy guarantees that a bit generator's raw output never changes, but not Generator.permutation
    raw = np.random.PCG64(np.random.SeedSequence([seed, purpose])).random_raw(n)
    return torch.from_numpy(np.argsort(raw, kind="stable").astype(np.int64))
