"""scikit-learn's handwritten digits: small, and available without a network."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from rme.data.base import DataError, Dataset, Images


class Digits(Dataset):
    """1,797 digits of 8x8 pixels, enlarged to 28x28: the first 1,297 for training, the last 500 for testing."""

    name = "digits"
    label = "digits"
    version = 1
    shape = (1, 28, 28)
    counts = (1297, 500)
    source = "The digits come with scikit-learn (pip install scikit-learn); nothing goes into the data directory."

    def load(self, data_dir: Path) -> Images:
        """Read the digits from scikit-learn; ignores `data_dir`. DataError if it is missing or its images differ."""
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise DataError(f"digits: scikit-learn cannot be imported ({error}). {self.source}") from error
        small = torch.from_numpy(load_digits().images).to(torch.int64)
        if small.ndim != 3 or small.shape[1:] != (8, 8) or small.min() < 0 or small.max() > 16:
            found = f"{tuple(small.shape)} with values {small.min()}..{small.max()}"
            raise DataError(f"digits: scikit-learn has images {found}, expected (1797, 8, 8) with values 0..16")
        large = enlarge(small, 28, 16).unsqueeze(1)
        return self.images(large[: self.counts[0]], large[self.counts[0] :])


def enlarge(images: Tensor, size: int, white: int) -> Tensor:
    """Bilinear enlargement (align_corners=False) of int64 images (N, n, n), 0..white, to uint8 (N, size, size).

    Integer arithmetic throughout, so that the pixels, and hence all results, are the same on every machine.
    """
    weights = bilinear_weights(images.shape[-1], size)
    unit = white * weights[0].sum() ** 2
    return ((2 * 255 * (weights @ images @ weights.T) + unit) // (2 * unit)).to(torch.uint8)  # rounds half up


def bilinear_weights(small: int, large: int) -> Tensor:
    """Interpolation from `small` to `large` points as a matrix, int64 (large, small), each row summing to 2 large."""
    # pixel i's centre lies at (i + 1/2) small/large - 1/2 on the small grid, here in units of 1/(2 large)
    centre = ((2 * torch.arange(large) + 1) * small - large).clamp(min=0)
    left, distance = centre // (2 * large), centre % (2 * large)
    right = (left + 1).clamp(max=small - 1)
    weights = torch.zeros(large, small, dtype=torch.int64)
    rows = torch.arange(large)
    weights[rows, left] += 2 * large - distance
    weights[rows, right] += distance
    return weights
