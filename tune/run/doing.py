"""Says what a command is doing while it prepares or ends: with a spinner in a terminal, as a plain line elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from tune.run.stopping import without_sigterm


def clock(seconds: float) -> str:
    """An elapsed time as H:MM:SS; hours are not bounded."""
    minutes, second = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{second:02}"


def say(console: Console, text: str, style: str | None = None, *, wrap: bool = False) -> None:
    """Print a line as it is, however long it is; with `wrap`, a terminal breaks it between words."""
    soft_wrap = not (wrap and console.is_terminal)
    console.print(text, markup=False, highlight=False, soft_wrap=soft_wrap, style=style)


def say_at(console: Console, began: float, text: str) -> None:
    """Print a plain line with the time since `began`, on the monotonic clock."""
    say(console, f"{clock(time.monotonic() - began)}  {text}")


@contextmanager
def doing(what: str, console: Console, began: float, *, lines: bool = True) -> Iterator[None]:
    """Show `what` is being done while the block runs, with the time since `began`, on the monotonic clock.

    In a terminal nothing of it remains afterwards. Elsewhere a line is printed, if `lines`.
    """
    if not console.is_terminal:
        if lines:
            say_at(console, began, what)
        yield
        return
    spinner = Spinner("dots")

    def render() -> Spinner:
        text = f"{clock(time.monotonic() - began)}  {what}"
        spinner.update(text=Text(text, no_wrap=True, overflow="ellipsis"))
        return spinner

    shown = Live(get_renderable=render, console=console, refresh_per_second=5, transient=True)
    with without_sigterm():  # its thread
        shown.start()
    try:
        yield
    finally:
        shown.stop()
