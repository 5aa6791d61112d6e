"""Whether a folder can be used, or created, without creating it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def fault(folder: Path) -> str | None:
    """Why a folder can be neither written nor created, in a few words; None if it can. Leaves nothing on the disk."""
    try:
        there = nearest_existing(folder)
        what = "it" if there == folder.absolute() else str(there)
        if not there.is_dir():
            return f"{what} is a file, not a folder"
        if not os.access(there, os.W_OK | os.X_OK):
            return f"{what} cannot be written: {_why_not(there)}"
        with tempfile.TemporaryFile(dir=there):  # has no name, where the file system can do that
            return None
    except OSError as error:  # for example a name that is too long
        return f"it cannot be written: {error.strerror or error}"


def nearest_existing(path: Path) -> Path:
    """The path, or the nearest above it that exists. OSError propagates, for example of a name that is too long."""
    there = path.absolute()
    while not there.exists():
        there = there.parent
    return there


def _why_not(folder: Path) -> str:
    return "a read-only file system" if os.statvfs(folder).f_flag & os.ST_RDONLY else "Permission denied"
