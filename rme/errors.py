"""One-line texts of exceptions."""

from __future__ import annotations


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, or its type's name if it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def last_line(error: BaseException) -> str:
    """As `first_line`, the last line: what a traceback from another process ends with."""
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__
