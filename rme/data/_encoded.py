"""A user's own images that must be decoded: what a folder of files and a saved Hugging Face data set share."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from abc import abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from rme.data._bar import bar
from rme.data._cache import ImageCache
from rme.data._decode import Picture, are_grey, common_side, pixels_of
from rme.data._paths import absolute
from rme.data._sizes import SIDES, count_fault
from rme.data.base import DataError, Dataset, Images

LOOKING = 0.02
"""Largest part of the time in which `identity` may look whether files have changed."""

_digests: dict[tuple[str, int, int], str] = {}
"""sha256 of files that this process has read, by path, size and modification time."""
_identities: dict[str, tuple[float, str]] = {}
"""By a data set's name: when to look at its files again, on the monotonic clock, and its identity until then."""
_layouts: dict[str, Layout] = {}
"""By identity."""


@dataclass(frozen=True)
class File:
    """A file on which the images depend: its name, relative to the data set's path; its path; its content's sha256."""

    name: str
    path: Path
    digest: str


@dataclass(frozen=True)
class Layout:
    """The decoded images: their side in pixels, and the numbers of channels, training images and test images."""

    side: int
    channels: int
    train: int
    test: int


class EncodedImages(Dataset):
    """Images at a path, which are decoded once into a cache in `data_dir`/own, then mapped into memory.

    `@SIDE` at the name's end is the side, in pixels, to which the images are resized; without it `_decode` chooses. The
    data set's name is its absolute path, with `@SIDE` if given. The path need not exist until images, shape, counts or
    identity are asked for.

    Runs are comparable if they use the same cache: another version of a JPEG library may decode a few pixels
    differently.
    """

    version = 1
    users_own = True
    kind: str
    """The identity's first word."""
    source = (
        "A path names a folder of images, with or without the subfolders train and test, a data set that Hugging "
        "Face's save_to_disk wrote, or an .npz file."
    )

    def __init__(self, name: str | Path) -> None:
        path, self.side = without_side(str(name))
        self.path = absolute(path)
        suffix = "" if self.side is None else f"@{self.side}"
        self.name = f"{self.path}{suffix}"
        self.label = f"{self.path.name or self.path}{suffix}"

    @abstractmethod
    def paths(self) -> list[tuple[str, Path]]:
        """The files on which the images depend: relative names, sorted, and paths. DataError if there is none."""

    @abstractmethod
    def pictures(self, files: Sequence[File]) -> list[Picture]:
        """The images in these files, in a fixed order."""

    @property
    def identity(self) -> str:
        """`<kind>-<version>-<16 hex digits>` of the files' relative names and content, and of the side asked for.

        A process reads a file again if its size or modification time has changed. It looks for changes at every call,
        but spends at most `LOOKING` of its time on that; `load` and `prepare` always look. DataError as `load`.
        """
        due, known = _identities.get(self.name, (0.0, ""))
        return known if time.monotonic() < due else self._look()[0]

    @property
    def shape(self) -> tuple[int, int, int]:  # type: ignore[override]
        """(C, H, W) of one image. Reads the files, if this process has not yet; DataError as `load`."""
        layout = self._layout()
        return layout.channels, layout.side, layout.side

    @property
    def counts(self) -> tuple[int, int]:  # type: ignore[override]
        """Numbers of training and test images. Reads the files as `shape`; DataError as `load`."""
        layout = self._layout()
        return layout.train, layout.test

    def prepare(self, data_dir: Path) -> None:
        """Decode the images into the cache, or verify every block of it. DataError as `load`."""
        self._decoded(data_dir, ImageCache.sound)

    def must_write(self, data_dir: Path) -> bool:
        return not (Path(data_dir) / "own" / self.identity / "layout.json").is_file()

    def load(self, data_dir: Path) -> Images:
        """Map the cache, after checking its manifest and size; decode the images first if that is necessary.

        DataError names a file that is missing or cannot be decoded, or a cache that cannot be written.
        """
        return self._decoded(data_dir, lambda cache: cache.fault() is None)

    def _look(self) -> tuple[str, list[File]]:
        """The identity, and the files as they are now."""
        began = time.monotonic()
        found = self.paths()
        stats = [_status(path) for _, path in found]
        took = time.monotonic() - began
        missing = [path for (_, path), status in zip(found, stats, strict=True) if (str(path), *status) not in _digests]
        with ThreadPoolExecutor(os.cpu_count()) as threads:  # hashing releases the GIL
            for path, status, digest in threads.map(_digest, missing):
                _digests[str(path), *status] = digest
        # a file that changed just now has been hashed under its newer status
        files = [
            File(name, path, _digests.get((str(path), *status)) or _digest(path)[2])
            for (name, path), status in zip(found, stats, strict=True)
        ]
        content = json.dumps([self.side, [[file.name, file.digest] for file in files]])
        identity = f"{self.kind}-{self.version}-{hashlib.sha256(content.encode()).hexdigest()[:16]}"
        _identities[self.name] = (time.monotonic() + took / LOOKING, identity)
        return identity, files

    def _layout(self) -> Layout:
        due, identity = _identities.get(self.name, (0.0, ""))
        if time.monotonic() < due and identity in _layouts:
            return _layouts[identity]
        identity, files = self._look()
        if identity not in _layouts:
            _layouts[identity] = self._scan(self.pictures(files))
        return _layouts[identity]

    def _scan(self, pictures: Sequence[Picture]) -> Layout:
        """The layout of these pictures. Reads all headers; decodes as far as necessary to know whether all are grey."""
        tests = sum(picture.test for picture in pictures)
        if fault := count_fault(len(pictures) - tests, tests):
            raise DataError(f"{self.path}: {fault}{self.if_too_few()}")
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            side = self.side or common_side(pictures, str(self.path), threads)
            grey = are_grey(pictures, threads)
        return Layout(side, 1 if grey else 3, len(pictures) - tests, tests)

    def if_too_few(self) -> str:
        """What to add to the error for too few training or test images."""
        return ""

    def _decoded(self, data_dir: Path, usable: Callable[[ImageCache], bool]) -> Images:
        identity, files = self._look()
        folder = Path(data_dir) / "own" / identity
        pictures: list[Picture] = []
        layout = _layouts.get(identity) or _read(folder / "layout.json")
        if layout is None:
            pictures = self.pictures(files)
            layout = self._scan(pictures)
        _layouts[identity] = layout
        recipe = {"identity": identity, "resampling": "BOX"}
        count, shape = layout.train + layout.test, (layout.channels, layout.side, layout.side)
        cache = ImageCache(folder, recipe, count, shape)
        if not usable(cache):
            self._fill(cache, layout, pictures or self.pictures(files))
        pool = cache.open()
        return Images(pool[: layout.train], pool[layout.train :])

    def _fill(self, cache: ImageCache, layout: Layout, pictures: Sequence[Picture]) -> None:
        from rme.checkpoint import write_atomically  # not at the top: it imports safetensors, the registry must not

        ordered = sorted(pictures, key=lambda picture: picture.test)  # training images first; sorting is stable
        with (
            ThreadPoolExecutor(os.cpu_count()) as threads,  # Pillow releases the GIL while it decodes
            bar(f"{self.label}: decoding, once", len(ordered)) as advance,
        ):

            def make(block: range) -> np.ndarray:
                decode = threads.map(lambda i: pixels_of(ordered[i], layout.side, layout.channels), block)
                return np.stack(list(decode))

            try:
                text = json.dumps(asdict(layout))
                write_atomically(cache.folder / "layout.json", lambda path: path.write_text(text))
                cache.fill(make, advance)
            except OSError as error:
                raise DataError(f"{self.path}: {cache.folder} cannot be written ({error})") from error


