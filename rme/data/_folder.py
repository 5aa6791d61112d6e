"""A user's own images, as files in a folder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath

from rme.data._decode import Picture
from rme.data._encoded import EncodedImages, File, is_test
from rme.data.base import DataError

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
"""Files with these suffixes, in any case, are images."""
PARTS = ("train", "test")


class Folder(EncodedImages):
    """The images in the folder at a path, and in all folders inside it.

    If it has the subfolders train and test, their images are the training and the test images, and others are not used.
    Without them, an image is for testing if the sha256 of its file is divisible by 10: so equal files are on one side,
    and adding images moves no other. Hidden files and folders, whose names start with a dot, are not used.
    """

    kind = "folder"

    def paths(self) -> list[tuple[str, Path]]:
        """The image files by relative name, with / on every system. DataError if the folder or images are missing."""
        try:
            is_folder, exists = self.path.is_dir(), self.path.exists()
        except OSError as error:  # the name is too long, or a folder above it is not accessible
            raise DataError(f"{self.path}: {error.strerror}. {self.source}") from None
        if not is_folder:
            raise DataError(f"{self.path}: {'not a folder' if exists else 'folder not found'}. {self.source}")
        parts = [part for part in PARTS if (self.path / part).is_dir()]
        if len(parts) == 1:
            other = next(part for part in PARTS if part not in parts)
            raise DataError(
                f"{self.path}: it has a folder {parts[0]} but no folder {other}; valid are both, or neither, when 10% "
                "of the images are for testing"
            )
        tops = [self.path / part for part in parts] or [self.path]
        found = sorted((path.relative_to(self.path).as_posix(), path) for top in tops for path in _images(top, ()))
        if not found:
            raise DataError(f"{self.path}: no image found; an image's suffix is one of {', '.join(SUFFIXES)}")
        return found

    def pictures(self, files: Sequence[File]) -> list[Picture]:
        split = any((self.path / part).is_dir() for part in PARTS)
        return [
            Picture(
                name=str(file.path),
                test=PurePosixPath(file.name).parts[0] == "test" if split else is_test(file.digest),
                read=partial(_read, file),
            )
            for file in files
        ]

    def if_too_few(self) -> str:
        return "; without folders train and test, about 10% of the images are for testing, by their content's hash"


def _images(folder: Path, above: tuple[tuple[int, int], ...]) -> Iterator[Path]:
    """The image files in a folder and below, also behind links; `above`: the folders that lead to it."""
    try:
        status = folder.stat()
        own = (status.st_dev, status.st_ino)
        if own in above:  # a link to a folder that it is in
            return
        with os.scandir(folder) as entries:
            inside = [(Path(entry.path), entry.is_dir()) for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise DataError(f"{folder} cannot be read ({error.strerror})") from None
    for path, is_folder in inside:
        if is_folder:
            yield from _images(path, (*above, own))
        elif path.suffix.lower() in SUFFIXES:
            yield path


def _read(file: File) -> bytes:
    content = file.path.read_bytes()
    if hashlib.sha256(content).hexdigest() != file.digest:
        raise DataError(f"{file.path} changed while the folder was read; start again")
    return content
