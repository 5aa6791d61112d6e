"""Whether a written report is of the same runs and the same code as one that would be written now.

A report takes seconds to write, most of them for its figures. So each report leaves a fingerprint of what it was made
of in its folder, and a sweep that finds the same fingerprint leaves the report as it is.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import pandas as pd

FINGERPRINT = "fingerprint.txt"
"""The file's name in the report's folder."""


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


def leave(out: Path, made_of: str) -> None:
    """Write a report's fingerprint, after all of its other files. Raises OSError."""
    (out / FINGERPRINT).write_text(made_of + "\n", encoding="utf-8")


def forget(out: Path) -> None:
    """Delete the fingerprint before the report is written, so that one that was interrupted is written again."""
    (out / FINGERPRINT).unlink(missing_ok=True)


def is_fresh(out: Path, runs: pd.DataFrame, failed: pd.DataFrame, title: str) -> bool:
    """Whether the folder has a complete report of these runs and failures, written without options by this code."""
    try:
        written = (out / FINGERPRINT).read_text(encoding="utf-8").strip()
        return (out / "index.html").exists() and written == fingerprint(runs, failed, title)
    except (OSError, UnicodeDecodeError):
        return False
