"""Progress of a command's measurements on standard error: a bar in a terminal, one line elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rme.progress import bar, wanted


@contextmanager
def progress(description: str, total: int) -> Iterator[Callable[[], None]]:
    """Yields the function to call after each of `total` kinds. Shows nothing if there are none."""
    if not total:
        yield lambda: None
        return
    if not wanted(None):
        print(f"{description} ({total} kinds)", file=sys.stderr, flush=True)
        yield lambda: None
        return
    shown, done = bar(description, total, "kinds"), 0

    def advance() -> None:
        nonlocal done
        done += 1
        shown.update(done)

    try:
        yield advance
    finally:
        shown.close()
