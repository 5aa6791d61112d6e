"""Stacked bars of each method's approximation gap and amortisation gap, the two parts of log p(x) - ELBO."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.patches import Patch

from analysis import style
from analysis.figure import Figure, Mark
from analysis.figures.pictures import slug_of, words_of
from analysis.tables import to_column

COLUMN = ["dataset", "dataset_label", "dim", "decoder"]

_PARTS = ("approximation", "amortisation")


def gap_figures(gaps: pd.DataFrame) -> list[Figure]:
    """A figure for each data set, dim and decoder.

    Args:
        gaps: a row for each run and image, as in `analysis.measures.Measures`; the runs in the order of the bars.

    Returns:
        Figures whose data have a row for each run: method, order, method_label, seed, run_key, images,
        approximation and amortisation (means over images, nats), approximation_se and amortisation_se (their standard
        errors over images), approximation_mc and amortisation_mc (their Monte-Carlo errors), log_p, and gain.
    """
    return [_figure(rows) for _, rows in gaps.groupby(COLUMN, sort=False)] if len(gaps) else []


def summarise_gaps(gaps: pd.DataFrame) -> pd.DataFrame:
    """Each run's means over images: the data of a figure."""
    found = []
    by = ["method", "order", "method_label", "seed", "run_key"]
    for key, of in gaps.groupby(by, sort=False, dropna=False):
        n = len(of)
        approximation, amortisation = of["log_p"] - of["best_elbo"], of["best_elbo"] - of["elbo"]

        def error(*names: str, of: pd.DataFrame = of) -> float:
            return float(np.sqrt(sum((of[name] ** 2).sum() for name in names))) / len(of)

        found.append({
            **dict(zip(by, key, strict=True)),
            "images": n,
            "approximation": approximation.mean(),
            "amortisation": amortisation.mean(),
            "approximation_se": approximation.std(ddof=1) / np.sqrt(n) if n > 1 else np.nan,
            "amortisation_se": amortisation.std(ddof=1) / np.sqrt(n) if n > 1 else np.nan,
            "approximation_mc": error("log_p_error", "best_elbo_error"),
            "amortisation_mc": error("best_elbo_error", "elbo_error"),
            "log_p": of["log_p"].mean(),
            "gain": of["gain"].iloc[0],
        })  # fmt: skip
    return pd.DataFrame(found)


@style.printed()
def _figure(gaps: pd.DataFrame) -> Figure:
    column = to_column(gaps.iloc[0])
    data = summarise_gaps(gaps)
    drawing = style.drawing(height=0.75 + 0.19 * len(data))
    axes = drawing.add_subplot()
    parts = [data[name].to_numpy(dtype=float) for name in _PARTS]
    total = parts[0] + parts[1]
    error = np.nan_to_num(np.hypot(*(data[f"{name}_se"].to_numpy(dtype=float) for name in _PARTS)))
    right = float((total + error).max())
    marks: list[Mark] = []
    for place, (method, label, seed) in enumerate(zip(data["method"], data["method_label"], data["seed"], strict=True)):
        first, second = parts[0][place], parts[1][place]
        colour = style.colour(method)
        axes.barh(place, first, height=0.62, color=colour, lw=0)
        axes.barh(place, second, left=first, height=0.62, facecolor=colour, alpha=0.3, lw=0)
        axes.barh(place, second, left=first, height=0.62, facecolor="none", edgecolor=colour, lw=0.6, hatch="////")
        # the whisker is of the total; the errors of each part are in the data
        axes.errorbar(total[place], place, xerr=error[place], color="black", lw=0.7, capsize=1.5, capthick=0.7)
        end = total[place] + error[place] + 0.015 * right
        axes.text(end, place, f"{first:.1f} + {second:.1f}", va="center", size=6)
        of = data.iloc[place]
        for name, ends in zip(_PARTS, ((0.0, first), (first, total[place])), strict=True):
            se = f" ± {of[f'{name}_se']:.2f} (one standard error)" if of["images"] > 1 else ""
            said = (f"dim {column.dim}, seed {seed}, {of['images']} images", f"{name} gap {of[name]:.2f} nats{se}")
            marks.append(Mark(axes, ends, place, label, said))
    axes.set_yticks(range(len(data)), data["method_label"])
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    axes.set_xlim(min(0.0, float(parts[0].min())), 1.2 * right)
    axes.set_xlabel("log p(x) − ELBO, nats per image")
    handles = [
        Patch(facecolor="#555555", label="approximation gap"),
        Patch(facecolor="#cccccc", edgecolor="#555555", hatch="////", lw=0.6, label="amortisation gap"),
    ]
    drawing.legend(handles=handles, loc="outside upper center", ncols=2, handlelength=1.6)
    images = int(data["images"].max())
    worst = max(data["approximation_mc"].max(), data["amortisation_mc"].max())
    names, least, most = list(data["method_label"]), int(total.argmin()), int(total.argmax())
    return Figure(
        name=f"gaps-{slug_of(column)}",
        title=f"Approximation and amortisation gaps: {words_of(column)}",
        caption=(
            f"Means over the first {images} test images of each method's best run by validation. Solid: the "
            "approximation gap, which the best posterior of the method's family, found for each image by gradient "
            "ascent, still has. Hatched: the amortisation gap, which the encoder's posterior has in addition (Cremer, "
            "Li and Duvenaud 2018). Each model has its own log p(x), so a smaller gap does not mean a higher "
            "likelihood. Whiskers: one standard error of the total over images; the gaps' Monte-Carlo errors are at "
            f"most {worst:.2g} nats. The last tenth of the optimisation changed the mean ELBO by at most "
            f"{data['gain'].abs().max():.2g} nats."
        ),
        alt=(
            f"Stacked bars. {names[least]} has the smallest total, {total.min():.1f} nats; {names[most]} "
            f"the largest, {total.max():.1f} nats, of which {parts[0][most]:.1f} are the approximation gap."
        ),
        drawing=drawing,
        data=data,
        dataset=column.dataset,
        finding=finding(data, words_of(column)),
        marks=marks,
    )


def finding(data: pd.DataFrame, where: str) -> str:
    """The gaps as a sentence: their ranges over the rows, then each row's.

    Args:
        data: of a figure, from `summarise_gaps`.
        where: the column in words.
    """
    approximation, amortisation = (_range(data[name]) for name in _PARTS)
    each = "; ".join(
        f"{row['method_label']} {row['approximation']:.1f} and {row['amortisation']:.1f}"
        for row in data.to_dict("records")
    )
    return (
        f"{where}: of log p(x) − ELBO, the approximation gap (which the best posterior of the method's family would "
        f"still have) is {approximation} nats, and the amortisation gap (due to the encoder) is {amortisation} nats: "
        f"{each}; means over {int(data['images'].max())} test images of one run each."
    )


def _range(values: pd.Series) -> str:
    low, high = f"{values.min():.1f}", f"{values.max():.1f}"
    return low if low == high else f"{low} to {high}"
