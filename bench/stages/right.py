"""Whether this device computes the right thing: each method's step against float64, and the random streams.

On a GPU each step is judged four times: in float32 and with TF32, launch by launch and captured as a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from bench import models
from bench.reference import Reference, Size, engine, errors, reference, relative
from bench.stages.case import Case, Check
from bench.stages.named import named
from rme import methods, precision
from rme.cuda_graph import WARM_UP
from rme.engine import Engine
from rme.untrained import random_images
from tune.cost.measure import array_engine

SIZES = {"cpu": Size(), "cuda": Size(dim=20, batch=64)}
"""Of the judged steps. The float64 reference is computed on a CPU, so both are small."""

LOSSES = 2e-6
"""Largest relative error of a loss in float32; on a CPU the largest of all methods and orders was 1.5e-7."""

CHANGE = 2e-2
"""Largest relative error of a parameter tensor's change in float32. On a CPU most were below 1e-4, the largest 1.3e-3,
where rounding made a unit of a ReLU active."""

IWAE = 5e-4
"""Largest error of an image's IWAE, in nats; on a CPU the largest was 6e-5."""

TF32_LOSSES = 1e-3
"""As LOSSES, with TF32, whose factors have 10 bits of mantissa. With each product's factors rounded to these bits on a
CPU the largest was 1.1e-4."""

TF32_CHANGE = 0.3
"""As CHANGE, with TF32. Rounded in the same way, the largest was 0.11: many more units are active or not."""

ALONE = 1e-12
"""Largest relative difference, in float64 on a CPU, of a member's losses alone and in an array."""

STREAM_LOSSES = 2e-5
"""Largest relative difference of losses between two equal trainings on a GPU after a few steps. On a CPU, rounding of
the parameters by 3e-7 changes them by 3e-7, and other noise by 6e-5 or more."""

STREAM_PARAMETERS = 1e-2
"""The same of a parameter tensor, in norm: rounding changes it by up to 7e-4, other noise by 5e-2 or more."""


@dataclass(frozen=True)
class Variant:
    """How a step is computed: with TF32 or not, captured as a CUDA graph or launch by launch."""

    tf32: bool = False
    captured: bool = False

    def __str__(self) -> str:
        return ("TF32" if self.tf32 else "float32") + (", captured" if self.captured else "")


VARIANTS = {
    "cpu": (Variant(),),
    "cuda": (Variant(False, True), Variant(True, True), Variant(False, False), Variant(True, False)),
}
"""By type of device, most important first."""


def cases(device: torch.device) -> Iterator[Case]:
    """The lowest order of every method, the random streams, then the other orders."""
    size, variants = SIZES[device.type], VARIANTS[device.type]
    trained = [kind for kind in methods.registry().values() if kind.trains]
    # the plain VAE first: all others contain its networks
    trained.sort(key=lambda kind: kind.name != "vae")
    lowest = [(kind.name, min(kind.orders) if kind.orders else None) for kind in trained]
    others = [(kind.name, order) for kind in trained for order in sorted(kind.orders or ())[1:]]
    for variant in variants:
        yield from (_step_case(*one, variant, size, device) for one in lowest)
    yield from stream_cases(device, size)
    for one in others:
        yield from (_step_case(*one, variant, size, device) for variant in variants)


# ---------------------------------------------------------------------- steps
def _step_case(method: str, order: int | None, variant: Variant, size: Size, device: torch.device) -> Case:
    label = models.spec(method, order).method_label
    return named(f"{label}, {variant}", partial(step_checks, method, order, variant, size, device))


@lru_cache(maxsize=12)  # all methods' lowest orders
def _reference(method: str, order: int | None, size: Size) -> Reference:
    return reference(method, order, size)


def step_checks(method: str, order: int | None, variant: Variant, size: Size, device: torch.device) -> list[Check]:
    """The checks of a method's step."""
    expected = _reference(method, order, size)
    return checks(engine(expected.run, size, device), expected, variant)


def checks(judged: Engine, expected: Reference, variant: Variant) -> list[Check]:
    """The checks of an engine's step. Raises RuntimeError if it cannot be judged, as `errors` does."""
    if variant.tf32:
        found = errors(judged, expected, captured=variant.captured)
    else:
        with precision.without_tf32():
            found = errors(judged, expected, captured=variant.captured)
    losses, change = (TF32_LOSSES, TF32_CHANGE) if variant.tf32 else (LOSSES, CHANGE)
    return [
        Check("losses against float64, relative", found.losses, losses),
        Check(f"change of {found.worst} against float64, relative; the worst", found.change, change),
        Check("IWAE against float64, nats", found.iwae, IWAE),
    ]


