"""The time of every kernel for each convolution of MNIST's network, so that the choice among them can be seen.

On a GPU each is timed with a head start, by which `rme.kernels` chooses; without, where launches count; and in a CUDA
graph, as in training. On a CPU Triton's kernels cannot run and are left out, and training uses none of these kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from bench import models
from bench.harness import timed
from bench.stages.case import Case, Number
from bench.stages.named import named
from rme import kernels, nets, precision
from rme.cuda_graph import WARM_UP, Graphed
from rme.kernels import Kernel
from rme.nets import ImageShape
from rme.untrained import random_images
from tune.cost.measure import array_engine

MEMBERS = {"cpu": (6,), "cuda": (6, 30)}
"""Of the arrays whose layers are timed."""

BATCH = {"cpu": 16, "cuda": 128}
"""Images per member."""

NEED_A_GPU = (kernels.in_triton, kernels.transposed_in_triton)


@dataclass(frozen=True)
class Layer:
    """A convolution that a training step asks a kernel for.

    Attributes:
        candidates: the kernels.
        x: shape of the input, (B, N, C, H, W).
        weight: (B, outputs, C, 4, 4), transposed (B, C, outputs, 4, 4).
        extra: the output padding of a transposed convolution; none for others.
        x_learns, weight_learns: whether their gradients are needed.
    """

    candidates: tuple[Kernel, ...]
    x: tuple[int, ...]
    weight: tuple[int, ...]
    extra: tuple[int, ...]
    x_learns: bool
    weight_learns: bool

    def __str__(self) -> str:
        members, _, channels, height, width = self.x
        kind = "transposed convolution" if self.transposed else "convolution"
        return f"{kind} of {channels}x{height}x{width} to {self.outputs} channels, {members} members"

    @property
    def transposed(self) -> bool:
        return self.candidates == kernels.TRANSPOSED_CONVOLUTIONS

    @property
    def outputs(self) -> int:
        """The output's channels."""
        return self.weight[2 if self.transposed else 1]

    def arguments(self, device: torch.device) -> tuple[Any, ...]:
        """Random arguments of the layer's kernels."""
        x = torch.randn(self.x, device=device).requires_grad_(self.x_learns)
        weight = (0.1 * torch.randn(self.weight, device=device)).requires_grad_(self.weight_learns)
        return x, weight, torch.randn(self.weight[0], self.outputs, device=device), *self.extra


def cases(device: torch.device) -> Iterator[Case]:
    """A case for each layer."""
    for members in MEMBERS[device.type]:
        for layer in recorded(members, BATCH[device.type]):
            yield named(str(layer), partial(times, layer, device))


# ---------------------------------------------------------------------- which layers
@lru_cache
def recorded(members: int, batch: int, shape: ImageShape = (1, 28, 28)) -> tuple[Layer, ...]:
    """The layers for which a VAE's training step asks for a kernel, in order; each once."""
    # a step on the CPU with two images per member: only the shapes matter, and `batch` replaces the two
    found: dict[Layer, None] = {}
    device = torch.device("cpu")
    run = models.spec("vae", batch_size=2)
    step = array_engine(run, shape, device, members, pixels=random_images(2, shape))

    def record(candidates: Sequence[Kernel], x: Tensor, weight: Tensor, *rest: Any) -> Kernel:
        size = (members, batch, *x.shape[2:])
        learning = torch.is_grad_enabled()
        layer = Layer(
            tuple(candidates), size, tuple(weight.shape), rest[1:],
            learning and x.requires_grad, learning and weight.requires_grad,
        )  # fmt: skip
        found[layer] = None
        return candidates[0]

    with _as_on_a_gpu(record):
        step.train_step(torch.arange(2).expand(members, -1))
    return tuple(found)


@contextmanager
def _as_on_a_gpu(fastest: Callable[..., Kernel]) -> Iterator[None]:
    """Networks on a CPU compute all members at once, with the kernels that `fastest` returns."""
    before = kernels.fastest, nets.Network.forward
    kernels.fastest, nets.Network.forward = fastest, nn.Sequential.forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        kernels.fastest, nets.Network.forward = before  # type: ignore[method-assign]


# ---------------------------------------------------------------------- their times
def times(layer: Layer, device: torch.device) -> list[Number]:
    """The times of a layer's kernels, forward and with the gradients that the step needs, in ms."""
    with precision.training("float32"):
        return _on_a_gpu(layer, device) if device.type == "cuda" else _on_a_cpu(layer, device)


def _on_a_cpu(layer: Layer, device: torch.device) -> list[Number]:
    arguments = layer.arguments(device)
    usable = [kernel for kernel in layer.candidates if kernel not in NEED_A_GPU]
    return [Number(kernel.__name__, timed(_work(kernel, arguments), device)() * 1e3, "ms") for kernel in usable]


def _on_a_gpu(layer: Layer, device: torch.device) -> list[Number]:
    arguments = layer.arguments(device)
    learning = layer.x_learns or layer.weight_learns
    with torch.set_grad_enabled(learning):
        chosen = kernels.fastest(layer.candidates, *arguments)
    by_choice = kernels.measured(
        layer.candidates, arguments[0].dtype, device, lambda k: kernels._milliseconds(k, learning, *arguments)
    )
    found: list[Number] = []
    replays: dict[Kernel, float] = {}
    for kernel, head_start_ms in by_choice.items():
        name = kernel.__name__ + (" (chosen)" if kernel is chosen else "")
        work = _work(kernel, arguments)
        found += [
            Number(f"{name}, with a head start", head_start_ms, "ms"),
            Number(f"{name}, without", timed(work, device)() * 1e3, "ms"),
        ]
        replayed = _in_a_graph(work, device)
        if replayed is not None:
            replays[kernel] = replayed
            found.append(Number(f"{name}, in a CUDA graph", replayed, "ms"))
    if chosen in replays:
        ratio = replays[chosen] / min(replays.values())
        found.append(Number("the chosen kernel's time / the shortest, in a CUDA graph", ratio, "times"))
    return found


def _in_a_graph(work: Callable[[], object], device: torch.device) -> float | None:
    """Milliseconds of `work` replayed as a CUDA graph; None if it cannot be captured."""
    graphed, unused = Graphed(lambda _: work(), []), torch.zeros(1, device=device)
    for _ in range(WARM_UP + 1):
        graphed(unused)
    return timed(lambda: graphed(unused), device)() * 1e3 if graphed.graphs else None


def _work(kernel: Kernel, arguments: tuple[Any, ...]) -> Callable[[], object]:
    """The kernel's forward pass and, if any argument learns, its backward pass."""
    learning = [a for a in arguments[:2] if a.requires_grad]

    def work() -> object:
        with torch.set_grad_enabled(bool(learning)):
            y = kernel(*arguments)
            return torch.autograd.grad(y, learning, torch.ones_like(y)) if learning else y

    return work
