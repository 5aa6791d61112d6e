"""Images that took long to make, in a file that many trainings map into memory."""

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
"""Images that are made, written and hashed together: what an interruption can cost."""


class ImageCache:
    """`count` uint8 images of `shape` (C, H, W): their pixels in `folder`/images.u8, a hash of every block beside it.

    The manifest holds the recipe, all that the pixels depend on, and the blocks' hashes. A block's hash goes there
    after its pixels are on the disk, and is taken from there before they are written anew. So a file that is unfinished
    or of another recipe is always told by the manifest, and an interruption costs a block.
    """

    def __init__(self, folder: Path, recipe: Mapping[str, Any], count: int, shape: tuple[int, int, int]) -> None:
        self.folder, self.count, self.shape = folder, count, shape
        self.recipe = json.loads(json.dumps({**recipe, "count": count, "shape": shape, "block": BLOCK}))
        self.pixels, self.manifest = folder / "images.u8", folder / "manifest.json"
        self.blocks = math.ceil(count / BLOCK)

    def fault(self) -> str | None:
        """Why the images cannot be used, judged by the manifest and the file's size; None if they can be."""
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
        """Whether the images can be used and every block is what was written; reads all of the file."""
        if self.fault() is not None:
            return False
        with self.pixels.open("rb") as file:
            return all(self._hash_in(file, block) == known for block, known in enumerate(self._hashes()))

    def open(self) -> Tensor:
        """The images, (count, C, H, W) uint8: a private map of the file, read when used and shared between processes.

        Only when `fault` is None.
        """
        # copy-on-write: torch wants memory that can be written, the file is nobody's to write
        return torch.from_numpy(np.memmap(self.pixels, dtype=np.uint8, mode="c", shape=(self.count, *self.shape)))

    def fill(self, make: Callable[[range], np.ndarray], on_progress: Callable[[int], object]) -> None:
        """Make the blocks that are missing or damaged, and leave the others.

        Args:
            make: images (n, C, H, W) uint8 of a range of n indices; what it raises passes through.
            on_progress: told how many images are there, after every block.

        Raises OSError when the folder cannot be written.
        """
        with self._alone():
            hashes = self._hashes()
            if not any(hashes):
                self._record(hashes)
                self.pixels.unlink(missing_ok=True)  # another recipe's: who has it mapped keeps the old one
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
        """Put a block's images on the disk; their hash."""
        content = np.ascontiguousarray(images).tobytes()
        if images.dtype != np.uint8 or len(content) != len(self._images(block)) * self._image_size:
            raise ValueError(f"block {block} is {images.dtype} of shape {images.shape}")
        file.seek(block * BLOCK * self._image_size)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
        return hashlib.sha256(content).hexdigest()

    def _hash_in(self, file: BinaryIO, block: int) -> str:
        file.seek(block * BLOCK * self._image_size)
        return hashlib.sha256(file.read(len(self._images(block)) * self._image_size)).hexdigest()

    def _recorded(self) -> dict[str, Any]:
        """The manifest; empty when there is none or it is damaged."""
        try:
            found = json.loads(self.manifest.read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _hashes(self) -> list[str | None]:
        """Every block's hash in the manifest, None for those still to be made by this recipe."""
        recorded = self._recorded()
        hashes = recorded.get("sha256")
        if recorded.get("recipe") != self.recipe or not isinstance(hashes, list) or len(hashes) != self.blocks:
            return [None] * self.blocks
        return [known if isinstance(known, str) else None for known in hashes]

    def _record(self, hashes: list[str | None]) -> None:
        from rme.checkpoint import write_atomically  # here, as it brings safetensors, which the registry does without

        text = json.dumps({"recipe": self.recipe, "sha256": hashes}, indent=1)
        write_atomically(self.manifest, lambda path: path.write_text(text))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Wait until no other process fills this cache."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as file:
            # where there are no locks, two processes that fill it at once write the same bytes
            with suppress(ImportError, OSError):
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX)  # let go when the file is closed, however the process ends
            yield
