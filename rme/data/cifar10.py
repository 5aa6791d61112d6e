"""CIFAR10, from torchvision's files."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rme.data import _files
from rme.data.base import DataError, Dataset, Images

_TEST = "test_batch"


class Cifar10(Dataset):
    """50,000 and 10,000 photographs in colour, 32x32 (Krizhevsky 2009)."""

    name = "cifar10"
    label = "CIFAR10"
    version = 1
    shape = (3, 32, 32)
    counts = (50_000, 10_000)
    md5s = {  # noqa: RUF012
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        _TEST: "40351d587109b95175f43aff81a1287e",
    }
    """md5 of each file of images; all but the last are for training."""
    source = (
        "Unpack https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz in the data directory, "
        "so that it contains the folder cifar-10-batches-py, as torchvision does."
    )

    def prepare(self, data_dir: Path) -> None:
        """Let torchvision download and unpack the archive in `data_dir`, unless all files are complete.

        DataError names the faulty files if that fails.
        """
        if wrong := _files.faults(self._paths(data_dir)):
            _files.download(self.label, wrong, lambda: _download(Path(data_dir)), self.source)
        self.load(data_dir)

    def must_write(self, data_dir: Path) -> bool:
        if wrong := _files.missing(self._paths(data_dir)):
            _files.require_downloader(self.label, wrong, self.source)
        return bool(wrong)

    def load(self, data_dir: Path) -> Images:
        """Read `data_dir`/cifar-10-batches-py. DataError names a file that is missing or has another md5."""
        paths = self._paths(data_dir)
        _files.require(self.label, paths, self.source)
        batches = {path.name: self._batch(path) for path in paths}
        test = batches.pop(_TEST)
        return self.images(torch.from_numpy(np.concatenate(list(batches.values()))), torch.from_numpy(test))

    def _paths(self, data_dir: Path) -> dict[Path, str]:
        return {Path(data_dir) / "cifar-10-batches-py" / name: md5 for name, md5 in self.md5s.items()}

    def _batch(self, path: Path) -> np.ndarray:
        """The images in one file, uint8 (N, 3, 32, 32)."""
        try:
            with path.open("rb") as file:
                pixels = _ArraysOnly(file, encoding="bytes").load()[b"data"]
        except Exception as error:  # a damaged pickle can raise anything
            reason = f"{type(error).__name__}: {error}"
            raise DataError(f"{self.label}: {path} cannot be read ({reason}). {self.source}") from error
        if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != (3 * 32 * 32,):
            found = f"{pixels.dtype} of shape {pixels.shape}" if isinstance(pixels, np.ndarray) else "no array"
            raise DataError(f"{self.label}: {path}: data is {found}, expected uint8 (N, 3072). {self.source}")
        return pixels.reshape(-1, 3, 32, 32)  # each row is all red values, then all green, then all blue


class _ArraysOnly(pickle.Unpickler):
    """Unpickles dicts, lists, bytes and arrays only, so that a malicious file cannot call anything else."""

    def find_class(self, module: str, name: str) -> Any:
        # the files use NumPy's module names of 2009, which have changed
        known: dict[str, Any] = {
            "numpy.core.multiarray._reconstruct": np.empty(0).__reduce__()[0],
            "numpy.ndarray": np.ndarray,
            "numpy.dtype": np.dtype,
        }
        if f"{module}.{name}" not in known:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed in a file of images")
        return known[f"{module}.{name}"]


def _download(data_dir: Path) -> None:
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import download_and_extract_archive

    download_and_extract_archive(CIFAR10.url, str(data_dir), filename=CIFAR10.filename, md5=CIFAR10.tgz_md5)
