"""One-line texts of exceptions, and what a mistyped name may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, or its type's name if it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def last_line(error: BaseException) -> str:
    """As `first_line`, the last line: what a traceback from another process ends with."""
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__


def nearest(text: str, names: Iterable[str]) -> str:
    """`did you mean NAME? `, with the name most like the text, in any case; empty if none is alike."""
    by_lower = {name.lower(): name for name in names}
    found = difflib.get_close_matches(text.lower(), by_lower, n=1)
    return f"did you mean {by_lower[found[0]]}? " if found else ""


def no_such_field(name: str, fields: Iterable[str]) -> str:
    """`no such field; did you mean epochs?`, or with all the names if none is alike."""
    fields = list(fields)
    return f"no such field; {nearest(name, fields).strip() or 'the fields are ' + ', '.join(fields)}"
