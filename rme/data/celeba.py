"""CelebA, from torchvision's files; decoded once into a cache, then mapped into memory."""

from __future__ import annotations

import io
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from rme.data import _files
from rme.data._bar import bar
from rme.data._cache import ImageCache
from rme.data.base import HOLD_OUT, DataError, Dataset, Images, Split, permutation, tenth

ALIGNED = (178, 218)
"""Width and height of the aligned images, in pixels."""
CROP = (35, 67, 143, 175)
"""Left, upper, right, lower: 108x108 pixels centred at (89, 121). The paper only says "tightly cropped"; this box is
the usual one."""
_FOLDER, _ARCHIVE, _LIST = "img_align_celeba", "img_align_celeba.zip", "list_eval_partition.txt"


class CelebA(Dataset):
    """202,599 faces in colour (Liu et al. 2015), aligned, cropped to `CROP`, reduced to 64x64 by Pillow's BILINEAR.

    All images are one pool: `Images.train` and `Images.test` are the same tensor, and `split` splits it 80/10/10 by the
    seed (the official partition is not used). The pool is a memory map of a 2.5 GB file in `data_dir`/celeba/cache.
    `prepare` makes that file in minutes; afterwards the originals are no longer needed. Runs are comparable if they use
    the same cache: another version of Pillow or its JPEG library may decode a few pixels differently.
    """

    name = "celeba"
    label = "CelebA"
    version = 1
    shape = (3, 64, 64)
    counts = (202_599, 202_599)
    list_md5 = "d32c9cbf5e040fd4025c592c306e6668"
    """md5 of list_eval_partition.txt, which lists the images in order."""
    source = (
        f"Put {_ARCHIVE} (or its content, the folder {_FOLDER}) and {_LIST}, from "
        "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html (Align&Cropped Images; Eval), into the folder celeba of the "
        "data directory. With `pip install gdown` torchvision can download them, if Google Drive permits."
    )

    def prepare(self, data_dir: Path) -> None:
        """Verify every block of the cache, and decode the images of missing or damaged blocks.

        Resumes after an interruption. Downloads the originals through torchvision, if they are needed and missing.

        DataError names an original that is missing or damaged, or a cache that cannot be written.
        """
        cache = self._cache(data_dir)
        if not cache.sound():
            with (
                self._originals(Path(data_dir) / "celeba") as (names, read),
                ThreadPoolExecutor(os.cpu_count()) as threads,  # Pillow releases the GIL while it decodes
                bar("CelebA: decoding, once", len(names)) as advance,
            ):

                def decode(block: range) -> np.ndarray:
                    return np.stack(list(threads.map(lambda i: self._decode(names[i], read), block)))

                try:
                    cache.fill(decode, advance)
                except OSError as error:
                    raise DataError(f"{self.label}: {cache.folder} cannot be written ({error})") from error
        self.load(data_dir)

    def must_write(self, data_dir: Path) -> bool:
        if self._cache(data_dir).fault() is None:
            return False
        folder = Path(data_dir) / "celeba"
        wrong = _files.missing([folder / _LIST])
        if not (folder / _FOLDER).is_dir():
            wrong += _files.missing([folder / _ARCHIVE])
        if wrong:
            _files.require_downloader(self.label, wrong, self.source, ("torchvision", "gdown"))
        return True

    def load(self, data_dir: Path) -> Images:
        """Map the cache, after checking its manifest and size; never decodes. DataError if it cannot be used."""
        cache = self._cache(data_dir)
        if fault := cache.fault():
            how = "rme.data.get('celeba').prepare(data_dir) decodes the images, as a sweep does first"
            raise DataError(f"{self.label}: {fault}. {how}; their originals: {self.source}")
        pool = cache.open()
        return self.images(pool, pool)

    def split(self, images: Images, seed: int) -> Split:
        """Split the pool by `seed`: 10% for validation, 10% for testing, the rest for training.

        Raises DataError if 10% of the images is less than one.
        """
        count = len(images.train)
        part = tenth(count)
        if part == 0:
            raise DataError(f"{self.name}: 10% of {count} images is none; at least 10 are needed")
        order = permutation(count, seed, HOLD_OUT)
        return Split(
            train=order[2 * part :].sort().values,
            validation=order[:part].sort().values,
            test=order[part : 2 * part].sort().values,
        )

    @property
    def split_sizes(self) -> tuple[int, int, int]:
        """Numbers of training, validation and test images: 80%, 10% and 10% of the pool."""
        pool, _ = self.counts
        return pool - 2 * tenth(pool), tenth(pool), tenth(pool)

    def _cache(self, data_dir: Path) -> ImageCache:
        recipe = {"version": self.version, "names": self.list_md5, "crop": CROP, "resampling": "BILINEAR"}
        return ImageCache(Path(data_dir) / "celeba" / "cache", recipe, self.counts[0], self.shape)

    @contextmanager
    def _originals(self, folder: Path) -> Iterator[tuple[list[str], Callable[[str], bytes]]]:
        """The images' names in order, and a function that reads one, from the folder or else from the archive."""
        names_file = {folder / _LIST: self.list_md5}
        wrong = _files.faults(names_file)
        needed = [_LIST] if wrong else []
        if not (folder / _FOLDER).is_dir() and not zipfile.is_zipfile(archive := folder / _ARCHIVE):
            wrong.append(f"{archive} is {'no zip file, or truncated' if archive.exists() else 'missing'}")
            needed.append(_ARCHIVE)
        if needed:
            _files.download(self.label, wrong, lambda: _download(folder, needed), self.source)
            _files.require(self.label, names_file, self.source)
        names = [line.split()[0] for line in (folder / _LIST).read_text().splitlines() if line.strip()]
        if len(names) != self.counts[0]:
            found = f"{folder / _LIST} names {len(names):,} images, expected {self.counts[0]:,}"
            raise DataError(f"{self.label}: {found}. {self.source}")
        if self._complete(folder / _FOLDER, names):
            yield names, lambda name: (folder / _FOLDER / name).read_bytes()
        else:
            with zipfile.ZipFile(folder / _ARCHIVE) as packed:
                yield names, lambda name: packed.read(f"{_FOLDER}/{name}")

    def _complete(self, folder: Path, names: list[str]) -> bool:
        """Whether the folder has all images. DataError if it has not, and the archive is missing too."""
        missing = sorted(set(names) - set(os.listdir(folder))) if folder.is_dir() else names
        if missing and not zipfile.is_zipfile(folder.parent / _ARCHIVE):
            found = f"{len(missing):,} of {len(names):,} images are missing in {folder}, the first is {missing[0]}"
            raise DataError(f"{self.label}: {found}. {self.source}")
        return not missing

    def _decode(self, name: str, read: Callable[[str], bytes]) -> np.ndarray:
        """One image as uint8 (3, 64, 64)."""
        from PIL import Image

        try:
            with Image.open(io.BytesIO(read(name))) as image:
                size = image.size
                # crop first: resize(box=...) would also use pixels outside the box
                face = image.convert("RGB").crop(CROP).resize((64, 64), Image.Resampling.BILINEAR)
        except (OSError, SyntaxError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
            reason = f"{type(error).__name__}: {error}"
            raise DataError(f"{self.label}: {_FOLDER}/{name} cannot be decoded ({reason}). {self.source}") from error
        if size != ALIGNED:
            found, expected = ("x".join(map(str, pair)) for pair in (size, ALIGNED))
            wrong = f"{_FOLDER}/{name} has {found} pixels, expected {expected}"
            raise DataError(f"{self.label}: {wrong}. {self.source}")
        return np.asarray(face).transpose(2, 0, 1)


def _download(folder: Path, needed: list[str]) -> None:
    from torchvision.datasets import CelebA as Published
    from torchvision.datasets.utils import download_file_from_google_drive

    for file_id, md5, name in Published.file_list:
        if name in needed:
            download_file_from_google_drive(file_id, str(folder), name, md5)
