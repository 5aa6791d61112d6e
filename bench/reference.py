"""A training step in float64 on the CPU, and how far the same step of another engine is from it.

Both have the same parameters, images and noise, so that they differ in rounding alone: by some 1e-7 in float32, and by
some 1e-3 with TF32, of the losses and of the parameters' changes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench import models
from rme import evaluate, noise, objective, precision
from rme.adam import Adam
from rme.cuda_graph import WARM_UP
from rme.engine import Engine
from rme.nets import ImageShape
from rme.noise import Noise
from rme.untrained import random_images
from tune.cost.measure import array_engine

RATE = 1e-2
"""Adam's rate in all updates: a stage's default of 1e-6 would change float32 parameters by a few roundings only."""

ADAM_STEPS = 1000
"""Steps that Adam counts before the judged one."""

SPREAD = 0.3
"""Relative standard deviation by which each parameter is changed at the start: with equal components, the gradient of a
mixture's weights would be a small difference of large numbers."""

LOGVAR = -1.5
"""The decoder's log variance at the start: at the images' own its gradient would vanish."""


@dataclass(frozen=True)
class Size:
    """The size of a judged step.

    Attributes:
        shape: (C, H, W) of the images.
        dim: p.
        batch: images per member; each member has its own.
        members: B.
        scored: images per member of which IWAE is compared.
        samples: its K.
    """

    shape: ImageShape = (1, 28, 28)
    dim: int = 10
    batch: int = 16
    members: int = 3
    scored: int = 4
    samples: int = 10

    @property
    def index(self) -> Tensor:
        """The images of each member's batch, (B, N)."""
        return torch.arange(self.members * self.batch).view(self.members, self.batch)


# ---------------------------------------------------------------------- noise
class Draw(NamedTuple):
    """A draw of a `Noise`: 'normal' or 'uniform', and its value (B, ...)."""

    kind: str
    value: Tensor


class RecordedNoise(Noise):
    """Noise that keeps a copy of what it draws, in `draws`."""

    def __init__(self, generators: Sequence[torch.Generator], dtype: torch.dtype) -> None:
        super().__init__(generators, dtype)
        self.draws: list[Draw] = []

    def normal(self, shape: Sequence[int]) -> Tensor:
        return self._recorded("normal", super().normal(shape))

    def uniform(self, shape: Sequence[int]) -> Tensor:
        return self._recorded("uniform", super().uniform(shape))

    def _recorded(self, kind: str, value: Tensor) -> Tensor:
        self.draws.append(Draw(kind, value.clone()))
        return value


