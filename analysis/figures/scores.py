"""Scores by latent dim for each method and order: mean and sd over the seeds."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from analysis import style
from analysis.cells import runs_of
from analysis.figure import Figure, Mark
from analysis.figures.common import (
    LEGEND_LINE_IN,
    Subject,
    dim_axis,
    dims_of,
    handles,
    incomplete_words,
    legend_shape,
    mark,
    mean_words,
    of_row,
    order_handles,
    order_of,
    rows_of,
    some,
    subjects,
)
from analysis.names import BASELINE, CONTROLS
from analysis.stats import of_baseline, summarise
from analysis.tables import SCORES, Row, fullest

PANELS_ACROSS = 2

BESIDE = 0.32
"""How far below a row's mean its seeds are, in rows: on the bar they could not be seen."""


def score_figures(runs: pd.DataFrame, score: str = "test_iwae", expected_seeds: int | None = None) -> list[Figure]:
    """A figure for each data set and decoder that has a score.

    With several dims it has lines over the dim: on top all rows' means, nats per image; below a panel for each method,
    its orders and variants as line styles, in nats above the VAE's mean of the same dim, with bands of ± one sd over
    the seeds. With one dim it has a dot and a bar of ± one sd for each row.

    Args:
        runs: one row for each run, as `analysis.collect.collect` returns them.
        score: a key of `analysis.tables.SCORES`, nats per image.
        expected_seeds: runs of a complete cell; by default as many as the fullest cell of `runs`.

    Returns:
        Figures whose data have a row for each cell: the columns of `analysis.stats.summarise` except restarts, and
        expected, above_vae (nats, mean - the VAE's mean of the same dim; NaN without a VAE).
    """
    if runs.empty:
        return []
    expected = expected_seeds or fullest(runs)
    found = []
    for subject in subjects(runs):
        cells = _cells(subject, score, expected)
        if cells.empty:
            continue
        of_one = cells["dim"].nunique() == 1
        found.append((_one_dim if of_one else _by_dim)(subject, cells, score, expected))
    return found


def _cells(subject: Subject, score: str, expected: int) -> pd.DataFrame:
    cells = summarise(subject.rows, score)
    cells = cells[cells["n"] > 0].drop(columns=["values", "restarts"]).assign(expected=expected)
    # the VAE may have variants: one row of each dim is the baseline
    vaes = [column[of_baseline(column, BASELINE)] for _, column in cells.groupby("dim")]
    vae = pd.concat([cells.iloc[:0], *vaes]).set_index("dim")["mean"]
    return cells.assign(above_vae=cells["mean"] - cells["dim"].map(vae))


def _alt(cells: pd.DataFrame) -> str:
    best = cells.sort_values("mean").drop_duplicates("dim", keep="last").sort_values("dim")
    return "; ".join(
        f"at dim {c.dim} the highest mean is {c.method_label}'s, {c.mean:.1f} nats" for c in best.itertuples()
    )


