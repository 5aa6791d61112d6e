"""What a report is doing, on standard error: on a terminal one line that changes; elsewhere a line for slow steps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn


class Steps:
    """Says nothing: the steps of a report that is written by a program."""

    def doing(self, text: str, done: int = 0, total: int | None = None) -> None:
        """A step begins: `drawing figures`, of which `done` of `total` are finished."""

    def slow(self, text: str, done: int = 0, total: int | None = None) -> None:
        """As `doing`, a step of seconds or minutes, which is worth a line of its own."""

    def say(self, text: str) -> None:
        """A line that stays."""


class _Lines(Steps):
    """Lines for a file: slow steps only."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def slow(self, text: str, done: int = 0, total: int | None = None) -> None:
        self.say(text)

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


class _Live(_Lines):
    """A line with a bar, which is erased at the end."""

    def __init__(self, console: Console, progress: Progress) -> None:
        super().__init__(console)
        self.progress = progress
        self.task = progress.add_task("", total=None)

    def doing(self, text: str, done: int = 0, total: int | None = None) -> None:
        self.progress.update(self.task, description=text, completed=done, total=total)

    slow = doing


@contextmanager
def shown_steps(console: Console | None = None) -> Iterator[Steps]:
    """Steps that are shown on a console, by default standard error, for as long as the context lasts."""
    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(console)
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        yield _Live(console, progress)
