"""Forest plots: each row's paired difference from its equal control, with the exact confidence interval."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis import style
from analysis.figure import Figure, Mark
from analysis.figures.common import Subject, dims_of, interval_words, of_row, rows_of, some, subjects
from analysis.names import CELL, COLUMN
from analysis.signed_rank import location
from analysis.stats import DIFFERENCE, LABELS
from analysis.tables import SCORES, Row
from analysis.trainings import by_row, equal_control, trainings

LINES = 64
"""The most lines of a figure, rows and dims' headings together: more would be illegible, and dims are split."""

_LINE_IN = 0.125


def forest_figures(runs: pd.DataFrame, score: str = "test_iwae") -> list[Figure]:
    """For each data set and decoder a figure with a group of rows for each dim; several if there are many rows.

    Args:
        runs: trainings, one row for each run, as `analysis.collect.collect` returns them.
        score: a key of `analysis.tables.SCORES`, nats per image; more is better.

    Returns:
        Figures whose data have a row for each trained cell that shares a seed with its control
        (`analysis.trainings.equal_control`): the cell's columns and labels, control_label, n (pairs), of the
        difference cell - control estimate, low, high and level (`analysis.signed_rank.Location`, nats), and
        significant, whether the interval excludes 0; False without an interval.
    """
    found = []
    for subject in subjects(runs):
        data = differences_from_control(subject.rows, score)
        groups = _groups(data)
        for dims in groups:
            part = data[data["dim"].isin(dims)].reset_index(drop=True)
            suffix = "".join(f"-d{dim}" for dim in dims) if len(groups) > 1 else ""
            found.append(_draw(subject, part, score, suffix))
    return found


def differences_from_control(runs: pd.DataFrame, score: str = "test_iwae") -> pd.DataFrame:
    """Each cell's difference from its equal control, as the data of `forest_figures`."""
    found = []
    needed = [*CELL, *LABELS, "seed", score]
    for _, column in runs.groupby(COLUMN):
        known, rows = trainings(column), by_row(column[needed])  # few columns: selecting among fifty takes seconds
        scores = {key: of.set_index("seed")[score] for key, of in rows.items()}
        for key, of in rows.items():
            control = equal_control(key, known) if known[key].is_trained else None  # SVI is no method to be compared
            own = None if control is None else location(scores[key], scores[control])
            if control is None or own is None or not own.n_pairs:
                continue
            found.append(
                of.iloc[0][[*CELL, *LABELS]].to_dict()
                | {"control_label": rows[control]["method_label"].iloc[0], "n": own.n_pairs}
                | {name: getattr(own, name) for name in DIFFERENCE if name != "median"}
                | {"significant": bool(own.low > 0 or own.high < 0)}
            )
    names = [*CELL, *LABELS, "control_label", "n", "estimate", "low", "high", "level", "significant"]
    frame = pd.DataFrame(found, columns=names).astype({"order": "Int64"})
    places = {row: i for i, row in enumerate(rows_of(frame))} if len(frame) else {}
    order = [places[row] for row in (_row(frame, i) for i in range(len(frame)))]
    return frame.assign(place=order).sort_values(["dim", "place"], ignore_index=True).drop(columns="place")


def _row(frame: pd.DataFrame, place: int) -> Row:
    return rows_of(frame.iloc[[place]])[0]


def _groups(data: pd.DataFrame) -> list[list[int]]:
    """The dims of each figure: as many as fit."""
    found: list[list[int]] = []
    free = 0
    for dim in dims_of(data):
        lines = 1 + int((data["dim"] == dim).sum())
        if lines > free or not found:
            found.append([])
            free = LINES
        found[-1].append(dim)
        free -= lines
    return found


