"""A user's own images, in an .npz file."""

from __future__ import annotations

import hashlib
import zipfile
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rme.data._paths import absolute
from rme.data._sizes import SUPPORTED, count_fault, is_supported
from rme.data.base import DataError, Dataset, Images

_hashes: dict[tuple[str, int, int], str] = {}


class Npz(Dataset):
    """The file at `path`, with uint8 arrays `train` and `test`, N x H x W or N x H x W x C, of a size in `_sizes`.

    Its name is its absolute path. The file is opened only for images, shape, counts or identity.
    """

    version = 1
    source = (
        f"Write it with numpy.savez(path, train=..., test=...): uint8 arrays, N x H x W or N x H x W x C, {SUPPORTED}."
    )
    users_own = True

    def __init__(self, path: str | Path) -> None:
        self.path = absolute(path)
        self.name = str(self.path)
        self.label = self.path.stem

    @cached_property
    def shape(self) -> tuple[int, int, int]:  # type: ignore[override]
        """(C, H, W) of one image. Reads the file; DataError as `load`."""
        return self.load(self.path.parent).shape

    @cached_property
    def counts(self) -> tuple[int, int]:  # type: ignore[override]
        """Numbers of training and test images. Reads the file; DataError as `load`."""
        images = self.load(self.path.parent)
        return len(images.train), len(images.test)

    def load(self, data_dir: Path) -> Images:
        """Read the file; ignores `data_dir`. DataError names the file, the array and what is wrong."""
        arrays = self._arrays()
        for name in ("train", "test"):
            if name not in arrays:
                raise DataError(f"{self.path}: no array {name!r}; expected train and test. {self.source}")
        train, test = (self._channels_first(name, arrays[name]) for name in ("train", "test"))
        if fault := count_fault(len(train), len(test)):
            raise DataError(f"{self.path}: {fault}")
        if train.shape[1:] != test.shape[1:]:
            sizes = f"train has images of {_size(arrays['train'])}, test of {_size(arrays['test'])}"
            raise DataError(f"{self.path}: {sizes}; expected the same size in both")
        return Images(train, test)

    @property
    def identity(self) -> str:
        """`npz-<version>-<16 hex digits of the content's sha256>`, whatever the file's path.

        Raises DataError when the file does not exist.
        """
        self._require_file()
        status = self.path.stat()
        key = (self.name, status.st_size, status.st_mtime_ns)
        if key not in _hashes:
            with self.path.open("rb") as file:
                _hashes[key] = hashlib.file_digest(file, "sha256").hexdigest()[:16]
        return f"npz-{self.version}-{_hashes[key]}"

    def _require_file(self) -> None:
        try:
            exists = self.path.is_file()
        except OSError as error:  # the name is too long, or the folder is not accessible
            raise DataError(f"{self.path}: {error.strerror}. {self.source}") from None
        if not exists:
            raise DataError(f"{self.path}: file not found. {self.source}")

    def _arrays(self) -> dict[str, np.ndarray]:
        """The arrays `train` and `test`, as far as the file has them."""
        self._require_file()
        if not zipfile.is_zipfile(self.path):
            raise DataError(f"{self.path}: not an .npz file, or truncated. {self.source}")
        arrays = {}
        try:
            with zipfile.ZipFile(self.path) as archive:
                for name in ("train", "test"):
                    if f"{name}.npy" in archive.namelist():
                        with archive.open(f"{name}.npy") as file:
                            arrays[name] = np.lib.format.read_array(file, allow_pickle=False)
                            # also verifies the checksum at the end, which reading fewer bytes would not
                            if file.read(1):
                                raise ValueError(f"{name} has more data than its shape {arrays[name].shape}")
        except Exception as error:  # a damaged file can raise anything
            raise DataError(f"{self.path}: cannot be read ({error}). {self.source}") from error
        return arrays

    def _channels_first(self, name: str, array: np.ndarray) -> Tensor:
        """The array as a contiguous tensor (N, C, H, W)."""
        if array.dtype != np.uint8:
            raise DataError(f"{self.path}: {name} is of dtype {array.dtype}, expected uint8 (pixels 0..255)")
        if array.ndim not in (3, 4):
            found = f"{name} has {array.ndim} axes, shape {array.shape}"
            raise DataError(f"{self.path}: {found}; expected N x H x W or N x H x W x C")
        images = array.reshape(*array.shape, 1) if array.ndim == 3 else array
        if not is_supported((images.shape[3], *images.shape[1:3])):
            raise DataError(f"{self.path}: {name} has images of {_size(array)}. {self.source}")
        return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def _size(array: np.ndarray) -> str:
    return "x".join(map(str, array.shape[1:]))
