"""Shared by the figures: which runs belong to a figure, their order, and how marks are drawn."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from analysis import style
from analysis.cells import runs_of
from analysis.figure import Figure
from analysis.names import ROW
from analysis.tables import DATASETS, DECODERS, Row, place, slug, to_row
from analysis.words import counted


@dataclass(frozen=True)
class Subject:
    """A data set and a decoder: the subject of one figure.

    Attributes:
        dataset, decoder: their names; label: the data set's label.
        rows: their rows of the data frame.
    """

    dataset: str
    decoder: str
    label: str
    rows: pd.DataFrame

    @property
    def words(self) -> str:
        """`MNIST, convolutional decoder`."""
        return f"{self.label}, {DECODERS.get(self.decoder, self.decoder)}"

    @property
    def slug(self) -> str:
        """`mnist-conv`."""
        return f"{slug(self.label)}-{slug(self.decoder)}"


def subjects(frame: pd.DataFrame) -> Iterator[Subject]:
    """The data sets and decoders of a frame with columns dataset, dataset_label and decoder, in the paper's order."""
    found = []
    for _, rows in frame.groupby(["dataset", "decoder"]) if len(frame) else ():
        first = rows.iloc[0]
        found.append(Subject(first["dataset"], first["decoder"], first["dataset_label"], rows))
    yield from sorted(found, key=lambda subject: (place(subject.dataset, DATASETS), subject.decoder))


def rows_of(frame: pd.DataFrame) -> list[Row]:
    """The table rows of a frame with columns method, order, variant and method_label, in the paper's order."""
    first = frame.drop_duplicates(ROW)
    return sorted((to_row(row) for _, row in first.iterrows()), key=lambda row: row.place)


def dims_of(frame: pd.DataFrame) -> list[int]:
    """The latent dims of a frame, ascending."""
    return sorted(int(dim) for dim in frame["dim"].unique())


def of_row(frame: pd.DataFrame, row: Row) -> pd.DataFrame:
    """The part of a frame that belongs to a table row."""
    return runs_of(frame, {"method": row.method, "order": row.order, "variant": row.variant}, ROW)


def representatives(rows: list[Row], most: int) -> list[Row]:
    """All rows if there are at most `most`, else one for each method: its largest order, without a variant if possible.

    One panel with more rows would be illegible.
    """
    if len(rows) <= most:
        return rows
    chosen = {row.method: row for row in sorted(rows, key=lambda row: (row.variant is None, row.place))}
    return sorted(chosen.values(), key=lambda row: row.place)


def order_of(row: Row, rows: Iterable[Row]) -> int:
    """The row's place among its method's rows, from 0, which its line style and its marker's filling show."""
    return sorted((r for r in rows if r.method == row.method), key=lambda r: r.place).index(row)


LEGEND = 16
"""The most rows that a legend lists one by one."""


def handles(rows: list[Row], points: float = 3.0) -> list[Line2D]:
    """Legend entries with line style and mark: one for each row if there are at most `LEGEND`, else for each method."""
    if len(rows) > LEGEND:
        names = {row.method: row.family for row in rows}
        return [Line2D([], [], label=label, **mark(name, points) | {"ls": "-"}) for name, label in names.items()]
    places = [order_of(row, rows) for row in rows]
    return [
        Line2D([], [], label=row.label, **mark(row.method, points, place=place) | {"ls": style.dashes(place)})
        for row, place in zip(rows, places, strict=True)
    ]


_PLACES = ("second", "third", "fourth", "fifth")


def order_handles(rows: list[Row]) -> list[Line2D]:
    """Legend entries that say which line style and filling is which order; none if `handles` lists every row."""
    counts = pd.Series([row.method for row in rows], dtype=object).value_counts()
    places = ["first row" if any(row.variant for row in rows) else "smallest order", *_PLACES]
    most = min(int(counts.max()) if len(counts) else 0, len(places))
    if most < 2 or len(rows) <= LEGEND:
        return []
    return [
        Line2D([], [], color="0.3", ls=style.dashes(i), marker="s", ms=3, mew=0.5, fillstyle=style.fill(i),
               markerfacecoloralt="white", label=places[i])
        for i in range(most)
    ]  # fmt: skip


