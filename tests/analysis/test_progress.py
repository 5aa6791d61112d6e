"""What a report says while it is written: a line with a bar on a terminal, lines for slow steps elsewhere."""

from __future__ import annotations

import io

from rich.console import Console

from analysis.progress import Steps, shown_steps
from analysis.report import report_of_file
from tests import ROOT


def said(terminal: bool) -> str:
    out = io.StringIO()
    with shown_steps(Console(file=out, force_terminal=terminal, width=100)) as steps:
        steps.doing("drawing figures", 3, 24)
        steps.slow("measuring 1 of 2: [MNIST]", 0, 2)
        steps.say("measured [MNIST] in 5 s")
    return out.getvalue()


def test_elsewhere_only_slow_steps_have_lines():
    assert said(terminal=False) == "measuring 1 of 2: [MNIST]\nmeasured [MNIST] in 5 s\n"


def test_on_a_terminal_a_bar_is_drawn_and_erased():
    text = said(terminal=True)
    assert "measuring 1 of 2: [MNIST]" in text and "0/2" in text and "measured [MNIST] in 5 s" in text
    assert text.rstrip().endswith("\x1b[2K"), "the last line is erased"


def test_a_report_says_what_it_is_doing(tmp_path):
    told: list[tuple[str, int, int | None]] = []

    class Told(Steps):
        def doing(self, text: str, done: int = 0, total: int | None = None) -> None:
            told.append((text, done, total))

    path = ROOT / "docs/results/mnist-d10-rivals/runs.csv"
    report_of_file(path, tmp_path, draw=False, steps=Told())
    assert told == [(f"reading {path}", 0, None), ("comparing 84 runs", 0, None), ("writing the page", 0, None)]
