"""OMNIGLOT made from Lake's original drawings: easy to obtain, but not the paper's OMNIGLOT."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rme.data import _files
from rme.data.base import DataError, Dataset, Images

_PARTS = ("images_background", "images_evaluation")
"""Lake's names of the training and the test images; they share no alphabet."""
_LARGE, _SMALL = 105, 28


class OmniglotLake(Dataset):
    """Lake's drawings (2015), area-averaged from 105x105 to 28x28: 19,280 of 30 alphabets; test 13,180 of 20 others.

    Strokes are bright on a dark background, as in Burda's OMNIGLOT (data set `omniglot`). Images and split differ from
    that one, so results are NOT comparable with the OMNIGLOT columns of the paper, nor with other papers'.
    """

    name = "omniglot-lake"
    label = "OMNIGLOT-Lake"
    version = 1
    shape = (1, _SMALL, _SMALL)
    counts = (19_280, 13_180)
    source = (
        "Unpack images_background.zip and images_evaluation.zip, from "
        "https://github.com/brendenlake/omniglot/tree/master/python, into the folder omniglot-py of the data directory "
        "(as torchvision does), or put images_background.npz and images_evaluation.npz, each with a bool array "
        "`images` (..., 105, 105), True on paper and False on strokes, into its folder omniglot-lake. "
        "This is not the paper's OMNIGLOT, which is the data set omniglot."
    )

    def prepare(self, data_dir: Path) -> None:
        """Pack the drawings in `data_dir`/omniglot-py, which torchvision downloads if necessary, into the .npz files.

        DataError names the files if that fails.
        """
        for part, count in zip(_PARTS, self.counts, strict=True):
            if not _file(data_dir, part).is_file():
                self._pack(data_dir, part, count)
        self.load(data_dir)

    def must_write(self, data_dir: Path) -> bool:
        wrong = _files.missing(_file(data_dir, part) for part in _PARTS)
        if wrong and not all((Path(data_dir) / "omniglot-py" / part).is_dir() for part in _PARTS):
            _files.require_downloader(self.label, wrong, self.source)
        return bool(wrong)

    def load(self, data_dir: Path) -> Images:
        """Read `data_dir`/omniglot-lake. DataError names a file that is missing, damaged or of other content."""
        return self.images(*(shrink(self._drawings(_file(data_dir, part))) for part in _PARTS))

    def _drawings(self, path: Path) -> np.ndarray:
        """The drawings in an .npz file, bool (N, 105, 105), True on strokes, sorted by their pixels.

        So the order does not depend on that in the file, nor on the file system that the drawings were packed from.
        """
        expected = f"expected `images`, bool of shape (..., {_LARGE}, {_LARGE})"
        if not path.is_file():
            raise DataError(f"{self.label}: {path} is missing. {self.source}")
        try:
            with np.load(path, allow_pickle=False) as file:
                paper = file["images"]
        except (
            OSError, ValueError, EOFError, KeyError, AttributeError, TypeError, RuntimeError, zipfile.BadZipFile,
            zlib.error,
        ) as error:  # fmt: skip
            wrong = f"{path} cannot be read ({error}); {expected}"
            raise DataError(f"{self.label}: {wrong}. Delete it. {self.source}") from error
        if not isinstance(paper, np.ndarray) or paper.dtype != np.bool_ or paper.shape[-2:] != (_LARGE, _LARGE):
            found = f"{paper.dtype} of shape {paper.shape}" if isinstance(paper, np.ndarray) else "no array"
            raise DataError(f"{self.label}: {path}: `images` is {found}; {expected}. {self.source}")
        if paper.mean() < 0.5:
            raise DataError(f"{self.label}: {path}: most pixels are False, expected True on paper. {self.source}")
        strokes = ~paper.reshape(-1, _LARGE, _LARGE)
        packed = np.packbits(strokes.reshape(len(strokes), -1), axis=1)
        return strokes[sorted(range(len(strokes)), key=lambda i: packed[i].tobytes())]

    def _pack(self, data_dir: Path, part: str, count: int) -> None:
        """Write a part's .npz file from its drawings, each a .png in a folder alphabet/character."""
        root = Path(data_dir) / "omniglot-py"
        if len(files := _pngs(root / part)) != count:
            wrong = [f"{_file(data_dir, part)} is missing", f"{root / part} has {len(files):,} of {count:,} drawings"]
            _files.download(self.label, wrong, lambda: _download(root, part), self.source)
            files = _pngs(root / part)
        if len(files) != count:
            found = f"{root / part} has {len(files):,} drawings (*/*/*.png), expected {count:,}"
            raise DataError(f"{self.label}: {found}. Delete the folder to download it again. {self.source}")
        paper = np.stack([self._read(file) for file in files])
        from rme.checkpoint import write_atomically

        write_atomically(_file(data_dir, part), lambda path: _save(path, paper))

    def _read(self, path: Path) -> np.ndarray:
        """One drawing, bool (105, 105), True on paper."""
        from PIL import Image

        try:
            with Image.open(path) as image:
                pixels = np.asarray(image.convert("L")) >= 128
        except (OSError, SyntaxError, ValueError) as error:
            again = "Delete it, and its .zip"
            raise DataError(f"{self.label}: {path} cannot be read ({error}). {again}. {self.source}") from error
        if pixels.shape != (_LARGE, _LARGE):
            size = "x".join(map(str, pixels.shape))
            raise DataError(f"{self.label}: {path} has {size} pixels, expected {_LARGE}x{_LARGE}. {self.source}")
        return pixels


def shrink(strokes: np.ndarray) -> Tensor:
    """Area averages of bool images (N, 105, 105) as uint8 (N, 1, 28, 28): 255 where all is True; halves round up.

    A small pixel covers 15/4 x 15/4 large ones. In units of a quarter pixel all weights and sums are integers, at most
    15^2, which floating point represents exactly; so the pixels are the same on every machine.
    """
    weights = area_weights(_LARGE, _SMALL).to(torch.float32)
    unit = int(weights[0].sum()) ** 2
    sums = [weights @ part.to(torch.float32) @ weights.T for part in torch.from_numpy(strokes).split(512)]
    exact = torch.cat(sums).to(torch.int64)
    return ((2 * 255 * exact + unit) // (2 * unit)).to(torch.uint8).unsqueeze(1)


def area_weights(large: int, small: int) -> Tensor:
    """Overlap of each of `small` intervals with each of `large`, both dividing the same line: int64 (small, large).

    The unit is the largest in which all overlaps are integers.
    """
    common = int(np.gcd(large, small))
    wide, narrow = large // common, small // common  # length of each of the `small`, and of the `large` intervals
    begin, end = torch.arange(small).unsqueeze(1) * wide, torch.arange(1, small + 1).unsqueeze(1) * wide
    left, right = torch.arange(large) * narrow, torch.arange(1, large + 1) * narrow
    return (torch.minimum(end, right) - torch.maximum(begin, left)).clamp(min=0)


def _file(data_dir: Path, part: str) -> Path:
    return Path(data_dir) / "omniglot-lake" / f"{part}.npz"


def _pngs(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*/*.png"))


def _download(root: Path, part: str) -> None:
    from torchvision.datasets import Omniglot
    from torchvision.datasets.utils import download_and_extract_archive

    url = f"{Omniglot.download_url_prefix}/{part}.zip"
    download_and_extract_archive(url, str(root), filename=f"{part}.zip", md5=Omniglot.zips_md5[part])


def _save(path: Path, paper: np.ndarray) -> None:
    with path.open("wb") as file:  # given a path, savez would append .npz to it
        np.savez_compressed(file, images=paper)
