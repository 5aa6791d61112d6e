"""For models with two latents: the true posterior of a few images and, over it, each method's q(z|x)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Ellipse

from analysis import style
from analysis.figure import Figure, Mark
from analysis.figures.pictures import show_image
from analysis.tables import DECODERS, Column, slug

if TYPE_CHECKING:
    from analysis.measures import Panel

MASSES = (0.99, 0.9, 0.5)
"""Masses of the regions of highest true posterior density, which are shaded; the outermost first."""

Q_MASSES = (0.9, 0.5)
"""Masses of q's regions of highest density, which are outlined."""

_GREYS = ("#ebebeb", "#d2d2d2", "#a8a8a8")
_GUTTER_IN = 0.55

_LABEL = (0.23, 0.1)
"""Width and height of a weight's label, as fractions of its panel."""

_CORNERS = ((0.0, 0.0, 0.5, 0.16), (0.66, 0.86, 1.0, 1.0))
"""What no label covers, as fractions left, bottom, right, top: the scale bar and the KL divergence."""


def posterior_figures(panels: Sequence[Panel]) -> list[Figure]:
    """A figure for each data set and decoder: a row for each method, a column for each image.

    Args:
        panels: of `analysis.measures.Measures`, run by run.

    Returns:
        Figures whose data have a row for each image and component of q (one row if q has no Gaussian components):
        method, order, method_label, seed, run_key, image; log_p and kl = KL(q || p(z|x)), nats, summed over the grid;
        q_outside, the mass of q outside the grid; and of the component weight, mean_1, mean_2, sd_1, sd_2.
    """
    found = []
    for column, of_column in groupby(panels, key=lambda panel: panel.shown.column):
        rows = [list(of_run) for _, of_run in groupby(of_column, key=lambda panel: panel.shown.run_key)]
        found.append(_figure(column, rows))
    return found


@style.printed()
def _figure(column: Column, rows: list[list[Panel]]) -> Figure:
    across = max(len(row) for row in rows)
    same = all(
        np.array_equal(row[i].pixels, rows[0][i].pixels) for row in rows for i in range(min(len(row), len(rows[0])))
    )
    side = (style.COLUMN_IN - _GUTTER_IN) / across
    heads = 1 if same else 0
    heights = [0.62] * heads + [1.0] * len(rows)
    drawing = style.drawing(height=side * sum(heights) + 0.05)
    drawing.set_layout_engine(ConstrainedLayoutEngine(w_pad=0.012, h_pad=0.012, wspace=0, hspace=0))
    widths = [_GUTTER_IN] + [side] * across
    axes = drawing.subplots(len(heights), across + 1, squeeze=False, width_ratios=widths, height_ratios=heights)
    for ax in axes.flat:
        ax.set_xticks([])
        ax.set_yticks([])
        ax.spines[:].set_visible(False)
    if same:
        for panel, ax in zip(rows[0], axes[0, 1:], strict=False):
            show_image(ax, panel.pixels.numpy())
    data = []
    marks: list[Mark] = []
    for row, line in zip(rows, axes[heads:], strict=True):
        line[0].text(1.0, 0.5, row[0].shown.row.label, ha="right", va="center", transform=line[0].transAxes, size=6.5)
        for panel, ax in zip(row, line[1:], strict=False):
            rows_of_panel = _panel(ax, panel)
            data += rows_of_panel
            marks += _marks(ax, rows_of_panel)
    frame = pd.DataFrame(data)
    kl = frame.drop_duplicates(["run_key", "image"]).groupby("method_label", sort=False)["kl"].mean()
    mixtures = (frame.groupby(["run_key", "image"]).size() > 1).any()
    components = (
        " With a cross: a mixture's components with their weights, ellipses of one standard deviation around the mean, "
        "the thicker the larger the weight." if mixtures else ""
    )  # fmt: skip
    images = "the images on top" if same else "each run's own first test images"
    return Figure(
        name=f"posteriors-{slug(column.dataset_label)}-{slug(column.decoder)}",
        title=f"True posteriors and q(z|x) at two latents: {column.dataset_label}, "
        f"{DECODERS.get(column.decoder, column.decoder)}",
        caption=(
            f"For {images}, under each method's best run by validation. Grey: the regions of highest density of the "
            f"true posterior p(z|x) that hold {_percents(MASSES[::-1])} of the mass, normalised on a grid; each model "
            f"has its own. Lines: the same for q(z|x), {_percents(Q_MASSES[::-1])}.{components} In the corner: "
            "KL(q || p), nats, the sum of both gaps. The bar is a length in z; panels have different scales."
        ),
        alt=(
            "Contours of q over those of the true posterior. Mean KL(q || p) over the images: "
            + ", ".join(f"{name} {value:.2g}" for name, value in kl.items())
            + " nats."
        ),
        drawing=drawing,
        data=frame,
        dataset=column.dataset,
        marks=marks,
    )


