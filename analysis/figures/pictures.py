"""Reconstructions and samples of each method's shown run, its best by validation."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis import style
from analysis.figure import Figure
from analysis.tables import DECODERS, Column, slug

if TYPE_CHECKING:
    from analysis.models import Shown

ACROSS = 10
"""Pictures in a line: as many as fit in a printed column with strokes still visible."""

_GUTTER_IN = 0.6
_GAP = 0.06
"""White space between pictures, as a fraction of their side."""


def picture_figures(shown: Sequence[Shown]) -> list[Figure]:
    """For each data set, dim and decoder a figure of reconstructions and one of samples, a line for each method.

    Args:
        shown: the runs of `analysis.models.Models`, in the order in which they are drawn.

    Returns:
        Figures whose data have a row for each picture: method, order, method_label, seed, run_key, image (its index),
        and of pixels in 0..1 a reconstruction's mse or a sample's mean.
    """
    found = []
    for column, runs in groupby(shown, key=lambda run: run.column):
        of = list(runs)
        found += [_reconstructions(column, of), _samples(column, of)]
    return found


@style.printed()
def _reconstructions(column: Column, runs: list[Shown]) -> Figure:
    first = runs[0].images[:ACROSS].numpy()
    same = all(np.array_equal(run.images[:ACROSS].numpy(), first) for run in runs)
    lines: list[tuple[str, np.ndarray]] = [("test images", first)] if same else []
    data = []
    for run in runs:
        images, made = run.images[:ACROSS].numpy(), run.reconstructions[:ACROSS].numpy()
        if not same:
            lines.append(("test images", images))
        lines.append((run.row.label, made))
        errors = ((made / 255.0 - images[: len(made)] / 255.0) ** 2).mean((1, 2, 3))
        data += [{**_identity(run), "image": i, "mse": error} for i, error in enumerate(errors)]
    frame = pd.DataFrame(data)
    means = frame.groupby("method_label", sort=False)["mse"].mean()
    where = "in the top line" if same else "in the line above each method"
    return Figure(
        name=f"reconstructions-{slug_of(column)}",
        title=f"Reconstructions: {words_of(column)}",
        caption=(
            f"The first test images ({where}), and their reconstructions by each method's best run by validation: "
            "decoder means at one draw of q(z|x)."
        ),
        alt=(
            "Test images and their reconstructions by each method. Mean squared errors of pixels in 0..1: "
            + ", ".join(f"{name} {value:.3f}" for name, value in means.items())
            + "."
        ),
        drawing=_lines(lines),
        data=frame,
        dataset=column.dataset,
    )


@style.printed()
def _samples(column: Column, runs: list[Shown]) -> Figure:
    data = []
    for run in runs:
        means = run.samples[:ACROSS].numpy().mean((1, 2, 3)) / 255
        data += [{**_identity(run), "image": i, "mean": mean} for i, mean in enumerate(means)]
    return Figure(
        name=f"samples-{slug_of(column)}",
        title=f"Samples: {words_of(column)}",
        caption=(
            "Samples of each method's best run by validation: decoder means at draws of the prior, without pixel "
            "noise. The draws differ between runs."
        ),
        alt=f"A line of generated images for each of {', '.join(run.row.label for run in runs)}.",
        drawing=_lines([(run.row.label, run.samples[:ACROSS].numpy()) for run in runs]),
        data=pd.DataFrame(data),
        dataset=column.dataset,
    )


def _lines(lines: Sequence[tuple[str, np.ndarray]]):
    """A drawing of labelled lines of images, each uint8 (n, C, H, W)."""
    across = max(len(images) for _, images in lines)
    side = (style.COLUMN_IN - _GUTTER_IN) / across
    drawing = style.drawing(height=side * len(lines) + 0.04)
    drawing.set_layout_engine("none")
    width, height = style.COLUMN_IN, side * len(lines) + 0.04
    for place, (label, images) in enumerate(lines):
        bottom = height - 0.02 - side * (place + 1)
        drawing.text(
            (_GUTTER_IN - 0.05) / width, (bottom + side / 2) / height, label, ha="right", va="center", size=6.5
        )
        for i, image in enumerate(images):
            left, inner = _GUTTER_IN + side * (i + _GAP / 2), side * (1 - _GAP)
            ax = drawing.add_axes((left / width, (bottom + side * _GAP / 2) / height, inner / width, inner / height))
            ax.set_axis_off()
            show_image(ax, image)
    return drawing


def show_image(ax: Axes, pixels: np.ndarray) -> None:
    """Draw a uint8 image (C, H, W), grey or in colour, without interpolation."""
    if len(pixels) == 1:
        ax.imshow(pixels[0], cmap="gray", vmin=0, vmax=255, interpolation="none")
    else:
        ax.imshow(pixels.transpose(1, 2, 0), interpolation="none")


def _identity(run: Shown) -> dict[str, object]:
    return {"method": run.row.method, "order": run.row.order, "method_label": run.row.label, "seed": run.seed,
            "run_key": run.run_key}  # fmt: skip


def slug_of(column: Column) -> str:
    """`mnist-d10-conv`, for a file name."""
    return f"{slug(column.dataset_label)}-d{column.dim}-{slug(column.decoder)}"


def words_of(column: Column) -> str:
    """`MNIST, dim 10, convolutional decoder`."""
    return f"{column.dataset_label}, dim {column.dim}, {DECODERS.get(column.decoder, column.decoder)}"
