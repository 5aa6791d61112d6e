"""The names of the registered methods and data sets, read from their files.

Shell completion uses them, for which importing torch takes too long. A class that `rme.methods.register` adds is in no
file, and is missing here.
"""

from __future__ import annotations

import re
from pathlib import Path

_NAME = re.compile(r'^    name(?:: [^=]+)? = "([^"]+)"$', re.MULTILINE)
_ROOM = Path(__file__).parent


def methods() -> list[str]:
    """As `rme.methods.names()`."""
    return _names(_ROOM / "methods")


def data_sets() -> list[str]:
    """As `rme.data.names()`."""
    return _names(_ROOM / "data")


def _names(folder: Path) -> list[str]:
    files = [path for path in folder.glob("*.py") if not path.name.startswith("_")]
    return sorted({name for path in files for name in _NAME.findall(path.read_text())})
