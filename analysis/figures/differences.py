"""Paired differences from the VAE: a dot for each seed, the Hodges-Lehmann estimate and its confidence interval."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from analysis import style
from analysis.figure import Figure, Mark
from analysis.figures.common import Subject, dims_of, interval_words, of_row, rows_of, some, subjects
from analysis.figures.scores import BESIDE
from analysis.names import CELL, COLUMN
from analysis.stats import KEY_TYPES, LABELS, of_baseline, paired_difference
from analysis.tables import SCORES, Row, slug

PANELS_ACROSS = 4


def difference_figures(runs: pd.DataFrame, score: str = "test_iwae", baseline: str = "vae") -> list[Figure]:
    """A figure for each data set and decoder in which some seed has both the baseline and another method.

    Args:
        runs: one row for each run, as `analysis.collect.collect` returns them.
        score: a key of `analysis.tables.SCORES`, nats per image.
        baseline: the method to compare with: `vae`, or the control `vae-more`.

    Returns:
        Figures whose data have a row for each cell and seed: the cell's columns and labels, seed, difference (nats,
        positive where better than the baseline of that seed), and the cell's n, estimate, low, high, level (see
        `analysis.signed_rank.Location`; low and high are NaN with too few pairs for an interval).
    """
    found = []
    for subject in subjects(runs):
        data = differences_by_seed(subject.rows, score, baseline)
        if len(data):
            label = subject.rows.loc[of_baseline(subject.rows, baseline), "method_label"].iloc[0]
            found.append(_draw(subject, data, score, baseline, label))
    return found


def differences_by_seed(runs: pd.DataFrame, score: str = "test_iwae", baseline: str = "vae") -> pd.DataFrame:
    """Each run's difference from the baseline of the same column and seed, as the data of `difference_figures`."""
    columns = [*CELL, *LABELS, "seed", "difference", "n", "estimate", "low", "high", "level"]
    cells = paired_difference(runs, score, baseline)
    cells = cells[cells["n"] > 0].drop(columns=["mean", "sd", "seeds", "values", "median"])
    finite = runs[np.isfinite(runs[score].to_numpy(dtype=float, na_value=np.nan))]
    # chosen among all runs of the column, so that a missing score does not change which row is the baseline
    masks = [of_baseline(column, baseline) for _, column in runs.groupby(COLUMN)]
    is_reference = pd.concat(masks)[finite.index] if masks else pd.Series(dtype=bool)
    column = [*COLUMN, "seed"]
    reference = finite[is_reference][[*column, score]].rename(columns={score: "reference"})
    paired_runs = finite[~is_reference].merge(reference, on=column)
    paired_runs = paired_runs.assign(difference=paired_runs[score] - paired_runs["reference"])
    merged = paired_runs[[*CELL, "seed", "difference"]].astype(KEY_TYPES).merge(cells, on=CELL)
    return merged[columns].sort_values([*CELL, "seed"], ignore_index=True)


@style.printed()
def _draw(subject: Subject, data: pd.DataFrame, score: str, baseline: str, label: str) -> Figure:
    rows, dims = rows_of(data), dims_of(data)
    across = min(len(dims), PANELS_ACROSS)
    down = -(-len(dims) // across)
    drawing = style.drawing(height=0.35 + down * (0.35 + 0.15 * len(rows)))
    panels = drawing.subplots(down, across, sharey=True, squeeze=False).ravel()
    for panel in panels[len(dims) :]:
        panel.remove()
    marks: list[Mark] = []
    for panel, dim in zip(panels, dims, strict=False):
        marks += _panel(panel, data[data["dim"] == dim], rows)
        panel.set_title(f"dim {dim}", pad=3)
        panel.xaxis.set_major_locator(MaxNLocator(2 if across > 2 else 6, min_n_ticks=2))
    panels[0].set_yticks(range(len(rows)), [row.label for row in rows])
    panels[0].set_ylim(len(rows) - 0.4, -0.5)
    drawing.supxlabel(f"nats above the {label} of the same seed (Hodges-Lehmann)", fontsize=7)
    cells = data.drop_duplicates(CELL)
    levels = cells["level"].dropna()
    interval = (
        f"a bar its confidence interval (at least {100 * np.floor(1000 * levels.min()) / 1000:.1f}%, exact by the "
        "signed-rank distribution)"
        if len(levels)
        else "too few seeds for a confidence interval"
    )
    short = cells["low"].isna() & bool(len(levels))
    without = f" {int(short.sum())} of {len(cells)} cells have too few seeds for an interval." if short.any() else ""
    best = cells.sort_values("estimate").drop_duplicates("dim", keep="last").sort_values("dim")
    tops = "; ".join(
        f"at dim {c.dim} the largest Hodges-Lehmann estimate is {c.method_label}'s, {c.estimate:+.1f} nats"
        for c in best.itertuples()
    )
    return Figure(
        f"{score}-minus-{slug(baseline)}-by-seed-{subject.slug}",
        f"{SCORES[score]}, difference from the {label} by seed: {subject.words}",
        f"({subject.words}) {SCORES[score]}, paired difference from the {label} of the same seed: a mark is the "
        f"Hodges-Lehmann estimate, {interval}, and a dot below is a seed. Right of the line is better than "
        f"the {label}. Each dim has its own scale.{without}",
        f"Differences from the {label} of {some([row.label for row in rows])}; {tops}.",
        drawing,
        data,
        subject.dataset,
        marks=marks,
    )  # fmt: skip


def _panel(panel: Axes, data: pd.DataFrame, rows: list[Row]) -> list[Mark]:
    """Draw a dim's panel, and return its marks."""
    marks: list[Mark] = []
    panel.axvline(0, color="0.4", lw=0.6, zorder=0)
    panel.tick_params(axis="y", length=0)
    panel.tick_params(axis="x", labelsize=5.5)
    for y, row in enumerate(rows):
        of = of_row(data, row)
        if of.empty:
            continue
        colour, cell = style.colour(row.method), of.iloc[0]
        below = np.full(len(of), y + BESIDE)
        panel.plot(of["difference"], below, ls="", marker=".", color=colour, ms=3, mew=0, alpha=0.6)
        if not np.isnan(cell["low"]):
            panel.plot([cell["low"], cell["high"]], [y, y], color=colour, lw=1.1, solid_capstyle="butt")
        panel.plot(
            cell["estimate"],
            y,
            ls="",
            marker=style.marker(row.method),
            color=colour,
            ms=style.size(row.method),
            mew=0.3,
            mec="white",
        )
        marks.append(Mark(panel, cell["estimate"], y, row.label, (f"dim {cell['dim']}", *interval_words(cell))))
        for seed, value in zip(of["seed"], of["difference"], strict=True):
            words = (f"dim {cell['dim']}, seed {seed}", f"{value:+.2f} nats")
            marks.append(Mark(panel, value, y + BESIDE, row.label, words))
    return marks
