"""Whether a written report is of the same runs and the same code as one that would be written now.

A report takes seconds to write, most of them for its figures. So each report leaves a fingerprint of what it was made
of in its folder, and a sweep that finds the same fingerprint leaves the report as it is. Beside it are the names of the
report's files: the next report in the folder replaces them all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

FINGERPRINT = "fingerprint.txt"
"""The file's name in the report's folder. Its first line is the fingerprint, the others are the report's files."""


def fingerprint(runs: pd.DataFrame, failed: pd.DataFrame, title: str, **options: object) -> str:
    """A digest of the runs and failures that a report is of, of the options that it was written with, and of the code.

    Args:
        runs: as `analysis.collect.collect` returns them.
        failed: as `analysis.collect.failures` returns them.
        title: the page's.
        options: further options; those that are false or empty are the defaults.
    """
    digest = hashlib.sha256(title.encode())
    for frame in (runs, failed):
        digest.update(frame.to_csv(index=False).encode())
    digest.update(repr(sorted((name, repr(value)) for name, value in options.items() if value)).encode())
    for path in sorted(Path(__file__).parent.rglob("*")):
        if path.suffix in (".py", ".j2", ".css", ".js", ".csv", ".bib"):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def leave(out: Path, made_of: str, files: Iterable[Path]) -> None:
    """End a report: delete those files of the folder's earlier report that it has not written again. Raises OSError.

    Args:
        out: the report's folder.
        made_of: its fingerprint.
        files: what it has written there.
    """
    names = [path.relative_to(out).as_posix() for path in files]
    for name in set(_read(out)[1:]) - set(names):
        if (out / name).resolve().is_relative_to(out.resolve()):
            (out / name).unlink(missing_ok=True)
    _write(out, [made_of, *names])


def begin(out: Path) -> None:
    """Note that the folder's report is being written, so that one that was interrupted is written again."""
    if earlier := _read(out):
        _write(out, ["unfinished", *earlier[1:]])


def is_fresh(out: Path, runs: pd.DataFrame, failed: pd.DataFrame, title: str) -> bool:
    """Whether the folder has a complete report of these runs and failures, written without options by this code."""
    written = _read(out)[:1]
    return (out / "index.html").exists() and written == [fingerprint(runs, failed, title)]


def _read(out: Path) -> list[str]:
    """The fingerprint and the names of the report's files; empty without a report."""
    try:
        return (out / FINGERPRINT).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []


def _write(out: Path, lines: list[str]) -> None:
    (out / FINGERPRINT).write_text("\n".join([*lines, ""]), encoding="utf-8")
