"""Measures each cell's shown run, its best by validation: gaps, IWAE by number of samples, posteriors on a grid.

The results are cached in a folder, a safetensors file for each run; later reports only read them.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from analysis.duration import duration
from analysis.models import ModelError, Models, Note, Shown
from analysis.progress import Steps
from analysis.stats import KEY_TYPES
from analysis.words import counted
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


def measure(models: Models, budget: Budget, cache: Path, steps: Steps | None = None) -> Measures:
    """Measure every shown run that is not in the cache, within the budget's time.

    Ctrl-C ends the measuring: the run at hand and those after it are noted as not computed yet.

    Args:
        models: from `analysis.models.shown_models`.
        budget: how much to compute for each run, and for how long in all.
        cache: folder of the results; created if missing.
        steps: is told what will be measured and about how long that takes, and then each run.

    Raises:
        OSError: the cache cannot be written.
    """
    cache.mkdir(parents=True, exist_ok=True)
    notes: list[Note] = []
    gap_rows, growth_rows, panels = [], [], []
    found, failures = _numbers(models.shown, budget, cache, steps or Steps())
    for shown in models.shown:
        if shown.run_key not in found:
            reason = failures.get(shown.run_key, "not computed yet")
            notes.append(Note(shown.column, shown.row, reason))
            continue
        numbers = found[shown.run_key]
        run = identity(shown)
        table = {name: numbers[name].tolist() for name in _GAPS}
        gap_rows.append(
            pd.DataFrame({**run, "image": range(len(numbers["elbo"])), **table, "gain": numbers["gain"].item()})
        )
        growth = {"samples": budget.counts, "iwae": numbers["iwae"].tolist(), "error": numbers["iwae_error"].tolist()}
        growth_rows.append(pd.DataFrame({**run, **growth, "images": len(numbers["elbo"])}))
        panels += _panels(shown, numbers)
    return Measures(_joined(gap_rows), _joined(growth_rows), panels, notes)


def _numbers(
    runs: Sequence[Shown], budget: Budget, cache: Path, steps: Steps
) -> tuple[dict[str, dict[str, Tensor]], dict[str, str]]:
    """By run key: the numbers, from the cache or computed, and the reasons of those that failed."""
    paths = {shown.run_key: cache / f"{shown.run_key}-{_digest(shown, budget)}.safetensors" for shown in runs}
    found = {key: numbers for key, path in paths.items() if (numbers := _cached(path)) is not None}
    failures: dict[str, str] = {}
    missing = [shown for shown in runs if shown.run_key not in found]
    if missing:
        steps.say(_forecast(missing, len(found), budget))
    began = time.monotonic()
    for i, shown in enumerate(missing):
        if budget.minutes is not None and time.monotonic() - began > 60 * budget.minutes:
            left = len(missing) - i
            steps.say(f"{budget.minutes:g} min are over: {left} of {len(missing)} are left for the next report")
            break
        start = time.monotonic()
        to_go = f", about {duration((start - began) / i * (len(missing) - i))} to go" if i else ""
        steps.slow(f"measuring {i + 1} of {len(missing)}: {_name(shown)}{to_go}", i, len(missing))
        try:
            numbers = _compute(shown, budget)
            _write(numbers, paths[shown.run_key])
        except (ModelError, TypeError) as error:  # TypeError: a posterior of a family that `gaps` does not know
            failures[shown.run_key] = str(error)
            continue
        except KeyboardInterrupt:
            steps.say(f"interrupted: {i} of {len(missing)} are measured; the next report continues with the rest")
            break
        found[shown.run_key] = numbers
        steps.say(f"measured {_name(shown)} in {duration(time.monotonic() - start)}")
    return found, failures


def _name(shown: Shown) -> str:
    decoder = "" if shown.column.decoder == "conv" else f" {shown.column.decoder}"
    return f"{shown.column.dataset_label} d{shown.column.dim}{decoder} {shown.row.label}"


_SECONDS, _PER_PIXEL = 12.0, 0.023
"""Seconds for a model on one core, and more for each pixel and channel: half a minute for MNIST, five for CelebA."""


def _forecast(missing: Sequence[Shown], cached: int, budget: Budget) -> str:
    """What will be measured, and about how long that takes on one core."""
    share = budget.images * budget.samples / (Budget.images * Budget.samples)
    seconds = share * sum(_SECONDS + _PER_PIXEL * shown.images[0].numel() for shown in missing)
    limit = "" if budget.minutes is None else f", no model is started after {budget.minutes:g} min"
    already = f", {cached} are measured already" if cached else ""
    models = counted(len(missing), "model")
    return (
        f"to measure: {models}, the best run of each cell by validation{already}; about {duration(seconds)} on one "
        f"core{limit}; Ctrl-C writes the report with what is measured"
    )


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