class GivenNoise(Noise):
    """Noise that returns given draws in their order, and after the last the first again.

    Args:
        draws: such as those of a `RecordedNoise`; converted to `dtype`.
        generators: the streams that it replaces; it draws nothing from them.
        dtype, device: of the returned tensors. The draws stay at their address, as a CUDA graph needs.
    """

    def __init__(
        self,
        draws: Sequence[Draw],
        generators: Sequence[torch.Generator],
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(generators, dtype)
        self.draws = [Draw(kind, value.to(device, dtype)) for kind, value in draws]
        self.used = 0

    @property
    def exhausted(self) -> bool:
        """Whether every draw was returned, and all equally often."""
        return not self.draws or (self.used > 0 and self.used % len(self.draws) == 0)

    def normal(self, shape: Sequence[int]) -> Tensor:
        return self._next("normal", tuple(shape))

    def uniform(self, shape: Sequence[int]) -> Tensor:
        return self._next("uniform", tuple(shape))

    def _next(self, kind: str, shape: tuple[int, ...]) -> Tensor:
        """The next draw. Raises ValueError if it is of another kind or shape."""
        if not self.draws:
            raise ValueError(f"{kind} noise of shape {shape}: no draw is given")
        at = self.used % len(self.draws)
        given, value = self.draws[at]
        if (kind, shape) != (given, tuple(value.shape)):
            raise ValueError(f"draw {at}: {given} noise of shape {tuple(value.shape)} is given, not {kind} of {shape}")
        self.used += 1
        return value.clone()  # a method may change its noise in place


# ---------------------------------------------------------------------- the step in float64
@dataclass(frozen=True)
class Reference:
    """A training step in float64 on the CPU.

    Attributes:
        run: the settings, in float32.
        size: of the step.
        start: parameters and buffers before the step, name -> (B, ...), in float32.
        draws: the step's noise.
        squares: Adam's second moments before the step, for each update's parameters: (B, 1, ...).
        losses: each update's loss, (U, B) in nats per image.
        change: by which the step changes each parameter, name -> (B, ...).
        score_draws: the noise of the scores.
        iwae: of the first images of each member's batch before the step, (B, n) in nats.
    """

    run: Any
    size: Size
    start: dict[str, Tensor]
    draws: list[Draw]
    squares: list[list[Tensor]]
    losses: Tensor
    change: dict[str, Tensor]
    score_draws: list[Draw]
    iwae: Tensor


class ScaledAdam(Adam):
    """Adam whose second moments are first set to the gradients' mean squares, and which keeps these in `scales`."""

    def step(self, gradients: Sequence[Tensor]) -> None:
        self.scales = [g.square().reshape(len(g), -1).mean(1).view(-1, *[1] * (g.dim() - 1)) for g in gradients]
        set_moments(self, self.scales)
        super().step(gradients)


def set_moments(adam: Adam, squares: Sequence[Tensor]) -> None:
    """Set Adam's state to ADAM_STEPS steps, first moments of 0, and the given second moments (B, 1, ...)."""
    # at Adam's first step a change is its gradient's sign, so that rounding would decide; with these moments it is
    # proportional to the gradient, and of the same size for every parameter tensor
    for own, square in zip(adam.squares, squares, strict=True):
        own.copy_(square)
    for mean, step in zip(adam.means, adam.steps, strict=True):
        mean.zero_()
        step.fill_(ADAM_STEPS)


def reference(method: str, order: int | None, size: Size) -> Reference:
    """The reference of a method's step, starting from untrained models on random images."""
    rates = {"learning_rate": RATE, "stage_learning_rate": RATE}
    run = models.spec(method, order, dim=size.dim, batch_size=size.batch, **rates)
    start = _start(engine(run, size, "cpu"))
    exact = engine(run.model_copy(update={"precision": "float64"}), size, "cpu")
    exact.method.load_state_dict(start)
    streams = exact.generators(noise.EVALUATE)
    score_noise = RecordedNoise(streams, torch.float64)
    iwae = scores(exact, size, score_noise)
    exact.noise = recorded = RecordedNoise(exact.noise.generators, torch.float64)
    optimisers = [ScaledAdam(u.parameters, run.rate) for u in exact.updates]
    exact.optimisers = [*optimisers]
    losses = exact.train_step(size.index)
    return Reference(
        run=run,
        size=size,
        start=start,
        draws=recorded.draws,
        squares=[adam.scales for adam in optimisers],
        losses=losses,
        change=changes(exact, start),
        score_draws=score_noise.draws,
        iwae=iwae,
    )


def _start(engine: Engine) -> dict[str, Tensor]:
    """The engine's parameters and buffers with SPREAD and LOGVAR: name -> (B, ...)."""
    streams = engine.generators(noise.PICTURES)
    start = {name: value.clone() for name, value in engine.method.state_dict().items()}
    for name, p in engine.method.named_parameters():
        start[name] *= 1 + SPREAD * Noise(streams, p.dtype).normal(p.shape)
    start["decoder.logvar"].fill_(LOGVAR)
    return start


def engine(run: Any, size: Size, device: torch.device | str) -> Engine:
    """An engine of untrained models on random images, with a batch of its own for each member."""
    pixels = random_images(size.members * size.batch, size.shape)
    return array_engine(run, size.shape, torch.device(device), size.members, pixels=pixels)


@torch.no_grad()
@precision.scoring()
def scores(engine: Engine, size: Size, noise: Noise) -> Tensor:
    """IWAE of the first images of each member's batch, (B, n) in nats."""
    x = engine.method.centred(engine.pixels[size.index[:, : size.scored].to(engine.device)])
    z, log_q = engine.method.posterior(x, noise).sample_with_log_prob(noise, size.samples)
    return objective.iwae(evaluate.log_joint(engine.method, x, z) - log_q)


def changes(engine: Engine, start: dict[str, Tensor]) -> dict[str, Tensor]:
    """By how much each parameter differs from `start`: name -> (B, ...), float64 on the CPU."""
    return {name: p.detach().cpu().double() - start[name].double() for name, p in engine.method.named_parameters()}


# ---------------------------------------------------------------------- the judged step
@dataclass(frozen=True)
class Errors:
    """How far a step is from its reference.

    Attributes:
        losses: largest relative difference.
        change: norm of the difference / norm of the reference's change, of the worst parameter tensor.
        worst: that tensor's name.
        iwae: largest difference, nats.
    """

    losses: float
    change: float
    worst: str
    iwae: float


def errors(engine: Engine, expected: Reference, *, captured: bool = False) -> Errors:
    """The errors of an engine's step; `captured`: replayed as a CUDA graph, else launch by launch.

    Raises RuntimeError if the step does not use the given noise exactly once, or should be captured and cannot be.
    """
    size = expected.size
    dtype = engine.method.pixel_mean.dtype
    streams = engine.noise.generators
    score_noise = GivenNoise(expected.score_draws, streams, dtype, engine.device)
    given = GivenNoise(expected.draws, streams, dtype, engine.device)
    restart(engine, expected)
    iwae = scores(engine, size, score_noise)
    engine.noise = given
    if not captured:
        engine._graphed = None
    index = size.index.to(engine.device)
    if captured:
        for _ in range(WARM_UP):
            engine.train_step(index)
        restart(engine, expected)
    losses = engine.train_step(index).cpu().double()
    if captured and (engine._graphed is None or not engine._graphed.graphs):
        raise RuntimeError("the step was not captured as a CUDA graph")
    if not (given.exhausted and score_noise.exhausted):
        raise RuntimeError(f"{given.used} of {len(given.draws)} draws were used by the step, "
                           f"{score_noise.used} of {len(score_noise.draws)} by the scores")  # fmt: skip
    found = changes(engine, expected.start)
    by_name = {name: relative(found[name], wanted) for name, wanted in expected.change.items()}
    worst = max(by_name, key=lambda name: math.inf if math.isnan(by_name[name]) else by_name[name])
    return Errors(
        losses=((losses - expected.losses) / expected.losses).abs().max().item(),
        change=by_name[worst],
        worst=worst,
        iwae=(iwae.cpu().double() - expected.iwae).abs().max().item(),
    )


def restart(engine: Engine, expected: Reference) -> None:
    """Set an engine to the start of the reference's step, in place, as a captured graph needs."""
    engine.method.load_state_dict(expected.start)
    for adam, squares in zip(engine.optimisers, expected.squares, strict=True):
        set_moments(adam, squares)
    engine.iteration.zero_()


def relative(found: Tensor, wanted: Tensor) -> float:
    """|found - wanted| / |wanted| in norm; 0 if both are 0."""
    difference, size = (found - wanted).norm().item(), wanted.norm().item()
    return 0.0 if difference == 0 else difference / size if size else math.inf
