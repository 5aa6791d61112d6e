"""SVHN, from torchvision's files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rme.data import _files
from rme.data.base import DataError, Dataset, Images

_TRAIN, _TEST = "train_32x32.mat", "test_32x32.mat"


class Svhn(Dataset):
    """73,257 and 26,032 house numbers in colour, 32x32 (Netzer et al. 2011); the `extra` images are not used."""

    name = "svhn"
    label = "SVHN"
    version = 1
    shape = (3, 32, 32)
    counts = (73_257, 26_032)
    md5s = {  # noqa: RUF012
        _TRAIN: "e26dedcc434d2e4c54c9b2d4a06d8373",
        _TEST: "eb5a983be6a315427106f1b164d9cef3",
    }
    source = f"Put {_TRAIN} and {_TEST}, from http://ufldl.stanford.edu/housenumbers/, into the data directory."

    def prepare(self, data_dir: Path) -> None:
        """Let torchvision download what is missing or damaged in `data_dir`. Raises DataError when that fails."""
        if wrong := _files.faults(self._paths(data_dir)):
            _files.download(self.label, wrong, lambda: _download(Path(data_dir)), self.source)
        self.load(data_dir)

    def must_write(self, data_dir: Path) -> bool:
        if wrong := _files.missing(self._paths(data_dir)):
            _files.require_downloader(self.label, wrong, self.source)
        return bool(wrong)

    def load(self, data_dir: Path) -> Images:
        """Read the two files in `data_dir`. DataError names a file that is missing or has another md5."""
        paths = self._paths(data_dir)
        _files.require(self.label, paths, self.source)
        train, test = (self._pixels(path) for path in paths)
        return self.images(train, test)

    def _paths(self, data_dir: Path) -> dict[Path, str]:
        return {Path(data_dir) / name: md5 for name, md5 in self.md5s.items()}

    def _pixels(self, path: Path) -> Tensor:
        """The images `X` (height, width, channels, N) of a file, as uint8 (N, 3, 32, 32)."""
        from scipy.io import loadmat

        try:
            pixels = loadmat(path, variable_names=("X",)).get("X")
        except Exception as error:  # reading a damaged file can raise anything
            reason = f"{type(error).__name__}: {error}"
            raise DataError(f"{self.label}: {path} cannot be read ({reason}). {self.source}") from error
        if pixels is None or pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[:3] != (32, 32, 3):
            found = "missing" if pixels is None else f"{pixels.dtype} of shape {pixels.shape}"
            raise DataError(f"{self.label}: {path}: X is {found}, expected uint8 (32, 32, 3, N). {self.source}")
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(3, 2, 0, 1)))


def _download(data_dir: Path) -> None:
    from torchvision.datasets import SVHN
    from torchvision.datasets.utils import download_url

    for split in ("train", "test"):
        url, name, md5 = SVHN.split_list[split]
        download_url(url, str(data_dir), name, md5)
