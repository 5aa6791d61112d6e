"""Training curves: the validation ELBO by epoch, and diagnostics of each component of a mixture."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullLocator

from analysis import style
from analysis.figure import Figure, Mark
from analysis.figures.common import (
    LEGEND_LINE_IN,
    Subject,
    dims_of,
    handles,
    legend_shape,
    listed,
    mark,
    of_row,
    order_of,
    representatives,
    rows_of,
    some,
    subjects,
)
from analysis.names import CELL
from analysis.stats import LABELS
from analysis.tables import Row
from analysis.words import counted

PANELS_ACROSS = 2

ROWS = 9
"""The most rows that are distinguishable in a panel; of more, only each method's largest order is drawn."""

SEEDS = 10
"""Seeds of a cell whose curves are read: few, because MLflow returns one metric of one run at a time."""

COMPONENTS_ROWS = 4
"""The most rows in a figure of components, each in a column of panels."""

DIAGNOSTICS = {"elbo_q": "ELBO of qₘ", "alpha": "weight αₘ", "kl": "KL from Qₘ₋₁"}
"""Metrics and their axis labels; nats, except for the weight."""

POSSIBLE = {"alpha": (0.0, 1.0), "kl": (0.0, np.inf)}
"""Metrics that have bounds, at which a band of ± one sd is cut."""

FAR = 30.0
"""Ratio of two rows' largest KLs from which their axis is logarithmic."""

SHORT = 0.3
"""A stage that is a smaller fraction of all epochs has a panel of its own."""

EARLY = 0.15
"""Fraction of the epochs, at the start, that may lie below the axis: a training starts far below where it ends."""


JUMP = 0.3
"""The same in the panel of a stage, which begins before it: a mixture's new component starts anywhere."""


def to_read(runs: pd.DataFrame, seeds: int = SEEDS) -> pd.DataFrame:
    """The runs whose curves are drawn: of the rows that fit in a panel, the first seeds of each cell.

    Args:
        runs: one row for each run, as `analysis.collect.collect` returns them.
        seeds: the most for each cell.
    """
    kept = [runs.iloc[:0]]
    for subject in subjects(runs):
        for row in representatives(rows_of(subject.rows), ROWS):
            of = of_row(subject.rows, row).sort_values("seed")
            kept += [cell.head(seeds) for _, cell in of.groupby("dim")]
    return pd.concat(kept)


def curve_figures(curves: pd.DataFrame, runs: pd.DataFrame | None = None) -> list[Figure]:
    """For each data set and decoder, a figure of the validation ELBO, and for each dim one of mixtures' components.

    Args:
        curves: as `analysis.collect.curves` returns them.
        runs: all runs, so that the captions can say what is left out.

    Returns:
        Figures whose data have a row for each cell, metric, component and epoch: the cell's columns and labels,
        parent_epochs, metric, component, epoch (counted from the start of the VAE that the run starts from), n (seeds),
        mean and sd over them (nats, except for the weight alpha; the sd of one seed is NaN).
    """
    found = []
    for subject in subjects(curves):
        mean = mean_curves(subject.rows)
        elbo = mean[mean["metric"] == "val_elbo"]
        if len(elbo):
            rows = representatives(rows_of(elbo), ROWS)
            found.append(_validation(subject, elbo, rows, _left_out(subject, rows, runs)))
        parts = mean[mean["metric"].isin(DIAGNOSTICS)]
        for dim in dims_of(parts):
            of_dim = parts[parts["dim"] == dim]
            rows = representatives(rows_of(of_dim), COMPONENTS_ROWS)[:COMPONENTS_ROWS]
            same = None if runs is None else runs[(runs["dim"] == dim) & runs["method"].isin(of_dim["method"])]
            found.append(_components(subject, of_dim, rows, dim, _left_out(subject, rows, same)))
    return found


