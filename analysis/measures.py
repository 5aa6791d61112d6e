"""Measures each cell's shown run, its best by validation: gaps, IWAE by number of samples, posteriors on a grid.

The results are cached in a folder, a safetensors file for each run; later reports only read them.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from analysis.models import ModelError, Models, Note, Shown
from analysis.stats import KEY_TYPES
from rme import noise
from rme.device import pick_device
from rme.distributions import DiagonalGaussian, Mixture
from rme.inference_gaps import STEPS, gaps, iwae_by_samples
from rme.methods import Method
from rme.noise import Noise
from rme.posterior_grid import grids

VERSION = 1
"""To be incremented when what is computed changes, so that older cache files are ignored."""

IDENTITY = [
    "dataset", "dataset_label", "dim", "decoder", "method", "order", "variant", "method_label", "seed", "run_key",
]  # fmt: skip
"""The columns that identify a row's run."""

_GAPS = ["log_p", "best_elbo", "elbo", "log_p_error", "best_elbo_error", "elbo_error"]


@dataclass(frozen=True)
class Budget:
    """How much is computed.

    Attributes:
        images: test images for each model.
        samples: draws for each image, which is also the largest K of IWAE.
        steps: optimisation steps towards the best posterior of the method's family.
        panels: images whose posterior is computed on a grid, if the model has two latents.
        minutes: time after which no further model is started; the next report continues. None: no limit.
    """

    images: int = 64
    samples: int = 1000
    steps: int = STEPS
    panels: int = 4
    minutes: float | None = 10.0

    @property
    def counts(self) -> list[int]:
        """The K of IWAE: 1, 2, 5, 10, ... and `samples`."""
        rising = [step * 10**power for power in range(9) for step in (1, 2, 5)]
        return [count for count in rising if count < self.samples] + [self.samples]


@dataclass(frozen=True)
class Panel:
    """The posterior of one image under a model with two latents.

    Attributes:
        shown: the model's run.
        image: index of the image among the run's test images; pixels: the image, uint8 (C, H, W).
        axes: (2, side), the grid's coordinates; log_posterior, log_q: (side, side), log p(z|x) and log q(z|x) there.
        log_p: log p(x), nats.
        weights, means, deviations: (K,), (K, 2), (K, 2), the components of q; K = 0 if q is neither a diagonal Gaussian
            nor a mixture of them.
    """

    shown: Shown
    image: int
    pixels: Tensor
    axes: Tensor
    log_posterior: Tensor
    log_q: Tensor
    log_p: float
    weights: Tensor
    means: Tensor
    deviations: Tensor


@dataclass(frozen=True)
class Measures:
    """What the figures show.

    Attributes:
        gaps: a row for each run and image. Columns: `IDENTITY`; image; log_p, best_elbo, elbo and their Monte-Carlo
            errors log_p_error, best_elbo_error, elbo_error, nats; gain, the ELBO that the optimisation's last tenth of
            steps gained, a mean over the run's images, nats.
        growth: a row for each run and K. Columns: `IDENTITY`; samples, which is K; iwae, the mean over images, and its
            Monte-Carlo error, nats; images, their number.
        panels: of models with two latents.
        notes: cells that could not be measured or are not measured yet.
    """

    gaps: pd.DataFrame
    growth: pd.DataFrame
    panels: list[Panel]
    notes: list[Note] = field(default_factory=list)


def measure(
    models: Models, budget: Budget, cache: Path, on_run: Callable[[Shown, float], None] | None = None
) -> Measures:
    """Measure every shown run that is not in the cache, within the budget's time.

    Args:
        models: from `analysis.models.shown_models`.
        budget: how much to compute for each run, and for how long in all.
        cache: folder of the results; created if missing.
        on_run: called with each run that was computed, and the seconds that it took.

    Raises:
        OSError: the cache cannot be written.
    """
    cache.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    notes: list[Note] = []
    gap_rows, growth_rows, panels = [], [], []
    for shown in models.shown:
        path = cache / f"{shown.run_key}-{_digest(shown, budget)}.safetensors"
        numbers = _cached(path)
        if numbers is None:
            if budget.minutes is not None and time.monotonic() - began > 60 * budget.minutes:
                notes.append(Note(shown.column, shown.row, "not computed yet"))
                continue
            start = time.monotonic()
            try:
                numbers = _compute(shown, budget)
            except (ModelError, TypeError) as error:  # TypeError: a posterior of a family that `gaps` does not know
                notes.append(Note(shown.column, shown.row, str(error)))
                continue
            _write(numbers, path)
            if on_run is not None:
                on_run(shown, time.monotonic() - start)
        run = identity(shown)
        table = {name: numbers[name].tolist() for name in _GAPS}
        gap_rows.append(
            pd.DataFrame({**run, "image": range(len(numbers["elbo"])), **table, "gain": numbers["gain"].item()})
        )
        growth = {"samples": budget.counts, "iwae": numbers["iwae"].tolist(), "error": numbers["iwae_error"].tolist()}
        growth_rows.append(pd.DataFrame({**run, **growth, "images": len(numbers["elbo"])}))
        panels += _panels(shown, numbers)
    return Measures(_joined(gap_rows), _joined(growth_rows), panels, notes)