LEGEND_LINE_IN = 0.12
"""Height of a legend's line, inches."""


def legend_shape(entries: Sequence[Line2D], most: int = 5) -> tuple[int, int]:
    """Lines and columns of a legend over a printed column's width: fewer columns, the longer its longest label."""
    longest = max((len(str(entry.get_label())) for entry in entries), default=1)
    across = max(1, min(most, int(66 / (longest + 7)), len(entries)))
    return -(-len(entries) // across), across


def dim_axis(axes: Axes, dims: list[int]) -> None:
    """A logarithmic axis with a tick at each dim that was run."""
    axes.set_xscale("log")
    axes.minorticks_off()
    axes.set_xticks(dims, [str(dim) for dim in dims])
    axes.set_xlim(dims[0] / 1.15, dims[-1] * 1.15)


def incomplete_words(cells: pd.DataFrame, expected: int) -> str:
    """` Hollow: fewer than 10 seeds (SA(1) d50 n=3, and 2 more).`; empty if every cell has all its seeds or none."""
    few = cells[(cells["n"] > 0) & (cells["n"] < expected)]
    if few.empty:
        return ""
    named = [f"{cell.method_label} d{cell.dim} n={cell.n}" for cell in few.head(3).itertuples()]
    more = f", and {len(few) - 3} more" if len(few) > 3 else ""
    return f" Hollow: fewer than {expected} seeds ({', '.join(named)}{more})."


def mark(method: str, points: float = 3.0, complete: bool = True, place: int = 0) -> dict[str, Any]:
    """Line properties of a method's point, filled by its order's place, and hollow if seeds are missing."""
    colour, size = style.colour(method), style.size(method, points)
    look = {"ls": "", "marker": style.marker(method), "ms": size, "mew": 0.5, "color": colour}
    if not complete:
        return look | {"mfc": "white"}
    return look | {"mfc": colour, "fillstyle": style.fill(place), "markerfacecoloralt": "white"}


def mean_words(n: int, mean: float, sd: float) -> tuple[str, str]:
    """`mean of 8 seeds`, `697.21 ± 3.40 nats`: what a mark says of a cell."""
    spread = "" if pd.isna(sd) else f" ± {sd:.2f}"
    return f"mean of {n} seeds" if n != 1 else "one seed", f"{mean:.2f}{spread} nats"


def interval_words(cell: Any) -> tuple[str, ...]:
    """`Hodges-Lehmann +0.61 nats`, `[+0.27, +0.95], 96.1% confidence, 8 pairs`: what a mark says of a difference."""
    estimate = f"Hodges-Lehmann {cell['estimate']:+.2f} nats"
    pairs = counted(cell["n"], "pair")
    if pd.isna(cell["low"]):
        return estimate, f"{pairs}: too few for an interval"
    return estimate, f"[{cell['low']:+.2f}, {cell['high']:+.2f}], {100 * cell['level']:.1f}% confidence, {pairs}"


def listed(words: list[str]) -> str:
    """`a, b and c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else ""


def some(labels: list[str]) -> str:
    """`SA(1), SA(2), SA(4) and 5 more`."""
    return listed([*labels[:3], f"{len(labels) - 3} more"] if len(labels) > 4 else labels)


def unique_names(figures: Iterable[Figure]) -> list[Figure]:
    """The figures with distinct names: of equal names, the later ones get a number."""
    found: dict[str, Figure] = {}
    for figure in figures:
        name, copies = figure.name, 1
        while name in found:  # data sets whose names differ only in characters that a file name drops
            copies += 1
            name = f"{figure.name}-{copies}"
        found[name] = replace(figure, name=name)
    return list(found.values())