def mean_curves(curves: pd.DataFrame) -> pd.DataFrame:
    """Mean and sd over the seeds at each epoch, with the columns of `curve_figures`' data."""
    epoch = curves["epoch"] + curves["parent_epochs"]
    by = [*CELL, *LABELS, "parent_epochs", "metric", "component", "epoch"]
    groups = curves.assign(epoch=epoch).groupby(by, dropna=False)["value"]
    return groups.agg(n="count", mean="mean", sd="std").reset_index()


def _left_out(subject: Subject, drawn: list[Row], runs: pd.DataFrame | None) -> str:
    """A sentence that names the runs of this data set and decoder that are not drawn; empty if none."""
    if runs is None:
        return ""
    ran = runs[(runs["dataset"] == subject.dataset) & (runs["decoder"] == subject.decoder)]
    missing = [row.label for row in rows_of(ran) if row not in drawn]
    seeds, of = (int(f.groupby(CELL, dropna=False)["seed"].nunique().max()) for f in (subject.rows, ran))
    said = []
    if missing:
        said.append(f"{len(missing)} of {len(missing) + len(drawn)} rows ({some(missing)})")
    if seeds < of:
        said.append(f"all seeds but the first {seeds} of {of}")
    return f" Left out: {listed(said)}." if said else ""


