"""A figure of the report: a drawing with its words and the numbers that it shows."""

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
        title: one line; caption: how to read it; alt: what it shows, in words, for who cannot see it. Plain text.
        dataset: the data set that it is of, for the page's filter; empty if it is of several.
        finding: what it shows, as a sentence for the report's answer; empty if it says nothing that others do not.
        drawing: what matplotlib drew, at the size of a printed column.
        data: the numbers drawn, a row for each mark.
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
        """The drawing as a PNG file's bytes, 300 dots an inch."""
        return self._rendered("png", {"Software": None})  # no version: the same drawing is the same file

    def pdf(self) -> bytes:
        """The drawing as a PDF file's bytes, fonts embedded."""
        return self._rendered("pdf", {"CreationDate": None})

    def _rendered(self, kind: str, metadata: dict[str, None]) -> bytes:
        with style.printed():
            out = io.BytesIO()
            self.drawing.savefig(out, format=kind, metadata=metadata, dpi=style.DPI)
        return out.getvalue()

    def save(self, folder: Path) -> list[Path]:
        """Write the three files. OSError passes through."""
        files = {"png": self.png(), "pdf": self.pdf(), "csv": self.data.to_csv(index=False).encode()}
        for suffix, content in files.items():
            (folder / f"{self.name}.{suffix}").write_bytes(content)
        return [folder / f"{self.name}.{suffix}" for suffix in files]
