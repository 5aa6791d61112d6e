"""The relative cost of trials in FLOPs. They are counted, so the order of trials is the same on every machine.

A count takes a tenth of a second and is cached in the user's cache folder.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from rme import data, methods, nets, noise
from rme.config import RunSpec
from rme.engine import all_members
from rme.noise import Noise
from rme.step import Step
from rme.untrained import untrained
from tune.cost.cache import UserCache, code
from tune.cost.one_thread import one_thread

log = logging.getLogger(__name__)

DIM = 50
"""The latent dimension at which every method is counted. It changes the cost little."""


Counts = tuple[float, float, float]
"""FLOPs on one image of a training step, of inference with one sample, and of one pass through the decoder."""

Kind = tuple[str, int | None, str, nets.ImageShape, tuple[tuple[str, float], ...]]
"""What decides them: method, order, decoder, image shape and options."""


def array_flops(runs: Sequence[RunSpec]) -> float:
    """FLOPs of training an array of runs and scoring their validation and test images.

    They are counted on one image, once for each method, order, decoder and image shape.
    """
    spec, members = runs[0], len(all_members(runs))
    dataset = data.get(spec.dataset)
    training, scoring, decoding = image_flops(spec, dataset.shape)
    train, held_out, test = dataset.split_sizes
    scored = len(runs) * test + members * held_out
    return members * spec.training_epochs * train * training + scored * (scoring + spec.iwae_samples * decoding)


def image_flops(spec: RunSpec, shape: nets.ImageShape) -> Counts:
    """The FLOPs of a run's kind on one image of this shape."""
    return _per_image(*_kind(spec, shape))


def _kind(spec: RunSpec, shape: nets.ImageShape) -> Kind:
    return spec.method, spec.order, spec.decoder, shape, tuple(sorted(spec.options.items()))


@cache
def _per_image(
    method: str, order: int | None, decoder: str, shape: nets.ImageShape, options: tuple[tuple[str, float], ...]
) -> Counts:
    kind = (method, order, decoder, shape, options)
    if (known := _read(kind)) is not None:
        return known
    values = {"method": method, "order": order, "decoder": decoder, "options": dict(options)}
    spec = RunSpec.of({"dataset": "digits", "dim": DIM, **values})
    try:
        with one_thread():
            counts = _count(spec, shape)
    except Exception as error:  # its trial will fail and report the reason
        vae = ("vae", None, "conv", shape, ())
        if kind == vae:
            raise
        log.debug("the FLOPs of %s cannot be counted, those of a VAE are used: %s", spec.method_label, error)
        return _per_image(*vae)
    if _is_ours(method):
        stored = _counted()
        stored.values[_name(kind)] = counts
        stored.save()
    return counts


def _read(kind: Kind) -> Counts | None:
    known = _counted().values.get(_name(kind)) if _is_ours(kind[0]) else None
    return None if known is None else (known[0], known[1], known[2])


def _counted() -> UserCache:
    return UserCache("flops.json", f"torch {torch.__version__}, rme {code()}")


def _is_ours(method: str) -> bool:
    """Whether the method's code is part of `code()`, and so its counts may be cached."""
    return methods.get(method).__module__.startswith("rme.methods.")


def _name(kind: Kind) -> str:
    return " ".join(map(str, kind))


def _count(spec: RunSpec, shape: nets.ImageShape) -> Counts:
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