def _panel(ax: Axes, panel: Panel) -> list[dict[str, object]]:
    """Draw a panel. Returns the figure's data rows, one for each component of q."""
    shown = panel.shown
    first, second = panel.axes.numpy().astype(float)
    area = (first[1] - first[0]) * (second[1] - second[0])
    log_p, log_q = panel.log_posterior.numpy().astype(float), panel.log_q.numpy().astype(float)
    p, q = np.exp(log_p), np.exp(log_q)
    colour = style.colour(shown.row.method)
    ax.spines[:].set_visible(True)
    ax.spines[:].set(color="#bbbbbb", linewidth=0.4)
    levels = _levels(p, MASSES)
    ax.contourf(first, second, p.T, levels=[*levels, p.max() * 1.001], colors=_GREYS)
    ax.contour(first, second, q.T, levels=_levels(q, Q_MASSES), colors=[colour], linewidths=[0.5, 0.9])
    edges = [(a[0] - (a[1] - a[0]) / 2, a[-1] + (a[1] - a[0]) / 2) for a in (first, second)]
    weights, means, deviations = (t.numpy().astype(float) for t in (panel.weights, panel.means, panel.deviations))
    if len(weights) > 1:
        for weight, mean, deviation in zip(weights, means, deviations, strict=True):
            ax.add_patch(Ellipse(mean, *(2 * deviation), fill=False, ec="black", lw=0.25 + 0.6 * weight))
            ax.plot(*mean, "+", color="black", ms=2.2, mew=0.25 + 0.6 * weight)
        inside = (q >= _levels(q, Q_MASSES)[0]) | _in_ellipses(first, second, means, deviations)
        _write_weights(ax, weights, means, 3.0 * inside + (p >= levels[0]), edges)
    ax.set_xlim(*edges[0])
    ax.set_ylim(*edges[1])
    ax.set_aspect("equal", anchor="W")
    kl = float((q * np.where(q > 0, log_q - log_p, 0.0)).sum() * area)
    ax.text(
        0.96,
        0.96,
        f"{kl:.{max(0, 2 - len(str(int(abs(kl)))) + 1)}f}",
        transform=ax.transAxes,
        ha="right",
        va="top",
        size=5,
    )
    _scale_bar(ax, edges[0])
    of_panel: dict[str, object] = {
        "method": shown.row.method, "order": shown.row.order, "method_label": shown.row.label, "seed": shown.seed,
        "run_key": shown.run_key, "image": panel.image, "log_p": panel.log_p, "kl": kl,
        "q_outside": max(0.0, 1 - float(q.sum() * area)),
    }  # fmt: skip
    if not len(weights):
        return [of_panel]
    return [
        {**of_panel, "weight": w, "mean_1": m[0], "mean_2": m[1], "sd_1": d[0], "sd_2": d[1]}
        for w, m, d in zip(weights, means, deviations, strict=True)
    ]


def _marks(ax: Axes, rows: list[dict]) -> list[Mark]:
    """A mark at the mean of each component; none without components."""
    found = []
    for m, row in enumerate(rows):
        if "weight" not in row:
            continue
        which = f"component {m}, weight {row['weight']:.3f}" if len(rows) > 1 else "one component"
        mean = f"mean ({row['mean_1']:.2f}, {row['mean_2']:.2f}), sd ({row['sd_1']:.2f}, {row['sd_2']:.2f})"
        said = (f"dim 2, seed {row['seed']}, image {row['image']}", which, mean, f"KL(q || p) {row['kl']:.2f} nats")
        found.append(Mark(ax, row["mean_1"], row["mean_2"], str(row["method_label"]), said))
    return found


