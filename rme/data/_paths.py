"""Paths that name a user's own images."""

from __future__ import annotations

from pathlib import Path

from rme.data.base import DataError


def absolute(path: str | Path) -> Path:
    """The absolute path, which need not exist. DataError if it cannot be one."""
    try:
        return Path(path).expanduser().resolve()
    except (OSError, RuntimeError, ValueError) as error:  # an unknown user's ~, a symlink loop, a null byte
        raise DataError(f"{str(path)!r} is not a valid path: {error}") from None
