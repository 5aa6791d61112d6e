"""What the test of a cell against the best says: its mark, its meaning, and its colours in each of two schemes.

A cell's outcome has the name of its colour in the paper's Tables 7-11 (`analysis.stats.colour_of`). The paper colours
what is closest to the best most strongly, so a tie looks worse than a loss. `PLAIN`, the default, emphasises the best
and what is indistinguishable from it, and fades what is significantly below. It differs in lightness and in blue
against grey, which colour-blind readers distinguish. The marks are the same in both.
"""

from __future__ import annotations

PLAIN, PAPER = "plain", "paper"

SCHEMES = (PLAIN, PAPER)
"""The colour schemes, the default first."""

MEANINGS = {
    "best": "best mean",
    "red-orange": "indistinguishable from the best (p > 0.1)",
    "orange": "indistinguishable from the best, narrowly (0.05 < p ≤ 0.1)",
    "yellow-orange": "significantly below the best (0.01 < p ≤ 0.05)",
    "": "significantly below the best (p ≤ 0.01)",
    "untested": "not tested: too few pairs",
}
"""The meaning of each outcome, in the order of a legend: from the best down."""

MARKS = {"best": "*", "red-orange": "§", "orange": "‡", "yellow-orange": "†", "": "", "untested": "?"}
"""The mark of each outcome in plain text, and beside the colours."""

RICH = {
    PLAIN: {
        "best": "bold color(32)", "red-orange": "color(32)", "orange": "", "yellow-orange": "", "": "dim",
        "untested": "dim italic",
    },
    PAPER: {
        "best": "bold red", "red-orange": "orange_red1", "orange": "dark_orange", "yellow-orange": "yellow3", "": "",
        "untested": "dim italic",
    },
}  # fmt: skip
"""Styles of a terminal. The blue, #0087d7, is legible on black and on white."""

LATEX = {
    PLAIN: {
        "best": ("closest", "bold blue", ""), "red-orange": ("closest", r"blue, \S", r"\S"),
        "orange": ("", r"\ddag", r"\ddag"), "yellow-orange": ("", r"\dag", r"\dag"), "": ("black!60", "gray", ""),
        "untested": ("black!60", "gray, ?", "?"),
    },
    PAPER: {
        "best": ("red", "bold red", ""), "red-orange": ("RedOrange", "red-orange", ""),
        "orange": ("Orange", "orange", ""), "yellow-orange": ("YellowOrange", "yellow-orange", ""),
        "": ("", "no colour", ""), "untested": ("gray", "gray", ""),
    },
}  # fmt: skip
"""Colour of xcolor, words for the caption, and mark. The paper's scheme has no marks, as in the paper."""

LATEX_NEEDS = {
    PLAIN: r"\definecolor{closest}{HTML}{0A58A8}",
    PAPER: "",
}
"""What a table defines for its colours."""
