"""Whether a folder can be used, or created, without creating it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def fault(folder: Path) -> str | None:
    """Why a folder can be neither written nor created, in a few words; None if it can. Leaves nothing on the disk."""
    nearest = folder = folder.absolute()
    try:
        while not nearest.exists():
            nearest = nearest.parent
        what = "it" if nearest == folder else str(nearest)
        if not nearest.is_dir():
            return f"{what} is a file, not a folder"
        if not os.access(nearest, os.W_OK | os.X_OK):
            return f"{what} cannot be written: {_why_not(nearest)}"
        with tempfile.TemporaryFile(dir=nearest):  # has no name, where the file system can do that
            return None
    except OSError as error:  # for example a name that is too long
        return f"it cannot be written: {error.strerror or error}"


def _why_not(folder: Path) -> str:
    return "a read-only file system" if os.statvfs(folder).f_flag & os.ST_RDONLY else "Permission denied"
