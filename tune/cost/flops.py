"""The relative cost of trials in FLOPs. They are counted, so the order of trials is the same on every machine."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from rme import data, nets, noise
from rme.config import RunSpec
from rme.engine import all_members
from rme.noise import Noise
from rme.step import Step
from rme.untrained import untrained

log = logging.getLogger(__name__)

DIM = 50
"""The latent dimension at which every method is counted. It changes the cost little."""


def array_flops(runs: Sequence[RunSpec]) -> float:
    """FLOPs of training an array of runs and scoring their validation and test images.

    They are counted on one image, once for each method, order, decoder and image shape, in a fraction of a second.
    """
    spec, members = runs[0], len(all_members(runs))
    dataset = data.get(spec.dataset)
    training, scoring, decoding = _per_image(
        spec.method, spec.order, spec.decoder, dataset.shape, tuple(sorted(spec.options.items()))
    )
    train, held_out, test = dataset.split_sizes
    scored = len(runs) * test + members * held_out
    return members * spec.training_epochs * train * training + scored * (scoring + spec.iwae_samples * decoding)


@cache
def _per_image(
    method: str, order: int | None, decoder: str, shape: nets.ImageShape, options: tuple[tuple[str, float], ...]
) -> tuple[float, float, float]:
    """FLOPs on one image of a training step, of inference with one sample, and of one pass through the decoder."""
    values = {"method": method, "order": order, "decoder": decoder, "options": dict(options)}
    spec = RunSpec.of({"dataset": "digits", "dim": DIM, **values})
    try:
        return _count(spec, shape)
    except Exception as error:  # its trial will fail and report the reason
        log.debug("the FLOPs of %s cannot be counted, those of a VAE are used: %s", spec.method_label, error)
        return _count(RunSpec.of({"method": "vae", "dataset": "digits", "dim": DIM}), shape)


def _count(spec: RunSpec, shape: nets.ImageShape) -> tuple[float, float, float]:
    model = untrained([spec], shape)
    source = Noise([noise.generator(0, 0, noise.TRAIN)])
    x = source.uniform((1, 1, *shape))

    def train() -> None:
        step = Step(x, source, 0)
        for update in model.updates():
            for parameter in update.parameters:
                parameter.requires_grad_(True)
            torch.autograd.grad(update.loss(step).sum(), update.parameters, allow_unused=True)
            for parameter in update.parameters:
                parameter.requires_grad_(False)

    with torch.no_grad():
        inference = _flops(lambda: model.posterior(x, source).sample(source, 1))
        decoding = _flops(lambda: model.decoder(source.normal((1, 1, spec.dim))))
    return _flops(train), inference, decoding


def _flops(work: Callable[[], object]) -> float:
    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())
