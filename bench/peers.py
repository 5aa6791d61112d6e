"""Time our training epochs and IWAE scores against pythae's, with the same networks, images and batches.

An epoch is one pass over the images: `Engine.train_epoch` against `train_step` of pythae's own trainer. A score is
IWAE with K = 100: `rme.evaluate.scores` against `get_nll` of pythae's models, called as its documentation does, and
under no_grad. On a CPU pythae runs twice: with the engine's allocator settings, and in a separate process with the
default ones.

pythae is not a dependency of the project. Of what it needs, only imageio is missing; --no-deps leaves out its backport
of `dataclasses`:

    python -m pip install --no-deps pythae==0.1.2 imageio
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from bench import models
from bench.child import Child
from bench.harness import DifferentError, Row, Settings, Timer, check_close, compare, main, timed
from rme import evaluate
from rme.engine import Engine
from rme.methods.base import Method
from rme.noise import Noise
from rme.step import Step
from rme.untrained import random_images
from tune.cost.measure import array_engine

INSTALL = "python -m pip install --no-deps pythae==0.1.2 imageio"

METHODS = ("vae", "iaf")
"""Methods that both implement."""

SAMPLES = 100
"""K of the scores. Also the default batch size of `get_nll`, on a CPU its fastest of 10 to 100."""

BATCHES, QUICK_BATCHES = 20, 5
"""Batches per epoch."""

SCORED, QUICK_SCORED = 64, 16
"""Images scored."""


def rows(settings: Settings) -> Iterator[Row]:
    """For each method and array size: rows of epochs and of scores, in ms per member."""
    pythae_models()
    unknown = [method for method, _ in settings.methods if method not in METHODS]
    if unknown:
        raise ValueError(f"--methods {unknown[0]}: valid values are {', '.join(METHODS)}, which pythae implements")
    for method, order in settings.methods:
        run = models.spec(method, order, dataset=settings.dataset, dim=settings.dim)
        check(_engine(run, 1, settings.device).method, random_images(4, settings.image_shape), SAMPLES)
        for members in settings.members:
            yield from _epochs(run, members, settings)
            yield from _scores(run, members, settings)


# ---------------------------------------------------------------------- what is timed
def _epochs(run: Any, members: int, settings: Settings) -> list[Row]:
    batches = QUICK_BATCHES if settings.quick else BATCHES
    ours = _engine(run, batches, settings.device, members)
    return _against_pythae(
        f"{_name(run, members)} epoch, {batches} batches",
        _per_member(timed(ours.train_epoch, settings.device), members),
        {"trainer": ("peer_epoch", {"batches": batches})},
        run,
        settings,
    )


def _scores(run: Any, members: int, settings: Settings) -> list[Row]:
    count = QUICK_SCORED if settings.quick else SCORED
    engine = _engine(run, 1, settings.device, members)
    index = torch.arange(count, device=settings.device).expand(members, -1)
    generators = [torch.Generator(settings.device).manual_seed(i) for i in range(members)]

    def ours() -> None:
        evaluate.scores(engine.method, engine.pixels, index, samples=SAMPLES, generators=generators)

    return _against_pythae(
        f"{_name(run, members)} IWAE, {count} images",
        _per_member(timed(ours, settings.device), members),
        {
            "get_nll": ("peer_scores", {"count": count, "recording": True}),
            "get_nll, no_grad": ("peer_scores", {"count": count, "recording": False}),
        },
        run,
        settings,
    )


def _against_pythae(
    name: str, ours: Timer, theirs: dict[str, tuple[str, dict[str, Any]]], run: Any, settings: Settings
) -> list[Row]:
    """Rows of our timer against pythae's; `theirs` maps names to functions of this module, with their arguments."""
    common = {"method": run.method, "order": run.order, "dataset": run.dataset, "dim": run.dim}
    common["device"] = str(settings.device)
    on_cpu = settings.device.type == "cpu"
    with ExitStack() as children:
        rivals: dict[str, Timer] = {}
        for what, (function, arguments) in theirs.items():
            work = globals()[function](**common, **arguments)
            rivals[f"pythae {what}{', same allocator' if on_cpu else ''}"] = timed(work, settings.device)
            if on_cpu:
                child = Child("bench.peers", function, {**common, **arguments}, keep_freed_memory=False)
                rivals[f"pythae {what}, default allocator"] = children.enter_context(child)
        return compare(name, ours, rivals, rounds=settings.rounds, warm_ups=1)