def without_side(name: str) -> tuple[str, int | None]:
    """The path and the side of a name that may end in `@SIDE`. DataError if the side is not one of `SIDES`."""
    found = re.fullmatch(r"(.+)@([0-9]+)", name, re.DOTALL)
    if found is None:
        return name, None
    if len(found[2]) > 9 or int(found[2]) not in SIDES:
        raise DataError(
            f"{name}: after @ comes the side of the resized images; valid values are {SIDES[0]}..{SIDES[-1]}"
        )
    return found[1], int(found[2])


def is_test(digest: str) -> bool:
    """Whether an image is for testing, by its content's sha256 (hex): true for 10% of all contents."""
    return int(digest, 16) % 10 == 0


def _status(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from None
    return status.st_size, status.st_mtime_ns


def _digest(path: Path) -> tuple[Path, tuple[int, int], str]:
    """The path, the file's status before it was read, and its content's sha256."""
    status = _status(path)
    try:
        with path.open("rb") as file:
            return path, status, hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from None


def _read(file: Path) -> Layout | None:
    """The layout in this file; None if it is missing or damaged."""
    try:
        values = json.loads(file.read_text())
        layout = Layout(**values)
    except (OSError, ValueError, TypeError):
        return None
    return layout if all(type(value) is int for value in values.values()) else None
