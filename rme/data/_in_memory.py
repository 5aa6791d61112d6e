"""Images that were given to `rme.fit` as tensors."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

from rme.data.base import DataError, Dataset, Images

NAME = "images"
"""In a RunSpec: the images that are given to `rme.fit`, which replaces the name by `images-<hash>`."""


class InMemory(Dataset):
    """`images`, or with a hash of their content `images-3f2a...`. Nothing is kept of them but this name."""

    version = 1
    label = "images"
    source = "Pass images= to rme.fit; for a sweep write them to an .npz file or a folder."
    users_own = True

    def __init__(self, name: str = NAME) -> None:
        self.name = name.lower()

    @property
    def shape(self) -> tuple[int, int, int]:  # type: ignore[override]
        """Raises DataError."""
        self._missing()

    @property
    def counts(self) -> tuple[int, int]:  # type: ignore[override]
        """Raises DataError."""
        self._missing()

    def load(self, data_dir: Path) -> Images:
        """Raises DataError."""
        self._missing()

    @property
    def identity(self) -> str:
        """The name; DataError for `images` without a hash, which could be any images."""
        if self.name == NAME:
            self._missing()
        return self.name

    def _missing(self) -> NoReturn:
        raise DataError(f"dataset={self.name!r} stands for images given to rme.fit. {self.source}")


def is_in_memory(name: str) -> bool:
    """Whether this is the name of such images."""
    head, _, digest = name.lower().partition("-")
    return head == NAME and (name.lower() == NAME or (len(digest) == 16 and set(digest) <= set("0123456789abcdef")))


def name_of(images: Images, more: str = "") -> str:
    """`images-` and 16 hex digits of the hash of their pixels, and of `more`."""
    from rme.checkpoint import digest  # not at the top: it imports safetensors, the registry must not

    return f"{NAME}-{digest({'train': images.train, 'test': images.test}, more)[:16]}"