@style.printed()
def _draw(subject: Subject, data: pd.DataFrame, score: str, suffix: str) -> Figure:
    dims = dims_of(data)
    headed = len(dims) > 1
    lines = len(data) + len(dims) * headed
    drawing = style.drawing(height=0.55 + _LINE_IN * lines)
    axes = drawing.add_subplot()
    axes.axvline(0, color="0.4", lw=0.6, zorder=0)
    left: dict[float, str] = {}
    right: dict[float, str] = {}
    marks: list[Mark] = []
    y = 0.0
    for dim in dims:
        of = data[data["dim"] == dim]
        if headed:
            left[y] = f"dim {dim}"
            y += 1
        for row in rows_of(of):
            cell = of_row(of, row).iloc[0]
            left[y], right[y] = row.label, _numbers(cell)
            _bar(axes, cell, y)
            said = (f"dim {dim}, above {cell['control_label']}", *interval_words(cell), _verdict(cell))
            ends = cell["estimate"] if np.isnan(cell["low"]) else (cell["low"], cell["high"])
            marks.append(Mark(axes, ends, y, row.label, said))
            y += 1
    axes.set_ylim(y - 0.4, -0.6)
    axes.set_yticks(list(left), list(left.values()))
    for label in axes.get_yticklabels():
        if label.get_text().startswith("dim ") and headed:
            label.set_fontweight("bold")
    beside = axes.twinx()
    beside.set_ylim(axes.get_ylim())
    beside.set_yticks(list(right), list(right.values()), fontsize=5.5)
    for one in (axes, beside):
        one.tick_params(axis="y", length=0)
    beside.spines[:].set_visible(False)
    axes.set_xlabel("nats above the control (Hodges-Lehmann)")
    levels = data["level"].dropna()
    level = f"at least {100 * np.floor(1000 * levels.min()) / 1000:.1f}%, exact by the signed-rank distribution"
    interval = f"with its confidence interval ({level})" if len(levels) else "with too few seeds for an interval"
    filled = (
        " Filled: the interval excludes 0, so the difference is significant. Hollow: indistinguishable"
        + (", or too few seeds for an interval." if data["low"].isna().any() else ".")
        if len(levels)
        else ""
    )
    above = data[data["significant"] & (data["estimate"] > 0)]
    below = data[data["significant"] & (data["estimate"] < 0)]
    where = "" if headed else f", dim {dims[0]}"
    return Figure(
        f"{score}-forest-{subject.slug}{suffix}",
        f"{SCORES[score]}, difference from the control: {subject.words}{where}",
        f"({subject.words}{where}) {SCORES[score]}, each row minus its control, a VAE trained as long at the same "
        f"rate: Hodges-Lehmann estimate of the difference paired by seed, {interval}.{filled}",
        f"Differences from the control of {some([row.label for row in rows_of(data)])}: significantly above it are "
        f"{some(_cells(above, headed)) or 'none'}; significantly below it {some(_cells(below, headed)) or 'none'}.",
        drawing,
        data,
        subject.dataset,
        marks=marks,
    )  # fmt: skip


def _cells(data: pd.DataFrame, headed: bool) -> list[str]:
    return [f"{cell.method_label}{f' d{cell.dim}' if headed else ''}" for cell in data.itertuples()]


def _bar(axes: Axes, cell: pd.Series, y: float) -> None:
    """The interval and the estimate, which is hollow unless it is significant."""
    colour = style.colour(cell["method"])
    if not np.isnan(cell["low"]):
        axes.plot([cell["low"], cell["high"]], [y, y], color=colour, lw=1.1, solid_capstyle="butt", zorder=2)
    axes.plot(
        cell["estimate"], y, ls="", marker=style.marker(cell["method"]), color=colour, ms=style.size(cell["method"]),
        mew=0.6, mfc=colour if cell["significant"] else "white", zorder=3,
    )  # fmt: skip


def _numbers(cell: pd.Series) -> str:
    estimate, low, high = (f"{round(cell[name], 1) + 0.0:+.1f}" for name in ("estimate", "low", "high"))
    return estimate if np.isnan(cell["low"]) else f"{estimate} [{low}, {high}]"


def _verdict(cell: pd.Series) -> str:
    if np.isnan(cell["low"]):
        return "not tested"
    if not cell["significant"]:
        return "indistinguishable from its control"
    return f"significantly {'above' if cell['estimate'] > 0 else 'below'} its control"