# ---------------------------------------------------------------------- validation ELBO
@style.printed()
def _validation(subject: Subject, data: pd.DataFrame, rows: list[Row], left_out: str) -> Figure:
    dims = dims_of(data)
    data = pd.concat([of_row(data, row) for row in rows], ignore_index=True)
    start, end = _stage(data)
    zoomed = 0 < end - start < SHORT * end
    across = 2 if zoomed else min(len(dims), PANELS_ACROSS)
    down = len(dims) if zoomed else -(-len(dims) // across)
    entries = handles(rows, 2.6)
    lines, ncols = legend_shape(entries)
    drawing = style.drawing(height=0.35 + LEGEND_LINE_IN * lines + (1.9 if len(dims) == 1 else 1.4) * down)
    panels = drawing.subplots(down, across, squeeze=False, sharex="col" if zoomed else True)
    hidden = False
    marks: list[Mark] = []
    for place, dim in enumerate(dims):
        of_dim = data[data["dim"] == dim]
        panel = panels[place, 0] if zoomed else panels.ravel()[place]
        marks += _runs(panel, of_dim, rows)
        hidden |= _hide_early_epochs(panel, of_dim)
        if len(dims) > 1:
            panel.set_title(f"dim {dim}", pad=3)
        if zoomed:
            shown = of_dim[of_dim["epoch"] >= start - max(1, (end - start) // 8)]
            marks += _runs(panels[place, 1], shown, rows)
            hidden |= _hide_early_epochs(panels[place, 1], shown, JUMP)
            panels[place, 1].set_title(f"{f'dim {dim}, ' if len(dims) > 1 else ''}from epoch {start}", pad=3)
        for one in panels[place] if zoomed else [panel]:
            one.xaxis.set_major_locator(MaxNLocator(3 if across > 1 else 6, integer=True))
    for panel in () if zoomed else panels.ravel()[len(dims) :]:
        panel.remove()
    drawing.supxlabel("epoch", fontsize=7)
    drawing.supylabel("validation ELBO, nats per image", fontsize=7)
    drawing.legend(handles=entries, loc="outside upper center", ncols=ncols, columnspacing=1.2, handlelength=2.6)
    starts = (data["parent_epochs"] > 0).any()
    from_vae = (
        " Epochs include those of the VAE that a method starts from; a dotted line marks where these end."
        if starts
        else ""
    )
    below = " Some early epochs lie below the axis." if hidden else ""
    right = f" Right: the same from epoch {start} on, with its own scales." if zoomed else ""
    last = data.sort_values("epoch").drop_duplicates(CELL, keep="last")
    top = last.sort_values("mean").drop_duplicates("dim", keep="last").sort_values("dim")
    ends = "; ".join(f"at dim {c.dim} {c.method_label} ends highest, at {c.mean:.1f} nats" for c in top.itertuples())
    return Figure(
        f"val_elbo-by-epoch-{subject.slug}",
        f"Validation ELBO during training: {subject.words}",
        f"({subject.words}) Validation ELBO of each run's chosen restart by epoch: mean and band of ± one standard "
        f"deviation over the seeds.{from_vae}{below}{right}{left_out}",
        f"Curves of {some([row.label for row in rows])}; {ends}.",
        drawing,
        data,
        subject.dataset,
        marks=marks,
    )  # fmt: skip


def _stage(data: pd.DataFrame) -> tuple[int, int]:
    """The epoch after which the first method starts from a VAE, and the last epoch; equal if none does."""
    end = int(data["epoch"].max())
    starts = data.loc[data["parent_epochs"] > 0, "parent_epochs"]
    return (int(starts.min()) if len(starts) else end), end


def _runs(panel: Axes, data: pd.DataFrame, rows: list[Row]) -> list[Mark]:
    """Draw the rows' curves, and return their marks."""
    for row in rows:
        of = of_row(data, row).sort_values("epoch")
        if of.empty:
            continue
        place = order_of(row, rows)
        _curve(panel, of, style.colour(row.method), style.dashes(place))
        few = of.iloc[_spread_out(len(of), rows.index(row) / len(rows))]
        panel.plot(few["epoch"], few["mean"], zorder=3, **mark(row.method, 2.6, place=place))
    for start in sorted(set(data["parent_epochs"]) - {0}):
        panel.axvline(start, color="0.6", lw=0.5, ls=":", zorder=0)
    return _marks(panel, data)


def _marks(panel: Axes, data: pd.DataFrame, unit: str = " nats") -> list[Mark]:
    """A mark for each epoch's mean."""
    found = []
    for point in data.to_dict("records"):
        seeds = counted(point["n"], "seed")
        spread = "" if pd.isna(point["sd"]) else f" ± {point['sd']:.3g}"
        name = point["method_label"] + ("" if pd.isna(point["component"]) else f", m = {point['component']}")
        value = f"{point['mean']:.2f}" if unit == " nats" else f"{point['mean']:.3f}"
        said = (f"dim {point['dim']}, epoch {point['epoch']}, {seeds}", f"{value}{spread}{unit}")
        found.append(Mark(panel, point["epoch"], point["mean"], name, said))
    return found


def _spread_out(points: int, start: float, marks: int = 4) -> list[int]:
    """Indices of up to `marks` evenly spaced points; `start`, in 0..1, shifts them, so that curves' marks differ."""
    return sorted({int((i + start) / marks * points) for i in range(marks)}) if points else []


def _curve(
    panel: Axes, data: pd.DataFrame, colour: Any, dashes: Any, bounds: tuple[float, float] = (-np.inf, np.inf)
) -> None:
    """A mean with its band of ± one sd, cut at the bounds; a single epoch is a point."""
    of = data.sort_values("epoch")
    epoch, spread = of["epoch"].to_numpy(float), of["sd"].fillna(0)
    low, high = (of["mean"] - spread).clip(*bounds), (of["mean"] + spread).clip(*bounds)
    panel.fill_between(epoch, low, high, color=colour, alpha=0.15, lw=0, zorder=1)
    panel.plot(
        epoch, of["mean"], color=colour, linestyle=dashes, lw=0.9, marker="." if len(of) == 1 else None, zorder=2
    )


def _hide_early_epochs(panel: Axes, data: pd.DataFrame, early: float = EARLY) -> bool:
    """Fit the vertical axis to the curves after a fraction of the epochs. Returns whether a mean lies below it."""
    late = data[data["epoch"] >= data["epoch"].min() + early * (data["epoch"].max() - data["epoch"].min())]
    spread = late["sd"].fillna(0)
    low, high = float((late["mean"] - spread).min()), float((late["mean"] + spread).max())
    room = 0.05 * (high - low) or 1.0
    panel.set_ylim(low - room, high + room)
    return bool((data["mean"] < low - room).any())


# ---------------------------------------------------------------------- components
def _kl_axis(panel: Axes, data: pd.DataFrame) -> None:
    """A logarithmic axis, linear up to 1 nat, if one row's KL is many times another's, which would be a line at 0."""
    largest = data.groupby(CELL, dropna=False)["mean"].max()
    if largest.max() < FAR * max(largest.min(), 1.0):
        return
    panel.set_yscale("symlog", linthresh=1.0)
    tops = [10**power for power in range(0, 9, 2) if 10**power <= largest.max()]
    panel.set_yticks([0, *tops], ["0", *(f"{top:,}" for top in tops)], minor=False)
    panel.yaxis.set_minor_locator(NullLocator())


@style.printed()
def _components(subject: Subject, data: pd.DataFrame, rows: list[Row], dim: int, left_out: str) -> Figure:
    data = pd.concat([of_row(data, row) for row in rows], ignore_index=True)
    metrics = [metric for metric in DIAGNOSTICS if metric in set(data["metric"])]
    drawing = style.drawing(height=0.5 + 0.95 * len(metrics), width=style.COLUMN_IN)
    panels = drawing.subplots(len(metrics), len(rows), sharex="col", sharey="row", squeeze=False)
    components = data["component"].dropna().astype(int).drop_duplicates().sort_values().tolist()
    marks: list[Mark] = []
    for across, row in enumerate(rows):
        for down, metric in enumerate(metrics):
            panel, of = panels[down, across], of_row(data[data["metric"] == metric], row)
            bounds = POSSIBLE.get(metric, (-np.inf, np.inf))
            for component in components:
                part = of[of["component"] == component]
                _curve(panel, part, style.colour(row.method), style.dashes(component), bounds)
                marks += _marks(panel, part, "" if metric == "alpha" else " nats")
            panel.xaxis.set_major_locator(MaxNLocator(2, integer=True))
            panel.yaxis.set_major_locator(MaxNLocator(4))
            panel.tick_params(axis="x", labelsize=5)
        panels[0, across].set_title(row.label, color=style.colour(row.method), fontweight="bold", fontsize=6, pad=3)
    for down, metric in enumerate(metrics):
        panels[down, 0].set_ylabel(DIAGNOSTICS[metric])
        if metric == "kl":
            _kl_axis(panels[down, 0], data[data["metric"] == metric])
        if metric in POSSIBLE:
            panels[down, 0].set_ylim(bottom=max(panels[down, 0].get_ylim()[0], POSSIBLE[metric][0]))
        if metric == "elbo_q":
            _hide_early_epochs(panels[down, 0], data[data["metric"] == metric])
    drawing.supxlabel("epoch", fontsize=7)
    handles = [Line2D([], [], color="0.3", ls=style.dashes(m), label=f"m = {m}") for m in components]
    drawing.legend(handles=handles, loc="outside upper center", ncols=5, handlelength=2.6, columnspacing=1.2)
    last = data.sort_values("epoch").drop_duplicates([*CELL, "metric", "component"], keep="last")
    kl = last[last["metric"] == "kl"].sort_values("mean")
    end = (
        f"; the largest KL at the end is {kl['mean'].iloc[-1]:.3g} nats, {kl['method_label'].iloc[-1]}'s"
        if len(kl)
        else ""
    )
    return Figure(
        f"components-by-epoch-{subject.slug}-d{dim}",
        f"Components during training: {subject.words}, dim {dim}",
        f"({subject.words}, dim {dim}) Each component m of a mixture by epoch, from m = 0: its own ELBO in nats per "
        "image, its mean weight, and its KL divergence from the mixture of the components before it, in nats. Mean and "
        f"band of ± one standard deviation over the seeds, cut at 0 for weight and KL.{left_out}",
        f"Curves of the components of {some([row.label for row in rows])}{end}.",
        drawing,
        data,
        subject.dataset,
        marks=marks,
    )  # fmt: skip