# ---------------------------------------------------------------------- random streams
def stream_cases(device: torch.device, size: Size) -> Iterator[Case]:
    """Random streams and their trainings: in an array and alone, resumed, and in a CUDA graph."""
    parts: dict[str, Callable[[Any, Size, torch.device], list[Check]]] = {
        "a member alone and in an array": alone_checks,
        "resumed in the middle of an epoch": resumed_checks,
    }
    if device.type == "cuda":
        parts = {"replayed as a CUDA graph and launch by launch": replay_checks, **parts}
    for method, order in (("vae", None), ("rme", 2)):
        run = models.spec(method, order, dim=size.dim, batch_size=size.batch, stage_learning_rate=5e-4)
        for name, checks_of in parts.items():
            yield named(f"{run.method_label}, {name}", partial(checks_of, run, size, device))


@precision.without_tf32()
def alone_checks(run: Any, size: Size, device: torch.device, steps: int = 4) -> list[Check]:
    """Each member's losses, and its generator afterwards, in an array and in an engine of its own; float64 on a CPU."""
    if device.type == "cpu":
        run = run.model_copy(update={"precision": "float64"})
    array = _started(run, size, device, size.members)
    together = trained(array, _batches(array, steps))
    losses, states = [], 0
    for i in range(size.members):
        alone = _started(run, size, device, 1, first=i)
        losses.append(trained(alone, _batches(alone, steps)))
        states += differing(alone.noise.generators, array.noise.generators[i : i + 1])
    tolerance = ALONE if device.type == "cpu" else STREAM_LOSSES
    return _stream_checks(torch.cat(losses, -1), together, states, tolerance)


@precision.without_tf32()
def resumed_checks(run: Any, size: Size, device: torch.device, steps: int = 4) -> list[Check]:
    """Steps after `Engine.state` is loaded into a new engine, against those of the uninterrupted one."""
    whole, resumed = (_started(run, size, device, size.members) for _ in range(2))
    batches = _batches(whole, 2 * steps)
    trained(whole, batches[:steps])
    state = {name: value.clone() for name, value in whole.state().items()}  # the engine changes its own in place
    expected = trained(whole, batches[steps:])
    resumed.load_state(state)
    found = trained(resumed, batches[steps:])
    states = differing(resumed.noise.generators, whole.noise.generators)
    parameters = max(
        relative(p.detach().double(), other.detach().double())
        for p, other in zip(resumed.method.parameters(), whole.method.parameters(), strict=True)
    )
    exact = device.type == "cpu"
    return [
        *_stream_checks(found, expected, states, 0.0 if exact else STREAM_LOSSES),
        Check("parameters afterwards, relative", parameters, 0.0 if exact else STREAM_PARAMETERS),
    ]


@precision.without_tf32()
def replay_checks(run: Any, size: Size, device: torch.device, steps: int = 8) -> list[Check]:
    """Steps of an engine that captures its step after WARM_UP, against those of one that does not."""
    graphed, plain = (_started(run, size, device, size.members) for _ in range(2))
    plain._graphed = None
    batches = _batches(plain, max(steps, WARM_UP + 2))
    found, expected = trained(graphed, batches), trained(plain, batches)
    captured = graphed._graphed is not None and bool(graphed._graphed.graphs)
    states = differing(graphed.noise.generators, plain.noise.generators)
    return [
        Check("steps that are not captured", float(not captured), 0.0),
        *_stream_checks(found, expected, states, STREAM_LOSSES),
    ]


def _started(run: Any, size: Size, device: torch.device, members: int, first: int = 0) -> Engine:
    return array_engine(run, size.shape, device, members, random_images(4 * size.batch, size.shape), first)


def _batches(trainee: Engine, count: int) -> list[Tensor]:
    """Different batches, the same for all members: `count` times (B, N) indices."""
    images, batch = len(trainee.pixels), trainee.spec.batch_size
    members = len(trainee.members)
    return [
        ((torch.arange(batch) + i * batch // 2) % images).expand(members, -1).to(trainee.device) for i in range(count)
    ]


def trained(trainee: Engine, batches: Sequence[Tensor]) -> Tensor:
    """The losses of training steps, one for each batch (B, N): (steps, U, B), float64 on the CPU."""
    # copied at once: on a GPU the next step overwrites them
    return torch.stack([trainee.train_step(index).cpu().double() for index in batches])


def differing(ours: Sequence[torch.Generator], theirs: Sequence[torch.Generator]) -> int:
    """How many of these generators are in different states."""
    return sum(not torch.equal(a.get_state(), b.get_state()) for a, b in zip(ours, theirs, strict=True))


def _stream_checks(found: Tensor, expected: Tensor, states: int, tolerance: float) -> list[Check]:
    worst = ((found - expected) / expected).abs().max().item()
    return [
        Check("losses, relative", worst, tolerance),
        Check("generators in different states", float(states), 0.0),
    ]
