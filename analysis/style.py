"""The style of all figures: each method's colour and marker, and sizes for printing in one column of a paper."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure as Drawing

COLUMN_IN = 3.4
"""Width of one column of a two-column paper, inches. Figures are drawn at their printed size."""

DPI = 300

COLOURS = {
    "vae": "#000000",
    "vae-more": "#666666",
    "sa": "#56b4e9",
    "iaf": "#0072b2",
    "hf": "#009e73",
    "me": "#e69f00",
    "rme": "#d55e00",
    "bvi-er1": "#cc79a7",
    "bvi-er2": "#7a1f6a",
    "vlae": "#6b4c00",
    "svi": "#8800dd",
}
"""Okabe and Ito's palette, and more colours that colour-blind readers can distinguish from it and one another."""

MARKERS = {
    "vae": "o", "vae-more": "s", "sa": "v", "iaf": "^", "hf": "<", "me": "D", "rme": "*", "bvi-er1": "P",
    "bvi-er2": "X", "vlae": ">", "svi": "8",
}  # fmt: skip
"""Methods must be distinguishable without colour."""

DARK = {
    "#56b4e9": "#90bcff", "#0072b2": "#4e84d7", "#009e73": "#1fce89", "#e69f00": "#e7c21f", "#d55e00": "#e3801f",
    "#cc79a7": "#ef9bcd", "#7a1f6a": "#c43999", "#6b4c00": "#956241", "#8800dd": "#8d60f1",
    "#332288": "#7a6be0", "#117733": "#3fa864", "#999933": "#b5b548", "#661100": "#c4604a", "#6699cc": "#6699cc",
}  # fmt: skip
"""Each colour's counterpart on the dark page. Greys need none: they lie between the page's and its text's (`dark`)."""

DARK_INK, DARK_PAGE = "#e6e8ec", "#15171b"
"""The dark page's text and ground, as in `templates/table.css`: what black and white become."""

_SPARE_COLOURS = ("#332288", "#117733", "#999933", "#661100", "#6699cc")
_SPARE_MARKERS = ("h", "p", "d", "H")
_DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
_FILLS = ("full", "left", "bottom", "right", "top")


def colour(method: str) -> str:
    """The method's colour. One outside `COLOURS` is chosen by the method's name, so it is the same in every figure."""
    return COLOURS.get(method) or _SPARE_COLOURS[sum(method.encode()) % len(_SPARE_COLOURS)]


def marker(method: str) -> str:
    """The method's marker."""
    return MARKERS.get(method) or _SPARE_MARKERS[sum(method.encode()) % len(_SPARE_MARKERS)]


def size(method: str, points: float = 3.5) -> float:
    """Size of the method's marker, points, that looks like a disc of `points`: stars and crosses have thin arms."""
    return points * {"*": 1.6, "P": 1.15, "X": 1.15, "D": 0.9}.get(marker(method), 1.0)


def dashes(place: int) -> Any:
    """A line style for the method's `place`-th order, from 0."""
    return _DASHES[place % len(_DASHES)]


def fill(place: int) -> Any:
    """The filled part of a marker for the method's `place`-th order, from 0."""
    return _FILLS[place % len(_FILLS)]


def dark(colour: str) -> str:
    """The colour's counterpart on the dark page, both as `#rrggbb`; the colour itself if it is not of the figures."""
    if len({colour[1:3], colour[3:5], colour[5:]}) > 1:
        return DARK.get(colour, colour)
    share = int(colour[1:3], 16) / 255
    ends = ((int(end[i : i + 2], 16) for end in (DARK_INK, DARK_PAGE)) for i in (1, 3, 5))
    return "#" + "".join(f"{round((1 - share) * ink + share * page):02x}" for ink, page in ends)


@contextmanager
def printed() -> Iterator[None]:
    """Context in which figures have 7-point text and thin lines, legible in one printed column."""
    with mpl.rc_context({
        "font.size": 7, "axes.titlesize": 7, "axes.labelsize": 7, "xtick.labelsize": 6, "ytick.labelsize": 6,
        "legend.fontsize": 6, "legend.frameon": False, "axes.spines.top": False, "axes.spines.right": False,
        "axes.linewidth": 0.6, "lines.linewidth": 1.0, "lines.markersize": 3.5, "xtick.major.width": 0.6,
        "ytick.major.width": 0.6, "savefig.dpi": DPI, "text.parse_math": False,
        "pdf.fonttype": 42, "svg.fonttype": "none",
    }):  # fmt: skip
        yield


def drawing(height: float = 2.4, width: float = COLUMN_IN) -> Drawing:
    """An empty drawing, `width` x `height` inches. It needs no display, and is freed when no longer referenced."""
    return Drawing(figsize=(width, height), layout="constrained")
