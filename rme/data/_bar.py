"""A progress bar of images that are decoded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rme import progress

SHORT = 1024
"""Up to this many images no bar is shown: decoding them takes a moment."""


@contextmanager
def bar(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar (`rme.progress.bar`). Yields a function to call with the number of images done."""
    if total <= SHORT:
        yield lambda done: None
        return
    shown = progress.bar(description, total, "images")
    try:
        yield shown.update
    finally:
        shown.close()
