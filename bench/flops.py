"""FLOPs and memory traffic of a training step, counted from the layers' shapes.

A layer has up to three passes: forward, the gradient of its input, and the gradient of its weights. Each pass costs the
layer's multiplications and additions, and reads or writes its input, output and weights once. Elementwise work counts
as free. A value that can be cached is counted once, so this is what the mathematics needs, not what a certain program
does. A method missing from `_METHODS` has no roofline.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from rme import nets


@dataclass(frozen=True)
class Cost:
    """Floating-point operations, and bytes read from or written to memory."""

    flops: float = 0.0
    bytes: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.flops + other.flops, self.bytes + other.bytes)

    def __mul__(self, times: float) -> Cost:
        return Cost(self.flops * times, self.bytes * times)


@dataclass(frozen=True)
class LayerSize:
    """One layer of one model: FLOPs per image, and the number of entries of its input, output and weights."""

    flops: int
    inputs: int
    outputs: int
    weights: int

    def once(self, images: int) -> Cost:
        """Cost of one pass of `images` images, in float32."""
        return Cost(images * self.flops, 4 * (images * (self.inputs + self.outputs) + self.weights))


def layers(networks: Iterable[nn.Module], inputs: tuple[int, ...]) -> list[LayerSize]:
    """Layers with weights, of networks applied in sequence; `inputs` is the shape of one input, without batch axes."""
    found = []
    h = torch.empty(1, 1, *inputs, device="meta")
    for layer in (layer for network in networks for layer in network):  # type: ignore[attr-defined]
        before, h = h, layer(h)
        if isinstance(layer, nets.Layer):
            _, *weight = layer.weight.shape
            positions = before if isinstance(layer, nets.TransposedConv) else h
            pixels = positions[0, 0, 0].numel() if isinstance(layer, nets.Conv | nets.TransposedConv) else 1
            size = torch.Size(weight).numel()
            found.append(LayerSize(2 * pixels * size, before.numel(), h.numel(), size))
    return found


def passes(network: list[LayerSize], images: int, *, weights: bool, inputs: bool) -> Cost:
    """Cost of a forward and backward pass through a network.

    Args:
        network: its layers.
        images: number of images.
        weights: whether the gradients of its weights are needed.
        inputs: whether the gradient of its input is needed. With `weights`, every layer but the first needs it anyway.
    """
    total = Cost()
    for i, layer in enumerate(network):
        times = 1 + weights + (inputs or (weights and i > 0))
        total += layer.once(images) * times
    return total


class _Parts:
    """The networks of one model of a run, on the meta device. Costs are per batch."""

    def __init__(self, run: Any, shape: nets.ImageShape) -> None:
        self.model: Any = run.method_class(run, shape, 1).to("meta")
        self.run, self.shape, self.n = run, shape, run.batch_size
        self.decoder = layers([self.model.decoder.mean], (run.dim,))

    def encoder(self, encoder: Any) -> list[LayerSize]:
        return layers([encoder.trunk, encoder.head], self.shape)

    def train(self, network: list[LayerSize], *, inputs: bool = False) -> Cost:
        return passes(network, self.n, weights=True, inputs=inputs)

    def forward(self, network: list[LayerSize]) -> Cost:
        return passes(network, self.n, weights=False, inputs=False)

    def adam(self) -> Cost:
        # reads parameter, gradient and two moments; writes parameter and moments
        return Cost(0, 7 * 4 * sum(p.numel() for p in self.model.parameters()))


def _vae(p: _Parts) -> Cost:
    return p.train(p.encoder(p.model.encoder)) + p.train(p.decoder, inputs=True)


def _sa(p: _Parts) -> Cost:
    # an SVI step is a forward pass through the decoder and a backward pass to z; its own backward costs both twice
    return _vae(p) + passes(p.decoder, p.n, weights=False, inputs=True) * (3 * p.run.order)


def _hf(p: _Parts) -> Cost:
    vectors = [layers([network], (network[0].weight.shape[-1],)) for network in p.model.vectors]
    return sum((p.train(v, inputs=True) for v in vectors), _vae(p))


def _iaf(p: _Parts) -> Cost:
    total = _vae(p)
    for made in p.model.mades:
        for network in (made.inputs, made.context, made.outputs):
            total += p.train(layers([network], (network[0].weight.shape[-1],)), inputs=True)
    return total


def _me(p: _Parts) -> Cost:
    encoders = [p.train(p.encoder(q)) for q in p.model.components]
    return sum(encoders, p.train(layers([p.model.weights], p.shape)) + p.train(p.decoder, inputs=True) * p.run.order)


def _recursive_mixture(p: _Parts) -> Cost:
    k = p.run.order
    encoder = p.encoder(p.model.components[0])
    impact = layers([p.model.impacts[0].mlp], p.shape)
    to_z_and_back = passes(p.decoder, p.n, weights=False, inputs=True)
    total = (p.train(encoder) + to_z_and_back + p.forward(encoder)) * k  # q_m's update, then q_m, cached
    total += (p.train(impact) + p.forward(impact)) * (k - 1)
    total += p.forward(p.decoder) * sum(range(2, k + 1))  # eps_m: decodes a draw of each of q_0..q_m
    return total + p.train(p.decoder) * k


def _vlae(p: _Parts) -> Cost:
    first, second, last = p.decoder
    dim, width, pixels, n = p.run.dim, second.outputs, last.outputs, p.n
    hidden = p.forward([first, second])
    tangents = _product(n * dim, width, width)
    precision = _product(n * dim, width, width) + _product(dim, width, dim) * n
    step = p.forward([last]) + _product(n, pixels, width) + _product(dim, width, 1) * n
    forward = _product(width, pixels, width) + (hidden + tangents + precision) * (p.run.order + 1)
    forward += step * p.run.order + p.forward(p.decoder)
    # the backward pass costs each product twice
    return p.train(p.encoder(p.model.encoder)) + forward * 3


def _product(rows: int, inner: int, columns: int) -> Cost:
    """A matrix product (rows, inner) x (inner, columns)."""
    return Cost(2 * rows * inner * columns, 4 * (rows * inner + inner * columns + rows * columns))


_METHODS: dict[str, Callable[[_Parts], Cost]] = {
    "vae": _vae, "vae-more": _vae, "sa": _sa, "hf": _hf, "iaf": _iaf, "me": _me,
    "rme": _recursive_mixture, "bvi-er1": _recursive_mixture, "bvi-er2": _recursive_mixture, "vlae": _vlae,
}  # fmt: skip


def step_cost(run: Any, shape: nets.ImageShape) -> Cost | None:
    """Cost of one training step of one member; None for a method missing from `_METHODS`."""
    if run.method not in _METHODS:
        return None
    parts = _Parts(run, shape)
    return _METHODS[run.method](parts) + parts.adam()


def iwae_cost(run: Any, shape: nets.ImageShape, images: int, samples: int) -> Cost:
    """Cost of the decoder passes of an IWAE estimate."""
    return passes(_Parts(run, shape).decoder, images * samples, weights=False, inputs=False)