def _in_ellipses(first: np.ndarray, second: np.ndarray, means: np.ndarray, deviations: np.ndarray) -> np.ndarray:
    """Which points of the grid are inside an ellipse, or on its outline: (n, m)."""
    away = [((first - mean[0]) / sd[0])[:, None] ** 2 + ((second - mean[1]) / sd[1])[None] ** 2
            for mean, sd in zip(means, deviations, strict=True)]  # fmt: skip
    return np.min(away, axis=0) <= 1.1**2


def _write_weights(ax: Axes, weights: np.ndarray, means: np.ndarray, busy: np.ndarray, edges: list) -> None:
    """Write each component's weight where it covers little, with a line to its mean if that is not near.

    Args:
        ax: the panel.
        weights: (M,). Of components whose mean is outside the window nothing is written.
        means: (M, 2).
        busy: (n, m), over the panel: how bad it is to cover a point.
        edges: of the window, in both directions.
    """
    low = np.array([edge[0] for edge in edges])
    size = np.array([edge[1] - edge[0] for edge in edges])
    across, up = np.meshgrid(np.linspace(0, 1 - _LABEL[0], 21), np.linspace(0, 1 - _LABEL[1], 25), indexing="ij")
    corners = np.stack([across.ravel(), up.ravel()], axis=1)  # the lower left corner of each place for a label
    covered = np.array([
        busy[int(x * len(busy)) : int((x + _LABEL[0]) * len(busy)) + 1,
             int(y * busy.shape[1]) : int((y + _LABEL[1]) * busy.shape[1]) + 1].mean()
        for x, y in corners
    ])  # fmt: skip
    taken = [*_CORNERS]
    for i in np.argsort(-weights, kind="stable"):
        mean = (means[i] - low) / size
        if not ((mean > 0) & (mean < 1)).all():
            continue
        distance = np.hypot(*(corners + np.array(_LABEL) / 2 - mean).T)
        cost = covered + distance + 100.0 * np.any([_overlap(corners, box) for box in taken], axis=0)
        best = corners[np.argmin(cost)]
        taken.append((best[0], best[1], best[0] + _LABEL[0], best[1] + _LABEL[1]))
        near = np.clip(mean, best, best + np.array(_LABEL))
        if np.hypot(*(near - mean)) > 0.08:
            ax.plot(*np.stack([near, mean], axis=1), transform=ax.transAxes, color="black", lw=0.25, alpha=0.6)
        x, y = best + np.array(_LABEL) / 2
        ax.text(x, y, f"{weights[i]:.2f}", transform=ax.transAxes, size=4.5, va="center", ha="center")


def _overlap(corners: np.ndarray, box: tuple[float, float, float, float]) -> np.ndarray:
    """For each lower left corner, (n, 2), whether a label there overlaps the box."""
    left, bottom, right, top = box
    x, y = corners.T
    return (x < right) & (x + _LABEL[0] > left) & (y < top) & (y + _LABEL[1] > bottom)


def _levels(density: np.ndarray, masses: Sequence[float]) -> list[float]:
    """The densities above which these fractions of the window's mass lie; masses descend, so densities ascend."""
    ordered = np.sort(density, axis=None)[::-1]
    held = np.cumsum(ordered) / ordered.sum()
    levels = [float(ordered[np.searchsorted(held, mass)]) for mass in masses]
    for i in range(1, len(levels)):  # matplotlib's contours need increasing levels
        levels[i] = max(levels[i], np.nextafter(levels[i - 1], np.inf))
    return levels


def _scale_bar(ax: Axes, edge: tuple[float, float]) -> None:
    """Draw a bar of the largest length 1, 2 or 5 x 10^k that is at most 40% of the width."""
    width = edge[1] - edge[0]
    power = 10 ** np.floor(np.log10(0.4 * width))
    length = max(step * power for step in (1, 2, 5) if step * power <= 0.4 * width)
    ax.plot(
        [0.05, 0.05 + length / width],
        [0.05, 0.05],
        transform=ax.transAxes,
        color="black",
        lw=0.8,
        solid_capstyle="butt",
    )
    ax.text(0.05, 0.07, f"{length:g}", transform=ax.transAxes, size=4.5, va="bottom")


def _percents(masses: Sequence[float]) -> str:
    words = [f"{100 * mass:.0f}" for mass in masses]
    return f"{', '.join(words[:-1])} and {words[-1]}%"
