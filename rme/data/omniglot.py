"""OMNIGLOT in 28x28 pixels as the VAE literature uses it, from the file of Burda et al."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rme.data import _files
from rme.data.base import DataError, Dataset, Images


class Omniglot(Dataset):
    """24,345 and 8,070 handwritten characters, 28x28: Lake's drawings, downscaled and split by Burda et al. (2016)."""

    name = "omniglot"
    label = "OMNIGLOT"
    version = 1
    shape = (1, 28, 28)
    counts = (24_345, 8_070)
    md5 = "21ecaf34373511aa7691cf2e0802aa3d"
    """md5 of chardata.mat."""
    source = (
        "Put chardata.mat of Burda, Grosse and Salakhutdinov's IWAE code (https://github.com/yburda/iwae, "
        "datasets/OMNIGLOT/chardata.mat) into the folder omniglot of the data directory."
    )

    def must_write(self, data_dir: Path) -> bool:
        if wrong := _files.missing([_file(data_dir)]):
            raise DataError(f"{self.label}: {wrong[0]}. {self.source}")
        return False

    def load(self, data_dir: Path) -> Images:
        """Read `data_dir`/omniglot/chardata.mat. DataError names the file if it is missing or has another md5."""
        path = _file(data_dir)
        _files.require(self.label, {path: self.md5}, self.source)
        from scipy.io import loadmat

        try:
            arrays = loadmat(path, variable_names=("data", "testdata"))
        except Exception as error:  # reading a damaged file can raise anything
            reason = f"{type(error).__name__}: {error}"
            raise DataError(f"{self.label}: {path} cannot be read ({reason}). {self.source}") from error
        return self.images(*(self._pixels(path, name, arrays.get(name)) for name in ("data", "testdata")))

    def _pixels(self, path: Path, name: str, array: np.ndarray | None) -> Tensor:
        """An array (784, N) in [0, 1] of the file, as uint8 (N, 1, 28, 28)."""
        if array is None or array.ndim != 2 or array.shape[0] != 784 or not np.issubdtype(array.dtype, np.floating):
            found = "missing" if array is None else f"{array.dtype} of shape {array.shape}"
            raise DataError(f"{self.label}: {path}: {name} is {found}, expected floats (784, N). {self.source}")
        if not ((array >= 0) & (array <= 1)).all():  # catches NaN too
            span = f"{array.min()}..{array.max()}"
            raise DataError(f"{self.label}: {path}: {name} has values {span}, expected 0..1. {self.source}")
        # MATLAB stores each image column by column, so the last axis is the vertical one
        upright = array.T.reshape(-1, 28, 28).transpose(0, 2, 1)
        return torch.from_numpy(np.rint(255 * upright).astype(np.uint8, order="C")).unsqueeze(1)


def _file(data_dir: Path) -> Path:
    return Path(data_dir) / "omniglot" / "chardata.mat"
