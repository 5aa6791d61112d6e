"""Scores by latent dim for each method and order: mean and sd over the seeds."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.lines import Line2D

from analysis import style
from analysis.cells import runs_of
from analysis.figure import Figure
from analysis.figures.common import (
    Subject,
    dashes_of,
    dim_axis,
    dims_of,
    incomplete_words,
    mark,
    method_handles,
    of_row,
    rows_of,
    some,
    subjects,
)
from analysis.names import BASELINE, CONTROLS
from analysis.stats import of_baseline, summarise
from analysis.tables import SCORES, Row, fullest

PANELS_ACROSS = 2


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
    cells = cells[cells["n"] > 0].drop(columns="restarts").assign(expected=expected)
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
    drawing = style.drawing(height=2.1 + 0.95 * down)
    grid = drawing.add_gridspec(1 + down, PANELS_ACROSS, height_ratios=[1.35, *[1.0] * down])
    level = drawing.add_subplot(grid[0, :])
    for row in rows:
        of = of_row(cells, row).sort_values("dim")
        level.plot(of["dim"], of["mean"], color=style.colour(row.method), linestyle=dashes_of(row, rows), lw=0.7,
                   marker=style.marker(row.method), ms=style.size(row.method, 2.6), mew=0.4)  # fmt: skip
    dim_axis(level, dims)
    level.set_ylabel("nats per image")
    panels: list[Axes] = []
    for i, method in enumerate(methods):
        below = panels[0] if panels else None
        panel = drawing.add_subplot(grid[1 + i // PANELS_ACROSS, i % PANELS_ACROSS], sharex=below, sharey=below)
        shown = [row for row in rows if row.method == method]
        for baseline in (row for row in rows if row.method in CONTROLS):
            _line(panel, of_row(cells, baseline), column, "-", thin=True, expected=expected)
        for row in shown:
            _line(panel, of_row(cells, row), column, dashes_of(row, rows), thin=False, expected=expected)
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
        middle.set_ylabel("nats above the VAE" if relative else "nats per image")
    else:
        level.set_xlabel("latent dim")
    drawing.legend(
        handles=method_handles(rows), loc="outside upper center", ncols=5, columnspacing=1.2, handlelength=1.6
    )
    free = drawing.add_subplot(grid[-1, -1]) if len(methods) % PANELS_ACROSS else None
    _legend_of_orders(drawing, free, [row for row in rows if row.method in methods])
    band = "± one standard deviation over the seeds"
    compared = (
        f"Bottom: the same in nats above the VAE's mean of the same dim (black, at 0), with bands of {band}; each "
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
    )  # fmt: skip


def _line(panel: Axes, cells: pd.DataFrame, column: str, dashes: object, *, thin: bool, expected: int) -> None:
    """Draw a row's line and band of ± one sd, nats, with hollow markers where seeds are missing."""
    of = cells.sort_values("dim").dropna(subset=column)
    if of.empty:
        return
    method, spread = of["method"].iloc[0], of["sd"].fillna(0)
    colour, dim = style.colour(method), of["dim"].to_numpy(float)
    panel.fill_between(dim, of[column] - spread, of[column] + spread, color=colour, alpha=0.13, lw=0, zorder=1)
    panel.plot(dim, of[column], color=colour, linestyle=dashes, lw=0.6 if thin else 0.9, zorder=2 if thin else 3)
    for complete, part in of.groupby(of["n"] >= expected):
        look = mark(method, 2.0 if thin else 3.0, bool(complete))
        panel.plot(part["dim"].to_numpy(float), part[column], zorder=4, **look)


def _title(panel: Axes, rows: list[Row]) -> None:
    words = [" ".join(str(part) for part in (row.order, row.variant) if part is not None) for row in rows]
    orders = ", ".join(word for word in words if word)
    title = f"{rows[0].family}({orders})" if orders else rows[0].label
    panel.set_title(title, loc="left", color=style.colour(rows[0].method), pad=2, fontweight="bold", fontsize=6.5)


_PLACES = ("smallest order", "second", "third", "fourth", "fifth")


def _legend_of_orders(drawing: Drawing, free: Axes | None, rows: list[Row]) -> None:
    """A legend of the line styles: in the grid's free place, if any, else below the panels."""
    if free is not None:
        free.set_axis_off()
    counts = pd.Series([row.method for row in rows], dtype=object).value_counts()
    most = min(int(counts.max()) if len(counts) else 0, len(_PLACES))
    if most < 2:
        return
    handles = [Line2D([], [], color="0.3", linestyle=style.dashes(i), label=_PLACES[i]) for i in range(most)]
    if free is not None:
        free.legend(handles=handles, loc="center", handlelength=2.6)
    else:
        drawing.legend(handles=handles, loc="outside lower center", ncols=most, handlelength=2.6, columnspacing=1.2)


# ---------------------------------------------------------------------- one dim
@style.printed()
def _one_dim(subject: Subject, cells: pd.DataFrame, score: str, expected: int) -> Figure:
    rows, dim = rows_of(cells), int(cells["dim"].iloc[0])
    drawing = style.drawing(height=0.55 + 0.135 * len(rows))
    axes = drawing.add_subplot()
    vae = cells[cells["method"] == BASELINE]
    if len(vae):
        axes.axvline(vae["mean"].iloc[0], color=style.colour(BASELINE), lw=0.5, ls=":", zorder=0)
    for y, row in enumerate(rows):
        cell = of_row(cells, row).iloc[0]
        values = runs_of(subject.rows, cell)[score].to_numpy(dtype=float, na_value=np.nan)
        values = values[np.isfinite(values)]
        colour = style.colour(row.method)
        axes.plot(values, np.full(len(values), y), ls="", marker=".", color=colour, ms=3, mew=0, alpha=0.4)
        spread = 0.0 if np.isnan(cell["sd"]) else cell["sd"]
        axes.errorbar(cell["mean"], y, xerr=spread, elinewidth=1, **mark(row.method, 4, cell["n"] >= expected))
    axes.set_yticks(range(len(rows)), [row.label for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("nats per image")
    return Figure(
        f"{score}-by-row-{subject.slug}",
        f"{SCORES[score]}: {subject.words}, dim {dim}",
        f"({subject.words}, dim {dim}) {SCORES[score]}: mean and ± one standard deviation over the seeds. A faint dot "
        f"is a seed, the dotted line the VAE's mean.{incomplete_words(cells, expected)}",
        f"Dots with intervals of {some([row.label for row in rows])}; {_alt(cells)}.",
        drawing,
        cells,
        subject.dataset,
    )  # fmt: skip
