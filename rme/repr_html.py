"""What a notebook shows of a run's settings, a model and a result: HTML without scripts."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rme.images import as_bytes

if TYPE_CHECKING:
    from rme.config import RunSpec
    from rme.model import Model
    from rme.result import Result

PICTURES = 8
"""How many images are shown in a row."""

HEIGHT = 48
"""Of a shown image, in pixels of the screen."""

CURVE = (240, 60)
"""Width and height of a curve, in pixels of the screen."""


def of_spec(spec: RunSpec) -> str:
    """The run's name, and the settings that affect it."""
    given = {name: value for name, value in _settings(spec).items() if value != "None"}
    return f"<b>{escape(spec.run_name)}</b>{_table(given)}"


def _settings(spec: RunSpec) -> dict[str, str]:
    try:
        return spec.params
    except ValueError:  # a user's own images, which are not on this machine: the key's fields cannot be listed
        return {name: str(getattr(spec, name)) for name in ("method", "order", "dataset", "dim", "decoder", "seed")}


def of_model(model: Model) -> str:
    """Scores, the curve of the validation ELBO, and test images above their reconstructions; else samples."""
    shape = " x ".join(map(str, model.image_shape))
    about = {"run": model.key, "restart": str(model.restart), "device": str(model.device), "images": shape}
    if len(model.shown):
        images = model.shown[:PICTURES]
        pictures = _pictures([images, as_bytes(model.reconstruct(images))], "test images above their reconstructions")
    else:
        pictures = _pictures([as_bytes(model.sample(PICTURES))], "samples")
    return (
        f"<b>{escape(model.spec.run_name)}</b>"
        f"{_table(_scores(model.metrics) | about)}{_curve(model.val_elbo)}{pictures}"
    )


def of_result(result: Result) -> str:
    """Scores, the chosen restart's curve of the validation ELBO, and test images above their reconstructions."""
    kept = f"restart {result.chosen} of {len(result.models)}, epoch {int(result.kept_epochs[result.chosen])}"
    about = {"kept": kept, "trained in": f"{result.train_s:.0f} s on {result.environment['device']}"}
    images, made = result.reconstructions[:, :PICTURES]
    return (
        f"<b>{escape(result.spec.run_name)}</b>{_table(_scores(result.metrics) | about)}"
        f"{_curve(result.history_elbo[:, result.chosen])}"
        f"{_pictures([images, made], 'images above their reconstructions')}"
    )


def _scores(metrics: Mapping[str, float]) -> dict[str, str]:
    names = {"test/iwae": "test IWAE", "test/elbo": "test ELBO", "val/iwae": "validation IWAE"}
    return {text: f"{metrics[name]:.2f} nats per image" for name, text in names.items() if name in metrics}


def _table(rows: Mapping[str, str]) -> str:
    cells = "".join(
        f'<tr><td style="text-align:left">{escape(name)}</td><td style="text-align:left">{escape(value)}</td></tr>'
        for name, value in rows.items()
    )
    return f"<table>{cells}</table>"


def _curve(elbo: Tensor) -> str:
    """The validation ELBO by epoch as a line, with its first and last measured value; nothing for fewer than two."""
    points = [(epoch, value) for epoch, value in enumerate(elbo.tolist(), 1) if math.isfinite(value)]
    if len(points) < 2:
        return ""
    (width, height), values = CURVE, sorted(value for _, value in points)
    # the lowest tenth is cut off, because the first epochs would flatten the rest
    low, high = values[len(values) // 10], values[-1]
    last = points[-1][0]
    line = " ".join(
        f"{epoch / last * width:.1f},{height - (max(value, low) - low) / ((high - low) or 1) * height:.1f}"
        for epoch, value in points
    )
    drawing = (
        f'<svg width="{width}" height="{height}" style="overflow:visible"><polyline points="{line}" fill="none" '
        'stroke="currentColor" stroke-width="1.5"/></svg>'
    )
    text = f"validation ELBO by epoch, from {points[0][1]:.1f} to {points[-1][1]:.1f} nats after {last}"
    return f"<div>{drawing}<br><small>{text}</small></div>"


def _pictures(rows: list[Tensor], caption: str) -> str:
    """Rows of uint8 images (n, C, H, W) as one picture."""
    from rme.pictures import png  # late: it needs pillow, which a bare machine may lack

    across = len(rows[0])
    content = png(torch.cat([row.cpu() for row in rows]).numpy(), across)
    source = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    return (
        f'<div><img src="{source}" style="height:{HEIGHT * len(rows)}px;image-rendering:pixelated" '
        f'alt="{escape(caption)}"><br><small>{escape(caption)}</small></div>'
    )
