"""MNIST, from torchvision's files."""

from __future__ import annotations

import gzip
import os
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rme.data import _files
from rme.data.base import DataError, Dataset, Images

_TRAIN, _TEST = "train-images-idx3-ubyte", "t10k-images-idx3-ubyte"
_IMAGE_FILE = 0x803
"""First four bytes of an IDX file of uint8 in three dimensions."""
_HEADER = 16
"""Bytes before the first pixel: the four above, then count, height and width of four bytes each."""


class Mnist(Dataset):
    """60,000 and 10,000 handwritten digits, 28x28 (LeCun et al. 1998). The label files are not needed."""

    name = "mnist"
    label = "MNIST"
    version = 1
    shape = (1, 28, 28)
    counts = (60_000, 10_000)
    source = (
        f"Put {_TRAIN}.gz and {_TEST}.gz, from https://ossci-datasets.s3.amazonaws.com/mnist/ or "
        "https://yann.lecun.com/exdb/mnist/, into MNIST/raw of the data directory, where they are unpacked "
        "(train-labels-idx1-ubyte and t10k-labels-idx1-ubyte, which torchvision also stores there, are not needed)."
    )

    def prepare(self, data_dir: Path) -> None:
        """Unpack the .gz files in `data_dir`/MNIST/raw; let torchvision download what is still missing.

        DataError names the folder and the files if that fails or leaves unusable files.
        """
        raw, failures = _raw(data_dir), []
        for name, count in zip((_TRAIN, _TEST), self.counts, strict=True):
            # unpacked here, because torchvision checks the .gz's md5 and rejects the same images from another gzip
            archive = raw / f"{name}.gz"
            if archive.is_file() and not (raw / name).is_file():
                try:
                    _unpack(archive, raw / name, _HEADER + count * 784)
                except (OSError, EOFError, zlib.error) as error:
                    failures.append(f"{archive} cannot be unpacked ({error})")
        missing = [name for name in (_TRAIN, _TEST) if not (raw / name).is_file()]
        if missing:
            try:
                from torchvision.datasets import MNIST

                MNIST(root=data_dir, download=True)
            except Exception as error:  # a download can raise anything
                failures.append(f"the download failed ({type(error).__name__}: {error})")
                what = f"MNIST: {' and '.join(missing)} missing in {raw}"
                raise DataError(f"{what}; {'; '.join(failures)}. {self.source}") from error
        self.load(data_dir)

    def must_write(self, data_dir: Path) -> bool:
        raw = _raw(data_dir)
        missing = [name for name in (_TRAIN, _TEST) if not (raw / name).is_file()]
        if to_download := [name for name in missing if not (raw / f"{name}.gz").is_file()]:
            wrong = [f"{' and '.join(to_download)} missing in {raw}"]
            _files.require_downloader(self.label, wrong, self.source)
        return bool(missing)

    def load(self, data_dir: Path) -> Images:
        """Read `data_dir`/MNIST/raw. DataError names a file that is missing, truncated or a different one."""
        raw = _raw(data_dir)
        return self.images(self._read(raw / _TRAIN, self.counts[0]), self._read(raw / _TEST, self.counts[1]))

    def _read(self, path: Path, count: int) -> Tensor:
        """One IDX file as uint8 (count, 1, 28, 28)."""
        header = struct.pack(">IIII", _IMAGE_FILE, count, 28, 28)
        size = _HEADER + count * 784
        expected = f"expected {size:,} bytes: a header of {_HEADER}, then {count:,} images of 28x28"
        if not path.is_file():
            raise DataError(f"MNIST: {path} is missing; {expected}. {self.source}")
        content = np.fromfile(path, dtype=np.uint8)
        again = f"Delete it, and its .gz if that has the same fault. {self.source}"
        if len(content) != size:
            raise DataError(f"MNIST: {path} has {len(content):,} bytes, {expected}. {again}")
        found = content[:_HEADER].tobytes()
        if found != header:
            raise DataError(f"MNIST: {path} starts with {found.hex()}, expected {header.hex()}; {expected}. {again}")
        return torch.from_numpy(content[_HEADER:].reshape(count, 1, 28, 28))


def _raw(data_dir: Path) -> Path:
    return Path(data_dir) / "MNIST" / "raw"


def _unpack(archive: Path, target: Path, size: int) -> None:
    """Unpack a .gz of `size` bytes of content. OSError, EOFError or zlib.error if it is damaged or of another size."""
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        with gzip.open(archive) as packed, part.open("wb") as unpacked:
            shutil.copyfileobj(packed, unpacked)
        if (found := part.stat().st_size) != size:
            raise EOFError(f"{found:,} bytes inside, expected {size:,}")
        part.replace(target)  # atomic, so that an interruption leaves no partial file
    finally:
        part.unlink(missing_ok=True)
