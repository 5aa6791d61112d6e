"""A figure of the report: a drawing with its title, caption, alternative text, data and marks."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from PIL import Image

from analysis import style
from analysis.svg import DIGITS, to_svg

_POINTS = 72
_COLOURS = 256
"""Of a PNG file without pictures: lines and their soft edges need no more, and the file is a third as large."""


@dataclass(frozen=True)
class Mark:
    """A point or bar of a drawing, which on the page says its numbers when it is pointed at.

    Attributes:
        axes: where it is.
        x, y: in data coordinates; of a bar, one of them is the pair of its ends.
        name: of what it belongs to, usually a row's label.
        lines: what it says: dim, seeds, values with their unit.
    """

    axes: Axes
    x: float | tuple[float, float]
    y: float | tuple[float, float]
    name: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Figure:
    """One figure.

    Attributes:
        name: of its files: `NAME.png`, `NAME.pdf`, `NAME.csv`.
        title: one line; caption: how to read the figure; alt: what it shows, for readers who cannot see it. Plain text.
        dataset: its data set, for the page's filter; empty if it shows several.
        finding: its result as a sentence for the report's findings; empty if those already have it.
        drawing: the matplotlib figure, at the size of a printed column.
        data: the numbers drawn.
        marks: what can be pointed at, row by row.
    """

    name: str
    title: str
    caption: str
    alt: str
    drawing: Drawing
    data: pd.DataFrame
    dataset: str = ""
    finding: str = ""
    marks: Sequence[Mark] = ()

    def png(self) -> bytes:
        """The drawing as a PNG file's bytes, 300 dots per inch; without pictures in it, of 256 colours."""
        content = self._rendered(
            "png", {"Software": None}
        )  # without matplotlib's version: the same drawing, same bytes
        if any(axes.images for axes in self.drawing.axes):
            return content
        out = io.BytesIO()
        few = Image.open(io.BytesIO(content)).convert("RGB").quantize(_COLOURS, dither=Image.Dither.NONE)
        few.save(out, "PNG", dpi=(style.DPI, style.DPI))
        return out.getvalue()

    def pdf(self) -> bytes:
        """The drawing as a PDF file's bytes, with embedded fonts."""
        return self._rendered("pdf", {"CreationDate": None})

    def svg(self, prefix: str) -> str:
        """The drawing as an `svg` element for the page (`analysis.svg`), whose ids begin with `prefix`."""
        self._lay_out()
        return to_svg(self.drawing, prefix, self.alt)

    def places(self) -> list[list]:
        """For each mark within its axes: [x, y] in the SVG's points, or a bar's [x0, y0, x1, y1]; name; lines."""
        self._lay_out()
        found: dict[int, list] = {}
        for axes in dict.fromkeys(mark.axes for mark in self.marks):  # thousands of marks: not one by one
            of = {i: mark for i, mark in enumerate(self.marks) if mark.axes is axes}
            ends = np.array([[_ends(mark.x), _ends(mark.y)] for mark in of.values()], dtype=float).transpose(0, 2, 1)
            pixels = axes.transData.transform(ends.reshape(-1, 2)).reshape(ends.shape)  # (marks, 2 ends, x and y)
            middles, low, high = pixels.mean(axis=1), np.array(axes.bbox.min), np.array(axes.bbox.max)
            inside = ((middles >= low - 1) & (middles <= high + 1)).all(axis=1)  # NaN is not
            points = np.clip(pixels, low, high) * _POINTS / self.drawing.dpi
            points[..., 1] = self.drawing.get_figheight() * _POINTS - points[..., 1]
            points = np.sort(points.round(DIGITS - 1), axis=1) + 0.0
            is_point = (points[:, 0] == points[:, 1]).all(axis=1)
            for (i, mark), shown, one, place in zip(of.items(), inside, is_point, points, strict=True):
                if shown:
                    found[i] = [(place[0] if one else place.ravel()).tolist(), mark.name, *mark.lines]
        return [found[i] for i in sorted(found)]

    def _lay_out(self) -> None:
        """Place everything, once for all files: it takes as long as drawing."""
        if self.drawing.get_layout_engine() is None:
            return
        with style.printed():
            usual = self.drawing.dpi
            self.drawing.set_dpi(style.DPI)  # text is as wide as in the PNG file
            self.drawing.draw_without_rendering()
            self.drawing.set_dpi(usual)
            self.drawing.set_layout_engine(None)

    def _rendered(self, kind: str, metadata: dict[str, None]) -> bytes:
        self._lay_out()
        with style.printed():
            out = io.BytesIO()
            self.drawing.savefig(out, format=kind, metadata=metadata, dpi=style.DPI)
        return out.getvalue()

    def save(self, folder: Path) -> list[Path]:
        """Write the PNG, PDF and CSV files, and return their paths. OSError propagates."""
        files = {"png": self.png(), "pdf": self.pdf(), "csv": self.data.to_csv(index=False).encode()}
        for suffix, content in files.items():
            (folder / f"{self.name}.{suffix}").write_bytes(content)
        return [folder / f"{self.name}.{suffix}" for suffix in files]


def _ends(place: float | tuple[float, float]) -> tuple[float, float]:
    return place if isinstance(place, tuple) else (place, place)
