"""Caches measurements of this machine in the user's cache folder."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import rme
from rme.checkpoint import write_atomically


class UserCache:
    """A JSON file of measurements, by the device and code that were measured.

    Args:
        name: the file's name.
        here: this device and code, readable.

    Attributes:
        values: the measurements of `here`. Add new ones to it, then call `save`.
    """

    def __init__(self, name: str, here: str) -> None:
        self.path = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "rme" / name
        self._all: dict[str, dict[str, Any]] = {}
        with suppress(OSError, ValueError):
            self._all = json.loads(self.path.read_text())
        self.values: dict[str, Any] = self._all.setdefault(here, {})

    def save(self) -> None:
        with suppress(OSError):  # if the folder cannot be written, the next command measures again
            write_atomically(self.path, lambda path: path.write_text(json.dumps(self._all, indent=1)))


@cache
def code() -> str:
    """A digest of the code of `rme`, because measurements of other code do not apply."""
    files = sorted(Path(rme.__file__).parent.rglob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]
