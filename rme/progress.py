"""Progress of a single training or of other long work, in a terminal or in a notebook."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from rme.config import RunSpec
    from rme.engine import Engine

T = TypeVar("T")

QUIET_S = 2.0
"""Work that ends sooner shows no bar, unless it is asked for."""

EVERY_S = 0.2
"""Shortest interval between updates of a notebook's bar."""


class Bar(Protocol):
    """A progress bar."""

    def update(self, done: int, note: str = "") -> None:
        """Show that `done` steps are done, with a note behind the bar."""
        ...

    def close(self) -> None: ...


def in_notebook() -> bool:
    """Whether this process is the kernel of a Jupyter notebook (also of Colab's, VS Code's, ...)."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return shell is not None and type(shell).__name__ not in ("TerminalInteractiveShell", "InteractiveShell")


def wanted(asked: bool | None) -> bool:
    """What the user asked for; by default whether standard error is a terminal or this is a notebook."""
    return (sys.stderr.isatty() or in_notebook()) if asked is None else asked


def bar(description: str, total: int, unit: str) -> Bar:
    """A new bar on standard error, or in the notebook's output."""
    return _NotebookBar(description, total, unit) if in_notebook() else _TerminalBar(description, total, unit)


@contextmanager
def epoch_bar(spec: RunSpec, asked: bool | None = None) -> Iterator[Callable[[Engine], None]]:
    """A bar with the epochs done and the latest validation ELBO, of the best member.

    Yields the function to call after each epoch, which does nothing if no bar is wanted.
    """
    if not wanted(asked):
        yield lambda engine: None
        return
    shown = bar(spec.run_name, spec.training_epochs, "epochs")
    note = ""

    def advance(engine: Engine) -> None:
        nonlocal note
        elbo = engine.history.val_elbo[-1].max().item()
        if not math.isnan(elbo):
            note = f"val ELBO {elbo:.1f}"
        shown.update(engine.epoch, note)

    try:
        yield advance
    finally:
        shown.close()


def steps(items: Sequence[T] | Iterable[T], description: str, asked: bool | None = None) -> Iterator[T]:
    """The items, with a bar of how many have been worked on; by default only if they take longer than `QUIET_S`."""
    total = len(items) if isinstance(items, Sequence) else 0
    shown, began = None, time.monotonic()
    try:
        for done, item in enumerate(items):
            late = time.monotonic() - began > QUIET_S and done < total - 1
            if shown is None and wanted(asked) and (asked or late):
                shown = bar(description, total, "blocks")
            if shown is not None:
                shown.update(done)
            yield item
        if shown is not None:
            shown.update(total)
    finally:
        if shown is not None:
            shown.close()


class _TerminalBar:
    def __init__(self, description: str, total: int, unit: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TextColumn(unit),
            TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
        )  # fmt: skip
        self._progress = Progress(*columns, console=Console(stderr=True))
        self._task = self._progress.add_task(description, total=total, note="")
        self._progress.start()

    def update(self, done: int, note: str = "") -> None:
        self._progress.update(self._task, completed=done, note=note)

    def close(self) -> None:
        self._progress.stop()


class _NotebookBar:
    """An output that is updated in place. It needs no widgets, which Jupyter often lacks."""

    def __init__(self, description: str, total: int, unit: str) -> None:
        self.description, self.total, self.unit = description, total, unit
        self._began = self._shown = time.monotonic()
        self._done, self._note, self._closed = 0, "", False
        from IPython.display import HTML, display

        self._html = HTML
        self._output = display(HTML(self._text()), display_id=True)

    def update(self, done: int, note: str = "") -> None:
        self._done, self._note = done, note
        if time.monotonic() - self._shown >= EVERY_S:
            self._show()

    def close(self) -> None:
        self._closed = True
        self._show()

    def _show(self) -> None:
        self._shown = time.monotonic()
        self._output.update(self._html(self._text()))

    def _text(self) -> str:
        passed = time.monotonic() - self._began
        left = ""
        if 0 < self._done < self.total and not self._closed:
            left = f", {passed / self._done * (self.total - self._done):.0f} s to go"
        return (
            f'<progress value="{self._done}" max="{self.total}"></progress> {escape(self.description)}: '
            f"{self._done} of {self.total} {self.unit}, {passed:.0f} s{left} {escape(self._note)}"
        )