# ---------------------------------------------------------------------- several dims
@style.printed()
def _by_dim(subject: Subject, cells: pd.DataFrame, score: str, expected: int) -> Figure:
    rows, dims = rows_of(cells), dims_of(cells)
    methods = [m for m in dict.fromkeys(row.method for row in rows) if m not in CONTROLS]
    relative = bool(cells["above_vae"].notna().any())
    column = "above_vae" if relative else "mean"
    down = -(-len(methods) // PANELS_ACROSS)
    entries = handles(rows, 2.6)
    lines, across = legend_shape(entries)
    drawing = style.drawing(height=1.9 + LEGEND_LINE_IN * lines + 0.95 * down)
    grid = drawing.add_gridspec(1 + down, PANELS_ACROSS, height_ratios=[1.35, *[1.0] * down])
    level = drawing.add_subplot(grid[0, :])
    marks: list[Mark] = []
    for row in rows:
        of, place = of_row(cells, row).sort_values("dim"), order_of(row, rows)
        level.plot(of["dim"], of["mean"], lw=0.7, **mark(row.method, 2.6, place=place) | {"ls": style.dashes(place)})
        marks += _marks(level, of, "mean")
    dim_axis(level, dims)
    level.set_ylabel("nats per image")
    panels: list[Axes] = []
    for i, method in enumerate(methods):
        below = panels[0] if panels else None
        panel = drawing.add_subplot(grid[1 + i // PANELS_ACROSS, i % PANELS_ACROSS], sharex=below, sharey=below)
        shown = [row for row in rows if row.method == method]
        for row in [*(row for row in rows if row.method in CONTROLS), *shown]:
            _line(panel, of_row(cells, row), column, order_of(row, rows), thin=row not in shown, expected=expected)
            marks += _marks(panel, of_row(cells, row), column)
        _title(panel, shown)
        if i % PANELS_ACROSS:
            panel.tick_params(labelleft=False)
        if i + PANELS_ACROSS < len(methods):
            panel.tick_params(labelbottom=False)
        panels.append(panel)
    if panels:
        dim_axis(panels[0], dims)
        panels[0].margins(y=0.06)
        for panel in panels[PANELS_ACROSS * (down - 1) :]:
            panel.set_xlabel("latent dim")
        middle = panels[PANELS_ACROSS * ((down - 1) // 2)]
        middle.set_ylabel("mean − VAE's mean, nats" if relative else "nats per image")
    else:
        level.set_xlabel("latent dim")
    drawing.legend(handles=entries, loc="outside upper center", ncols=across, columnspacing=1.2, handlelength=2.4)
    free = drawing.add_subplot(grid[-1, -1]) if len(methods) % PANELS_ACROSS else None
    _legend_of_orders(drawing, free, rows)
    band = "± one standard deviation over the seeds"
    compared = (
        f"Bottom: the same in nats above the VAE's mean of the same dim, with bands of {band}; each "
        "panel's title lists the method's orders."
        if relative
        else f"Bottom: each method with bands of {band}; each panel's title lists the method's orders."
    )
    return Figure(
        f"{score}-by-dim-{subject.slug}",
        f"{SCORES[score]} by latent dim: {subject.words}",
        f"({subject.words}) {SCORES[score]}. Top: each row's mean over the seeds. {compared}"
        f"{incomplete_words(cells, expected)}",
        f"Lines over the latent dim of {some([row.label for row in rows])}; {_alt(cells)}.",
        drawing,
        cells,
        subject.dataset,
        marks=marks,
    )  # fmt: skip


def _marks(axes: Axes, cells: pd.DataFrame, column: str) -> list[Mark]:
    """A mark for each of a row's cells, at its value in `column`."""
    found = []
    for cell in cells.to_dict("records"):
        seeds, value = mean_words(cell["n"], cell["mean"], cell["sd"])
        more = () if pd.isna(cell["above_vae"]) else (f"{cell['above_vae']:+.2f} nats above the VAE's mean",)
        found.append(Mark(axes, cell["dim"], cell[column], cell["method_label"],
                          (f"dim {cell['dim']}, {seeds}", value, *more)))  # fmt: skip
    return found


def _line(panel: Axes, cells: pd.DataFrame, column: str, place: int, *, thin: bool, expected: int) -> None:
    """Draw a row's line and band of ± one sd, nats, with hollow markers where seeds are missing."""
    of = cells.sort_values("dim").dropna(subset=column)
    if of.empty:
        return
    method, spread = of["method"].iloc[0], of["sd"].fillna(0)
    colour, dim = style.colour(method), of["dim"].to_numpy(float)
    panel.fill_between(dim, of[column] - spread, of[column] + spread, color=colour, alpha=0.13, lw=0, zorder=1)
    panel.plot(
        dim, of[column], color=colour, linestyle=style.dashes(place), lw=0.6 if thin else 0.9, zorder=2 if thin else 3
    )
    for complete, part in of.groupby(of["n"] >= expected):
        look = mark(method, 2.0 if thin else 3.0, bool(complete), place)
        panel.plot(part["dim"].to_numpy(float), part[column], zorder=4, **look)


def _title(panel: Axes, rows: list[Row]) -> None:
    words = [" ".join(str(part) for part in (row.order, row.variant) if part is not None) for row in rows]
    orders = ", ".join(word for word in words if word)
    title = f"{rows[0].family}({orders})" if orders else rows[0].label
    panel.set_title(title, loc="left", color=style.colour(rows[0].method), pad=2, fontweight="bold", fontsize=6.5)


def _legend_of_orders(drawing: Drawing, free: Axes | None, rows: list[Row]) -> None:
    """A legend of the line styles and marks: in the grid's free place, if any, else below the panels."""
    entries = order_handles(rows)
    if free is not None:
        free.set_axis_off()
        if entries:
            free.legend(handles=entries, loc="center", handlelength=2.6)
    elif entries:
        across = len(entries)
        drawing.legend(handles=entries, loc="outside lower center", ncols=across, handlelength=2, columnspacing=1)


# ---------------------------------------------------------------------- one dim
@style.printed()
def _one_dim(subject: Subject, cells: pd.DataFrame, score: str, expected: int) -> Figure:
    rows, dim = rows_of(cells), int(cells["dim"].iloc[0])
    drawing = style.drawing(height=0.55 + 0.165 * len(rows))
    axes = drawing.add_subplot()
    marks: list[Mark] = []
    vae = cells[cells["method"] == BASELINE]
    if len(vae):
        axes.axvline(vae["mean"].iloc[0], color=style.colour(BASELINE), lw=0.5, ls=":", zorder=0)
    for y, row in enumerate(rows):
        cell = of_row(cells, row).iloc[0]
        runs = runs_of(subject.rows, cell)
        values = runs[score].to_numpy(dtype=float, na_value=np.nan)
        finite = np.isfinite(values)
        values, below = values[finite], np.full(int(finite.sum()), y + BESIDE)
        axes.plot(values, below, ls="", marker=".", color=style.colour(row.method), ms=3, mew=0, alpha=0.6)
        spread = 0.0 if np.isnan(cell["sd"]) else cell["sd"]
        axes.errorbar(cell["mean"], y, xerr=spread, elinewidth=1, **mark(row.method, 4, cell["n"] >= expected))
        seeds, words = mean_words(cell["n"], cell["mean"], cell["sd"])
        marks.append(Mark(axes, cell["mean"], y, row.label, (f"dim {dim}, {seeds}", words)))
        for seed, value in zip(runs["seed"][finite], values, strict=True):
            marks.append(Mark(axes, value, y + BESIDE, row.label, (f"dim {dim}, seed {seed}", f"{value:.2f} nats")))
    axes.set_yticks(range(len(rows)), [row.label for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("nats per image")
    return Figure(
        f"{score}-by-row-{subject.slug}",
        f"{SCORES[score]}: {subject.words}, dim {dim}",
        f"({subject.words}, dim {dim}) {SCORES[score]}: mean and ± one standard deviation over the seeds. A dot below "
        f"is a seed, the dotted line the VAE's mean.{incomplete_words(cells, expected)}",
        f"Dots with intervals of {some([row.label for row in rows])}; {_alt(cells)}.",
        drawing,
        cells,
        subject.dataset,
        marks=marks,
    )  # fmt: skip
