"""Checks published files by their md5, and reports files that are missing, damaged or not downloadable."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from rme.data.base import DataError


def faults(files: Mapping[Path, str]) -> list[str]:
    """A clause for each file (path -> md5, 32 hex digits) that is missing or has another md5."""
    found = [_fault(path, md5) for path, md5 in files.items()]
    return [fault for fault in found if fault is not None]


def require(label: str, files: Mapping[Path, str], source: str) -> None:
    """Raise DataError naming every file (path -> md5) that is missing or has another md5."""
    if wrong := faults(files):
        raise DataError(f"{label}: {'; '.join(wrong)}. {source}")


def download(label: str, wrong: list[str], get: Callable[[], object], source: str) -> None:
    """Call `get`. If it fails, raise DataError with the faults `wrong` that led to it, its error, and the `source`."""
    try:
        get()
    except Exception as error:  # a download can raise anything
        failure = f"the download failed ({type(error).__name__}: {error})"
        raise DataError(f"{label}: {'; '.join([*wrong, failure])}. {source}") from error


def require_downloader(label: str, wrong: list[str], source: str, packages: tuple[str, ...] = ("torchvision",)) -> None:
    """Raise DataError with the faults `wrong` if a package that downloads the files is not installed."""
    if missing := [name for name in packages if importlib.util.find_spec(name) is None]:
        needed = f"{' and '.join(missing)}, needed for the download, is not installed"
        raise DataError(f"{label}: {'; '.join([*wrong, needed])}. {source}")


def missing(paths: Iterable[Path]) -> list[str]:
    """A clause for each of these files that does not exist."""
    return [f"{path} is missing" for path in paths if not path.is_file()]


def _fault(path: Path, md5: str) -> str | None:
    if not path.is_file():
        return f"{path} is missing"
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    except OSError as error:
        return f"{path} cannot be read ({error})"
    if found != md5:
        return f"{path} has the md5 {found}, expected {md5}: it is truncated, damaged or a different file"
    return None
