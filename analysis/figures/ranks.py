"""The critical-difference diagram of average ranks (Demšar 2006, figure 1)."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis import style
from analysis.figure import Figure, Mark
from analysis.ranks import RankComparison, compare_ranks
from analysis.tables import DECODERS, SCORES, fullest, slug

_SIDE = 0.76  # inches for labels on either side
_LINE = 0.115  # inches from a label to the next
_BAR = 0.045  # inches from a bar to the next


def rank_figures(runs: pd.DataFrame, score: str = "test_iwae", expected_seeds: int | None = None) -> list[Figure]:
    """A diagram for each decoder with at least two rows and two complete columns.

    Args:
        runs: one row for each run, as `analysis.collect.collect` returns them.
        score: a key of `analysis.tables.SCORES`; more is better.
        expected_seeds: scores of a complete cell; by default as many as the fullest cell of `runs`.

    Returns:
        Figures whose data have a row for each table row, best first: method, order, variant, method_label,
        average_rank, and groups, the numbers, from 1, of the bars that join it with others.
    """
    if runs.empty:
        return []
    expected = expected_seeds or fullest(runs)
    found = []
    for decoder, of_decoder in runs.groupby("decoder"):
        ranks = compare_ranks(of_decoder, score, expected)
        if not np.isnan(ranks.critical_difference):
            found.append(_draw(ranks, str(decoder), score))
    return found


@style.printed()
def _draw(ranks: RankComparison, decoder: str, score: str) -> Figure:
    rows, bars = ranks.rows, _levels(ranks.groups)
    k, depth = len(rows), max(bars, default=-1) + 1
    down = -(-k // 2)
    above, between = 0.42, 0.1 + _BAR * depth
    height = above + between + _LINE * down + 0.05
    drawing = style.drawing(height)
    drawing.set_layout_engine("none")  # everything is placed in inches
    axes = drawing.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_ylim(height - above, -above)  # inches below the axis
    side = (k - 1) * _SIDE / (style.COLUMN_IN - 2 * _SIDE)  # the labels' width in ranks
    axes.set_xlim(1 - side, k + side)
    _scale(axes, k, ranks.critical_difference)
    ends = rows["average_rank"].to_numpy()
    for (first, last), level in zip(ranks.groups, bars, strict=True):
        y = 0.08 + _BAR * level
        axes.plot([ends[first], ends[last]], [y, y], color="0.25", lw=1.6, solid_capstyle="butt", gid="group", zorder=3)
    marks: list[Mark] = []
    for i, (method, label, rank) in enumerate(zip(rows["method"], rows["method_label"], ends, strict=True)):
        left = i < down
        y = between + _LINE * (i + 0.7 if left else k - 1 - i + 0.7)
        edge, align = (1 - 0.03 * side, "right") if left else (k + 0.03 * side, "left")
        colour = style.colour(method)
        axes.plot([rank, rank, edge], [0, y, y], color=colour, lw=0.6, gid="row")
        axes.plot(rank, 0, marker=style.marker(method), color=colour, ms=style.size(method, 3), mew=0, gid="rank")
        marks.append(Mark(axes, rank, 0, label, (f"average rank {rank:.2f} over {len(ranks.columns)} columns",)))
        words = f"{label} {rank:.1f}" if left else f"{rank:.1f} {label}"
        axes.text(edge + (-0.03 if left else 0.03) * side, y, words, ha=align, va="center", fontsize=6, color="black")
    groups = [
        " ".join(str(number) for number, (first, last) in enumerate(ranks.groups, 1) if first <= i <= last)
        for i in range(k)
    ]
    test = ranks.friedman
    p = f"Friedman's p is {test.p:.2g}" if not np.isnan(test.p) else f"Friedman's test: {test.note}"
    left_out = [*ranks.left_out_rows, *ranks.left_out_columns]
    incomplete = f" Left out as incomplete: {', '.join(left_out)}." if left_out else ""
    which = DECODERS.get(decoder, decoder)
    return Figure(
        f"{score}-ranks-{slug(decoder)}",
        f"{SCORES[score]}, average ranks: {which}",
        f"({which}) Rank of each row's mean within a column, averaged over the {len(ranks.columns)} complete columns; "
        f"1 is the best. Rows joined by a bar are indistinguishable: they differ by less than Nemenyi's critical "
        f"difference, {ranks.critical_difference:.2f} (level {ranks.level:g}). {p}.{incomplete}",
        f"Average ranks of {k} rows, from {rows['method_label'].iloc[0]} with {ends[0]:.1f} to "
        f"{rows['method_label'].iloc[-1]} with {ends[-1]:.1f}; {len(ranks.groups)} bars join indistinguishable rows.",
        drawing,
        rows.assign(groups=groups),
        marks=marks,
    )  # fmt: skip


def _scale(axes: Axes, k: int, difference: float) -> None:
    """Draw the axis of ranks, and above it the critical difference, cut off at the axis's end."""
    axes.plot([1, k], [0, 0], color="black", lw=0.7)
    step = 1 if k <= 12 else 2 if k <= 20 else 4
    for rank in range(1, k + 1):
        labelled = (rank - 1) % step == 0
        axes.plot([rank, rank], [0, -0.05 if labelled else -0.03], color="black", lw=0.6)
        if labelled:
            axes.text(rank, -0.07, str(rank), ha="center", va="bottom", fontsize=6)
    end = min(1 + difference, k)
    axes.plot([1, end], [-0.25, -0.25], color="black", lw=0.9, gid="difference")
    for x in (1, end):
        axes.plot([x, x], [-0.28, -0.22], color="black", lw=0.9)
    more = "" if end == 1 + difference else ", beyond the axis"
    axes.text((1 + end) / 2, -0.29, f"critical difference {difference:.2f}{more}", ha="center", va="bottom", fontsize=6)


def _levels(groups: list[tuple[int, int]]) -> list[int]:
    """The level, from the top, of each bar: the first on which it touches no other bar."""
    ends: list[int] = []
    found = []
    for first, last in groups:
        level = next((i for i, end in enumerate(ends) if end < first), len(ends))
        ends[level : level + 1] = [last]
        found.append(level)
    return found
