"""Chooses each run's best restart by validation IWAE, and scores only that one on the test set."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from rme import evaluate, noise
from rme.config import RunSpec
from rme.device import environment
from rme.engine import DivergedError, Engine
from rme.methods.base import Method
from rme.model_file import as_method
from rme.result import Result
from rme.training import Trained, trained

PICTURES = 16
"""Number of reconstructed test images, and of samples, in a result."""

KEPT = 64
"""Number of test images in a result."""


def results(engine: Engine) -> dict[str, Result | DivergedError]:
    """Validate every member, choose each run's best restart, and score that one on the test set; by run key.

    A run has a DivergedError instead of a result if none of its restarts has a finite validation score.
    """
    tests = {member.spec.key: engine.test_index[i] for i, member in enumerate(engine.members)}
    return choose(trained(engine), engine.test_pixels, tests)


def choose(
    members: Sequence[Trained],
    test_pixels: Tensor,
    tests: Mapping[str, Tensor],
    instead: Mapping[str, Tensor] | None = None,
) -> dict[str, Result | DivergedError]:
    """As `results`, for trained members. Only here are test images used.

    Args:
        members: run by run, restart by restart.
        test_pixels: uint8 images, on the device on which to score.
        tests: by run key, the indices of the run's test set in `test_pixels`.
        instead: without a test set, by run key other uint8 images to reconstruct and to time inference with; then there
            are no test scores.
    """
    found: dict[str, Result | DivergedError] = {}
    device = test_pixels.device
    for key, index in tests.items():
        own = [each for each in members if each.member.spec.key == key]
        spec = own[0].member.spec
        val_iwae = torch.stack([each.val_iwae for each in own])
        try:
            chosen = best_restart(val_iwae)
        except DivergedError as error:
            reason = own[0].diverged or f"{spec.run_name}: {error}; the learning rate was {spec.rate:g}"
            found[key] = DivergedError(reason)
            continue
        model = as_method(spec, own[chosen].model).to(device)
        if instead is None:
            test_iwae, test_elbo = _test_scores(spec, chosen, model, test_pixels, index)
            pixels = test_pixels[index]
        else:
            test_iwae = test_elbo = torch.empty(0, dtype=torch.float64)
            pixels = instead[key]
        pictures = noise.generator(spec.seed, chosen, noise.PICTURES, device)
        found[key] = Result(
            spec=spec,
            chosen=chosen,
            models=[each.model for each in own],
            val_iwae=val_iwae,
            val_elbo=torch.stack([each.val_elbo for each in own]),
            kept_epochs=torch.stack([each.kept_epoch for each in own]),
            test_iwae=test_iwae,
            test_elbo=test_elbo,
            inference_ms=evaluate.inference_ms(model, pixels, pictures),
            train_s=sum(each.seconds for each in own),
            updates=own[0].updates,
            losses=torch.stack([each.losses for each in own], -1),
            history_elbo=torch.stack([each.history_elbo for each in own], -1),
            diagnostics=_stacked([each.diagnostics for each in own]),
            finished_at=own[chosen].finished_at,
            reconstructions=evaluate.reconstructions(model, pixels[:PICTURES], pictures).cpu(),
            samples=evaluate.prior_samples(model, PICTURES, pictures).cpu(),
            test_images=pixels[:KEPT].cpu(),
            environment=environment(device) | {"members": str(own[chosen].array)},
        )
    return found


def _test_scores(spec: RunSpec, restart: int, model: Method, pixels: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """IWAE and ELBO of each test image, (n,) nats each, on the CPU."""
    found = evaluate.scores(
        model,
        pixels,
        index.unsqueeze(0),
        samples=spec.iwae_samples,
        generators=[noise.generator(spec.seed, restart, noise.EVALUATE, pixels.device)],
    )
    return found.iwae[0].cpu(), found.elbo[0].cpu()


def _stacked(restarts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The restarts' diagnostics by name, (E, R) each; NaN for a restart that diverged before the first measurement."""
    found: dict[str, Tensor] = {}
    for name in dict.fromkeys(name for each in restarts for name in each):
        known = next(each[name] for each in restarts if name in each)
        missing = torch.full_like(known, math.nan)
        found[name] = torch.stack([each.get(name, missing) for each in restarts], -1)
    return found


def best_restart(val_iwae: Tensor) -> int:
    """Index of the best finite validation score (section 1.4). Raises DivergedError if none is finite."""
    finite = torch.where(val_iwae.isfinite(), val_iwae, -torch.inf)
    if not finite.isfinite().any():
        raise DivergedError(f"none of {len(val_iwae)} restarts has a finite validation score")
    return int(finite.argmax())
