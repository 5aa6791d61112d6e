"""A progress bar of images that are decoded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

SHORT = 1024
"""Up to this many images no bar is shown: decoding them takes a moment."""


@contextmanager
def bar(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on standard error. Yields a function to call with the number of images done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TextColumn("images"),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), disable=total <= SHORT) as progress:
        task = progress.add_task(description, total=total)
        yield lambda done: progress.update(task, completed=done)
