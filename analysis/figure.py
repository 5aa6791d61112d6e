"""A figure of the report: a drawing with its title, caption, alternative text and data."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure as Drawing

from analysis import style


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
    """

    name: str
    title: str
    caption: str
    alt: str
    drawing: Drawing
    data: pd.DataFrame
    dataset: str = ""
    finding: str = ""

    def png(self) -> bytes:
        """The drawing as a PNG file's bytes, 300 dots per inch."""
        return self._rendered("png", {"Software": None})  # without matplotlib's version: the same drawing, same bytes

    def pdf(self) -> bytes:
        """The drawing as a PDF file's bytes, with embedded fonts."""
        return self._rendered("pdf", {"CreationDate": None})

    def _rendered(self, kind: str, metadata: dict[str, None]) -> bytes:
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
