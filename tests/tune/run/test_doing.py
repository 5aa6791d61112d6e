"""What a command is doing is one line: it vanishes in a terminal, and stays elsewhere."""

from __future__ import annotations

import io
import time

import pyte
import pytest
from rich.console import Console

from tune.run.doing import clock, doing


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00:00"), (59.9, "0:00:59"), (3661, "1:01:01"), (360000, "100:00:00")]
)
def test_elapsed_times(seconds, text):
    assert clock(seconds) == text


def test_in_a_terminal_nothing_remains():
    output = io.StringIO()
    console = Console(file=output, width=40, height=10, force_terminal=True, color_system=None, legacy_windows=False)
    with doing("loading PyTorch", console, time.monotonic() - 61):
        console.print("a warning")
        during = output.getvalue()
    console.print("after")
    assert "0:01:01  loading PyTorch" in during
    screen = pyte.Screen(40, 10)
    pyte.Stream(screen).feed(output.getvalue().replace("\n", "\r\n"))
    assert [line.rstrip() for line in screen.display if line.strip()] == ["a warning", "after"]


def test_without_a_terminal_it_is_a_line_unless_lines_are_unwanted():
    console = Console(file=io.StringIO(), force_terminal=False)
    assert isinstance(console.file, io.StringIO)
    with doing("unheard", console, time.monotonic(), lines=False), doing("reading", console, time.monotonic() - 61):
        pass
    assert console.file.getvalue() == "0:01:01  reading\n"


def test_an_exception_ends_the_line():
    console = Console(file=io.StringIO(), width=40, force_terminal=True)
    with pytest.raises(KeyboardInterrupt), doing("loading PyTorch", console, time.monotonic()):
        raise KeyboardInterrupt
    with doing("again", console, time.monotonic()):
        pass
