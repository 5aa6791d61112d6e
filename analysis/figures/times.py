"""Score by inference time: how much time a better score takes."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from analysis import style
from analysis.figure import Figure, Mark
from analysis.figures.common import (
    LEGEND_LINE_IN,
    Subject,
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
from analysis.names import CELL
from analysis.stats import KEY_TYPES, summarise
from analysis.tables import SCORES, Row, fullest, slug
from analysis.time_tables import summarise_times
from analysis.words import counted

PANELS_ACROSS = 2
_UNKNOWN = "unknown device"


def time_figures(
    runs: pd.DataFrame,
    timings: pd.DataFrame | None = None,
    score: str = "test_iwae",
    expected_seeds: int | None = None,
) -> list[Figure]:
    """A figure for each data set, decoder and device; a panel for each dim.

    Args:
        runs: trainings, one row for each run, as `analysis.collect.collect` returns them.
        timings: runs of a timing grid; by default the times that trainings measured at their end are used.
        score: a key of `analysis.tables.SCORES`, nats per image.
        expected_seeds: runs of a complete cell; by default as many as the fullest cell of `runs`.

    Returns:
        Figures whose data have a row for each cell: the cell's columns and labels, device, n (scores), mean, sd (nats;
        NaN for one score), n_times (of trainings: how many times the median is of), ratio (inference time over the
        VAE's of the same column and device).
    """
    if runs.empty:
        return []
    timed = timings is not None and len(timings) > 0
    ratios = _timed(timings) if timings is not None and timed else _of_trainings(runs)
    cells = summarise(runs, score).drop(columns=["seeds", "values", "restarts"])
    cells = cells[cells["n"] > 0].merge(ratios, on=CELL)
    expected = expected_seeds or fullest(runs)
    found = []
    for subject in subjects(cells):
        devices = sorted(subject.rows["device"].unique())
        for device in devices:
            data = subject.rows[subject.rows["device"] == device].reset_index(drop=True)
            if (data["method"] != "vae").any():
                suffix = f"-{slug(device)}" if len(devices) > 1 else ""
                found.append(_draw(subject, data, score, expected, device, timed, suffix))
    return found


def _timed(timings: pd.DataFrame) -> pd.DataFrame:
    cells = summarise_times(timings, "ratio_to_vae")
    return cells[[*CELL, "device", "mean"]].rename(columns={"mean": "ratio"}).dropna(subset="ratio")


def _of_trainings(runs: pd.DataFrame) -> pd.DataFrame:
    """Each cell's median time as a ratio to the VAE's of the same column and device, as trainings measured them."""
    runs = runs.assign(device=runs["device"].fillna(_UNKNOWN)).astype(KEY_TYPES)
    # the median, because other work on the device made some of these times several times longer
    of_cell = runs.groupby([*CELL, "device"], dropna=False)["inference_ms"]
    ms = of_cell.agg(inference_ms="median", n_times="count").reset_index()
    column = ["dataset", "dim", "decoder", "device"]
    # training does not change a VAE's inference time, so any of its variants would do; the plain one is preferred
    vaes = ms[ms["method"] == "vae"].sort_values("variant", na_position="first").drop_duplicates(column)
    vae = vaes.set_index(column)["inference_ms"].rename("vae_ms")
    ms = ms.join(vae, on=column)
    return ms.assign(ratio=ms["inference_ms"] / ms["vae_ms"])[[*CELL, "device", "n_times", "ratio"]].dropna(
        subset="ratio"
    )


@style.printed()
def _draw(
    subject: Subject, data: pd.DataFrame, score: str, expected: int, device: str, timed: bool, suffix: str
) -> Figure:
    rows, dims = rows_of(data), dims_of(data)
    across = min(len(dims), PANELS_ACROSS)
    down = -(-len(dims) // across)
    entries = [*handles(rows, 2.8), *order_handles(rows)]
    for entry in entries:
        entry.set_linestyle("")
    lines, legend_across = legend_shape(entries)
    drawing = style.drawing(height=0.35 + LEGEND_LINE_IN * lines + (1.9 if across == 1 else 1.45) * down)
    panels = drawing.subplots(down, across, sharex=True, squeeze=False)
    for panel in panels.ravel()[len(dims) :]:
        panel.remove()
    marks: list[Mark] = []
    for panel, dim in zip(panels.ravel(), dims, strict=False):
        marks += _panel(panel, data[data["dim"] == dim], rows, expected)
        if len(dims) > 1:
            panel.set_title(f"dim {dim}", pad=3)
    _time_axis(panels[0, 0], data["ratio"])
    drawing.supxlabel("inference time, multiples of the VAE's", fontsize=7)
    drawing.supylabel("nats per image", fontsize=7)
    drawing.legend(handles=entries, loc="outside upper center", ncols=legend_across, columnspacing=1.2, handlelength=1)
    how = (
        "each alone on the device, alternating with a VAE"
        if timed
        else "the median of what trainings measured at their end, while other work may have run on the device: rows "
        "of few runs can be far off, and a timing grid is more accurate"
    )
    slowest = data.sort_values("ratio").iloc[-1]
    return Figure(
        f"{score}-by-time-{subject.slug}{suffix}",
        f"{SCORES[score]} by inference time: {subject.words}",
        f"({subject.words}) {SCORES[score]}, mean and ± one standard deviation over the seeds, by the time of q(z|x) "
        f"and one draw on {device}, {how}. Lines join a method's orders; a larger mark is a larger order, and "
        f"each has its filling. Up and left is better.{incomplete_words(data, expected)}",
        f"Points of {some([row.label for row in rows])}; the slowest is {slowest['method_label']} at dim "
        f"{slowest['dim']}, {slowest['ratio']:.2g} times the VAE's time.",
        drawing,
        data,
        subject.dataset,
        marks=marks,
    )  # fmt: skip


def _panel(panel: Axes, cells: pd.DataFrame, rows: list[Row], expected: int) -> list[Mark]:
    """Draw a dim's panel, and return its marks."""
    for method, variant in dict.fromkeys((row.method, row.variant) for row in rows_of(cells)):
        same = cells["variant"].isna() if variant is None else cells["variant"] == variant
        of = cells[(cells["method"] == method) & same].sort_values("order")
        colour = style.colour(method)
        panel.plot(of["ratio"], of["mean"], color=colour, lw=0.5, alpha=0.6, zorder=1)
        panel.errorbar(of["ratio"], of["mean"], yerr=of["sd"].fillna(0), ls="", color=colour, elinewidth=0.5, zorder=2)
    marks: list[Mark] = []
    for row in rows_of(cells):
        orders = [other for other in rows if (other.method, other.variant) == (row.method, row.variant)]
        larger = order_of(row, orders)  # a larger order has a larger mark
        for cell in of_row(cells, row).to_dict("records"):
            look = mark(row.method, 2.4 + 0.6 * larger, cell["n"] >= expected, order_of(row, rows))
            panel.plot(cell["ratio"], cell["mean"], zorder=3, **look)
            seeds, value = mean_words(cell["n"], cell["mean"], cell["sd"])
            time = f"{cell['ratio']:.3g} times the VAE's inference time"
            if "n_times" in cell:
                time += f" (median of {counted(cell['n_times'], 'run')})"
            marks.append(
                Mark(panel, cell["ratio"], cell["mean"], row.label, (f"dim {cell['dim']}, {seeds}", value, time))
            )
    panel.margins(x=0.12)
    panel.yaxis.set_major_locator(MaxNLocator(5))
    return marks


def _time_axis(axes: Axes, ratios: pd.Series) -> None:
    """A logarithmic axis with plain numbers as ticks, if the slowest takes at least twice the fastest's time."""
    if ratios.max() / ratios.min() < 1.2:  # else the axis would magnify mere noise
        axes.set_xlim(ratios.min() - 0.1, ratios.max() + 0.1)
    if ratios.max() / ratios.min() < 2:
        axes.xaxis.set_major_locator(MaxNLocator(4))
        return
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if ratios.max() / ratios.min() < 100 else (1,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