def peer_epoch(*, batches: int, device: str, **fields: Any) -> Callable[[], float]:
    """One epoch of pythae's trainer on the images of `_engine`; the callable returns the mean loss."""
    peers, run = pythae_models(), models.spec(**fields)
    engine = _engine(run, batches, torch.device(device))
    images = engine.method.centred(engine.pixels.unsqueeze(0))[0]
    model = peers.peer(engine.method)
    trainer = peers.trainer(model, images, rate=run.rate, batch_size=run.batch_size, device=engine.device)
    return lambda: trainer.train_step(1)


def peer_scores(*, count: int, recording: bool, device: str, **fields: Any) -> Callable[[], float]:
    """pythae's `get_nll` of the first images of `_engine`; the callable returns the mean log p(x) in nats."""
    engine = _engine(models.spec(**fields), 1, torch.device(device))
    x = engine.method.centred(engine.pixels[:count].unsqueeze(0))[0]
    model = pythae_models().peer(engine.method).eval()

    def work() -> float:
        with torch.set_grad_enabled(recording):
            return float(model.get_nll(x, n_samples=SAMPLES))

    return work


def _engine(run: Any, batches: int, device: torch.device, members: int = 1) -> Engine:
    shape = models.image_shape(run)
    return array_engine(run, shape, device, members, random_images(batches * run.batch_size, shape))


def _name(run: Any, members: int) -> str:
    return run.method_label if members == 1 else f"{run.method_label}, {members} together,"


def _per_member(timer: Timer, members: int) -> Timer:
    return lambda: timer() / members


# ---------------------------------------------------------------------- equality
def check(method: Method, pixels: Tensor, samples: int) -> None:
    """Raise DifferentError unless pythae's model and member 0 of ours are the same, apart from what pythae lacks.

    Both must have the same number of parameters, leaving out those without a counterpart in pythae. Their losses on the
    uint8 images (n, C, H, W), and the IWAE of each image, must agree to a thousandth of a nat. `get_nll` returns the
    mean of log p(x), not of its negative. Changes `method`: see `matched`.
    """
    check_values(method, matched(method), pixels, samples)


def matched(method: Method) -> Any:
    """pythae's model with the weights of member 0. Changes `method` where the two differ by definition.

    - pythae's decoder has a fixed variance of one, ours a learnt one: it is set to one.
    - pythae's flows are not gated and not conditioned on x: see `match_flows`.

    Raises DifferentError if the numbers of parameters differ.
    """
    peers = pythae_models()
    model = peers.peer(method)
    ours = sum(p.numel() for p in method.parameters()) // method.members - peers.extra_parameters(method)
    theirs = sum(p.numel() for p in model.parameters())
    if ours != theirs:
        raise DifferentError(f"{method.label}: pythae's model has {theirs} parameters instead of {ours}")
    if method.name == "iaf":
        peers.match_flows(method, model)
    method.decoder.logvar.zero_()
    return model


@torch.no_grad()
def check_values(method: Method, model: Any, pixels: Tensor, samples: int) -> None:
    """Raise DifferentError unless loss and IWAE of the uint8 images (n, C, H, W) agree, given the same noise.

    The constant D/2 log 2 pi is added to pythae's loss, which omits it; `get_nll` includes it.
    """
    device = method.decoder.logvar.device
    pixels = pixels.to(device)
    x = method.centred(pixels.expand(method.members, *pixels.shape))
    constant = 0.5 * x[0, 0].numel() * torch.tensor(2 * torch.pi).log()

    (update,) = method.updates()
    ours = update.loss(Step(x, Noise(_streams(method), x.dtype), 0))[0]
    torch.manual_seed(0)
    theirs = model({"data": x[0]}).loss.cpu() + constant
    check_close(f"{method.label} loss", ours, theirs, rtol=1e-6, atol=2e-4)

    for i in range(len(pixels)):
        index = torch.full((method.members, 1), i, device=device)
        ours = evaluate.scores(method, pixels, index, samples=samples, generators=_streams(method)).iwae[0, 0]
        torch.manual_seed(0)
        theirs = torch.tensor(model.get_nll(x[0, i : i + 1], n_samples=samples, batch_size=samples))
        check_close(f"{method.label} IWAE of image {i}", ours, theirs, rtol=1e-6, atol=2e-4)


def _streams(method: Method) -> list[torch.Generator]:
    """For each member a generator equal to torch's default one after manual_seed(0)."""
    return [torch.Generator(method.decoder.logvar.device).manual_seed(0) for _ in range(method.members)]


def pythae_models() -> ModuleType:
    """The module `bench.pythae_models`. Exits, saying what to install, if pythae or one of its imports is missing."""
    try:
        from bench import pythae_models
    except ModuleNotFoundError as error:
        sys.exit(f"bench.peers needs {error.name}, which is not installed: {INSTALL}")
    return pythae_models


if __name__ == "__main__":
    main(rows, __doc__, methods="vae,iaf:2,iaf:8", quick_methods="vae")
