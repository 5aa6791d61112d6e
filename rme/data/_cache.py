"""A cache of images that are slow to make, as a file that many trainings map into memory."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

BLOCK = 1024
"""Images that are made, written and hashed together: an interruption loses at most this many."""


class ImageCache:
    """`count` uint8 images of `shape` (C, H, W): pixels in `folder`/images.u8, hashes of the blocks in manifest.json.

    The manifest holds the recipe, which is everything that the pixels depend on, and each block's hash. A hash is added
    after the block's pixels are on disk, and removed before they are overwritten. So the manifest always shows whether
    the file is unfinished or of another recipe, and an interruption loses one block.
    """

    def __init__(self, folder: Path, recipe: Mapping[str, Any], count: int, shape: tuple[int, int, int]) -> None:
        self.folder, self.count, self.shape = folder, count, shape
        self.recipe = json.loads(json.dumps({**recipe, "count": count, "shape": shape, "block": BLOCK}))
        self.pixels, self.manifest = folder / "images.u8", folder / "manifest.json"
        self.blocks = math.ceil(count / BLOCK)

    def fault(self) -> str | None:
        """Why the images cannot be used, or None; checks the manifest and the file's size."""
        recorded = self._recorded()
        if not recorded:
            return f"{self.manifest} is {'damaged' if self.manifest.exists() else 'missing'}"
        if recorded.get("recipe") != self.recipe:
            return f"{self.pixels} was made as {json.dumps(recorded.get('recipe'))}, expected {json.dumps(self.recipe)}"
        if missing := self._hashes().count(None):
            return f"{self.pixels} is unfinished: {missing} of {self.blocks} blocks of images are still to be made"
        found = self.pixels.stat().st_size if self.pixels.is_file() else 0
        if found != self._size:
            return f"{self.pixels} has {found:,} bytes, expected {self._size:,}"
        return None

    def sound(self) -> bool:
        """Whether the images can be used and every block has its recorded hash; reads the whole file."""
        if self.fault() is not None:
            return False
        with self.pixels.open("rb") as file:
            return all(self._hash_in(file, block) == known for block, known in enumerate(self._hashes()))

    def open(self) -> Tensor:
        """The images, (count, C, H, W) uint8: a private map of the file, read on use, its memory shared by processes.

        Call only if `fault()` is None.
        """
        # copy-on-write, because torch needs writable memory but the file must not change
        return torch.from_numpy(np.memmap(self.pixels, dtype=np.uint8, mode="c", shape=(self.count, *self.shape)))

    def fill(self, make: Callable[[range], np.ndarray], on_progress: Callable[[int], object]) -> None:
        """Make the blocks that are missing or damaged, and keep the others.

        Args:
            make: the images (n, C, H, W) uint8 of a range of n indices; its exceptions propagate.
            on_progress: called with the number of finished images, at the start and after every block.

        Raises OSError when the folder cannot be written.
        """
        with self._locked():
            hashes = self._hashes()
            if not any(hashes):
                self._record(hashes)
                self.pixels.unlink(missing_ok=True)  # of another recipe; a process that has it mapped keeps it
            self.pixels.touch()
            with self.pixels.open("r+b") as file:
                file.truncate(self._size)
                for block, known in enumerate(hashes):
                    if known is not None and known != self._hash_in(file, block):
                        hashes[block] = None
                if None in hashes:
                    self._record(hashes)
                done = sum(len(self._images(block)) for block, known in enumerate(hashes) if known is not None)
                on_progress(done)
                for block, known in enumerate(hashes):
                    if known is None:
                        hashes[block] = self._write(file, block, make(self._images(block)))
                        self._record(hashes)
                        done += len(self._images(block))
                        on_progress(done)

    @property
    def _image_size(self) -> int:
        return math.prod(self.shape)

    @property
    def _size(self) -> int:
        return self.count * self._image_size

    def _images(self, block: int) -> range:
        return range(block * BLOCK, min(self.count, (block + 1) * BLOCK))

    def _write(self, file: BinaryIO, block: int, images: np.ndarray) -> str:
        """Write a block's images to disk, and return their hash."""
        content = np.ascontiguousarray(images).tobytes()
        if images.dtype != np.uint8 or len(content) != len(self._images(block)) * self._image_size:
            expected = (len(self._images(block)), *self.shape)
            raise ValueError(f"block {block} is {images.dtype} of shape {images.shape}, expected uint8 of {expected}")
        file.seek(block * BLOCK * self._image_size)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
        return hashlib.sha256(content).hexdigest()

    def _hash_in(self, file: BinaryIO, block: int) -> str:
        file.seek(block * BLOCK * self._image_size)
        return hashlib.sha256(file.read(len(self._images(block)) * self._image_size)).hexdigest()

    def _recorded(self) -> dict[str, Any]:
        """The manifest; empty if it is missing or damaged."""
        try:
            found = json.loads(self.manifest.read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _hashes(self) -> list[str | None]:
        """Every block's hash in the manifest, None for a block that this recipe has still to make."""
        recorded = self._recorded()
        hashes = recorded.get("sha256")
        if recorded.get("recipe") != self.recipe or not isinstance(hashes, list) or len(hashes) != self.blocks:
            return [None] * self.blocks
        return [known if isinstance(known, str) else None for known in hashes]

    def _record(self, hashes: list[str | None]) -> None:
        from rme.checkpoint import write_atomically  # not at the top: it imports safetensors, the registry must not

        text = json.dumps({"recipe": self.recipe, "sha256": hashes}, indent=1)
        write_atomically(self.manifest, lambda path: path.write_text(text))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold a lock, so that one process at a time fills this cache."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as file:
            # without lock support two processes may fill it at once, but they write the same bytes
            with suppress(ImportError, OSError):
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX)  # released when the file is closed, however the process ends
            yield
