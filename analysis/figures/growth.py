"""The IWAE bound by the number of samples K, which shows how far it still rises beyond the scores' K = 100."""

from __future__ import annotations

import pandas as pd

from analysis import style
from analysis.figure import Figure, Mark
from analysis.figures.common import mark
from analysis.figures.gaps import COLUMN
from analysis.figures.pictures import slug_of, words_of
from analysis.tables import to_column


def growth_figures(growth: pd.DataFrame) -> list[Figure]:
    """A figure for each data set, dim and decoder.

    Args:
        growth: a row for each run and K, as in `analysis.measures.Measures`.

    Returns:
        Figures whose data are those rows, and above_elbo, nats above the run's bound with one sample, its ELBO.
    """
    return [_figure(rows) for _, rows in growth.groupby(COLUMN, sort=False)] if len(growth) else []


@style.printed()
def _figure(growth: pd.DataFrame) -> Figure:
    column = to_column(growth.iloc[0])
    elbo = growth.groupby("run_key")["iwae"].transform("first")
    data = growth.drop(columns=COLUMN).assign(above_elbo=growth["iwae"] - elbo)
    drawing = style.drawing(height=3.5)
    level, grown = drawing.subplots(2, 1, sharex=True)
    ends = []
    marks: list[Mark] = []
    orders: dict[str, list] = {}
    for _, run in data.groupby("run_key", sort=False):
        method, name = str(run["method"].iloc[0]), str(run["method_label"].iloc[0])
        seen = orders.setdefault(method, [])
        seen.append(name)
        place = len(seen) - 1
        look = {**mark(method, 2.6, place=place), "ls": style.dashes(place), "lw": 0.8}
        level.plot(run["samples"], run["iwae"], **look, label=name)
        grown.plot(run["samples"], run["above_elbo"], **look)
        for point in run.to_dict("records"):
            said = (f"dim {column.dim}, seed {point['seed']}, K = {point['samples']:,}", f"{point['iwae']:.2f} nats",
                    f"{point['above_elbo']:+.2f} nats above the ELBO")  # fmt: skip
            marks += [Mark(level, point["samples"], point["iwae"], name, said),
                      Mark(grown, point["samples"], point["above_elbo"], name, said)]  # fmt: skip
        ends.append((name, run["iwae"].iloc[-1], run["above_elbo"].iloc[-1]))
    for axes in (level, grown):
        axes.set_xscale("log")
        axes.axvline(100, color="#999999", lw=0.6, ls=":", zorder=0)
    level.set_ylabel("IWAE, nats per image")
    grown.set_ylabel("above the ELBO, nats")
    grown.set_xlabel("importance samples K (dotted: the paper's 100)")
    counts = data["samples"].unique()
    ticks = [10**power for power in range(9) if counts.min() <= 10**power <= counts.max()]
    grown.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    columns = -(-len(ends) // -(-len(ends) // 4))  # at most 4, with rows as even as possible
    drawing.legend(loc="outside upper center", ncols=columns, handlelength=2.2, columnspacing=1.2)
    images = int(data["images"].max())
    at_100 = data[data["samples"] == 100].set_index("method_label")["iwae"]
    left = {name: end - at_100[name] for name, end, _ in ends if name in at_100 and data["samples"].max() > 100}
    grows = (
        f" Beyond K = 100 it rises by another {min(left.values()):.2g} to {max(left.values()):.2g} nats."
        if left
        else ""
    )
    most = max(ends, key=lambda end: end[2])
    best = max(ends, key=lambda end: end[1])
    return Figure(
        name=f"growth-{slug_of(column)}",
        title=f"IWAE by number of samples K: {words_of(column)}",
        caption=(
            f"Means over the first {images} test images of each method's best run by validation. Top: the bound; "
            "bottom: the bound minus the ELBO, which is the bound with one sample. For every K the same draws of "
            "q(z|x) are split into disjoint groups of K. Monte-Carlo errors of the means are at most "
            f"{data['error'].max():.2g} nats.{grows}"
        ),
        alt=(
            f"Lines that rise with K. At K = {data['samples'].max()} {best[0]} is highest, {best[1]:.1f} nats; "
            f"{most[0]} has risen most above its ELBO, by {most[2]:.1f} nats."
        ),
        drawing=drawing,
        data=data,
        dataset=column.dataset,
        marks=marks,
    )