def identity(shown: Shown) -> dict[str, object]:
    """The values of the columns `IDENTITY` for a run."""
    return {
        "dataset": shown.column.dataset, "dataset_label": shown.column.dataset_label, "dim": shown.column.dim,
        "decoder": shown.column.decoder, "method": shown.row.method, "order": shown.row.order,
        "variant": shown.row.variant, "method_label": shown.row.label, "seed": shown.seed, "run_key": shown.run_key,
    }  # fmt: skip


def _joined(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    if not frames:
        return pd.DataFrame(columns=IDENTITY)
    return pd.concat([frame.astype(KEY_TYPES) for frame in frames], ignore_index=True)


# ---------------------------------------------------------------------- one run
def _compute(shown: Shown, budget: Budget) -> dict[str, Tensor]:
    device = pick_device("auto")
    method = shown.load().to(device)
    generator = noise.generator(shown.seed, 0, noise.GAPS, device)
    source = Noise([generator], method.pixel_mean.dtype)
    x = method.centred(shown.images[: budget.images].unsqueeze(0).to(device))
    found = gaps(method, x, source, samples=budget.samples, steps=budget.steps)
    means, errors = iwae_by_samples(found.log_w, budget.counts)
    numbers = {name: getattr(found, name)[0] for name in _GAPS}
    numbers["gain"] = found.gain[0]
    numbers["iwae"] = means[:, 0].mean(-1)
    # NaN where K has one group of draws, which has no spread
    numbers["iwae_error"] = errors[:, 0].square().sum(-1).sqrt() / errors.shape[-1]
    if method.spec.dim == 2 and budget.panels:
        numbers |= _on_grid(method, x[:, : budget.panels], source)
    return {name: value.cpu().contiguous() for name, value in numbers.items()}


def _on_grid(method: Method, x: Tensor, source: Noise) -> dict[str, Tensor]:
    with torch.no_grad():
        q = method.posterior(x, source)
    found = grids(method, x, q, source)
    numbers = {
        "grid.axes": found.axes[0], "grid.log_p": found.log_p[0],
        "grid.log_posterior": found.log_posterior[0].float(), "grid.log_q": found.log_q[0].float(),
    }  # fmt: skip
    components, weights = None, None
    if isinstance(q, Mixture):
        components, weights = q.components, q.log_alpha[0].exp().mT  # (n, K)
    elif isinstance(q, DiagonalGaussian):
        components = DiagonalGaussian(q.mu.unsqueeze(1), q.logvar.unsqueeze(1))
        weights = torch.ones_like(q.mu[0, :, :1])
    if components is not None and weights is not None:
        numbers |= {"grid.weights": weights, "grid.means": components.mu[0].transpose(0, 1)}
        numbers["grid.deviations"] = torch.exp(0.5 * components.logvar[0]).transpose(0, 1)
    return numbers


def _panels(shown: Shown, numbers: dict[str, Tensor]) -> list[Panel]:
    if "grid.axes" not in numbers:
        return []
    none = {"grid.weights": torch.zeros(0), "grid.means": torch.zeros(0, 2), "grid.deviations": torch.zeros(0, 2)}
    return [
        Panel(
            shown=shown,
            image=image,
            pixels=shown.images[image],
            axes=numbers["grid.axes"][image],
            log_posterior=numbers["grid.log_posterior"][image],
            log_q=numbers["grid.log_q"][image],
            log_p=float(numbers["grid.log_p"][image]),
            **{
                name.removeprefix("grid."): numbers[name][image] if name in numbers else empty
                for name, empty in none.items()
            },
        )
        for image in range(len(numbers["grid.axes"]))
    ]


# ---------------------------------------------------------------------- the cache
def _digest(shown: Shown, budget: Budget) -> str:
    """A hash of what the numbers depend on. It has the run's MLflow id, as another recording may have another model."""
    sizes = {name: value for name, value in asdict(budget).items() if name != "minutes"}
    text = json.dumps([VERSION, shown.mlflow_run_id, sizes], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _cached(path: Path) -> dict[str, Tensor] | None:
    try:
        return load_file(path)
    except (OSError, SafetensorError):  # missing or truncated
        return None


def _write(numbers: dict[str, Tensor], path: Path) -> None:
    part = path.with_suffix(".part")
    save_file(numbers, part)
    os.replace(part, path)
