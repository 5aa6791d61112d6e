"""The networks of Tables 1-3 and 5, for B members at once: parameters (B, ...), inputs (B, N, ...).

Only the layers treat the member axis specially. `Network.forward` chooses how: on a CPU one kernel call per member, in
the fastest memory layout there; on a GPU one batched kernel for all members.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rme import kernels, precision
from rme.distributions import DiagonalGaussian, gaussian_log_prob, stack
from rme.kernels import KERNEL, PADDING, STRIDE

ImageShape = tuple[int, int, int]


class Layer(nn.Module):
    """A layer with weights (B, ...) and biases (B, out), applied to all members at once or to a single one."""

    weight: nn.Parameter
    bias: nn.Parameter

    def initialise(self, generators: Sequence[torch.Generator]) -> None:
        """PyTorch's default initialisation; member i draws from generator i, on the CPU whatever the device."""
        with torch.no_grad():
            for weight, bias, g in zip(self.weight, self.bias, generators, strict=True):
                w = torch.empty(weight.shape, dtype=weight.dtype)
                nn.init.kaiming_uniform_(w, a=math.sqrt(5), generator=g)
                fan_in, _ = nn.init._calculate_fan_in_and_fan_out(w)
                b = torch.empty(bias.shape, dtype=bias.dtype)
                nn.init.uniform_(b, -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in), generator=g)
                weight.copy_(w)
                bias.copy_(b)

    def forward(self, x: Tensor) -> Tensor:
        """All members at once: (B, N, ...) -> (B, N, ...), computed in x's dtype."""
        return self.array(x, self.weight.to(x.dtype), self.bias.to(x.dtype))

    def array(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """All members at once, with the given weights (B, ...) and biases (B, out): (B, N, ...) -> (B, N, ...)."""
        raise NotImplementedError

    def single(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """One member, with its weight and bias: (N, ...) -> (N, ...)."""
        raise NotImplementedError


class Linear(Layer):
    """y = W x + b. (B, N, inputs) -> (B, N, outputs)."""

    def __init__(self, members: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(members, outputs, inputs))
        self.bias = nn.Parameter(torch.empty(members, outputs))

    def array(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.baddbmm(bias.unsqueeze(1), x, weight.mT)

    def single(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.linear(x, weight, bias)


class MaskedLinear(Linear):
    """y = (M * W) x + b with a fixed mask M of zeros and ones, (outputs, inputs), the same for all members."""

    def __init__(self, members: int, mask: Tensor) -> None:
        super().__init__(members, mask.shape[1], mask.shape[0])
        # not in the state dict: it has no member axis and follows from the sizes
        self.register_buffer("mask", mask.to(self.weight.dtype), persistent=False)

    mask: Tensor

    def array(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return super().array(x, weight * self.mask.to(weight.dtype), bias)

    def single(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return super().single(x, weight * self.mask.to(weight.dtype), bias)


class Conv(Layer):
    """4x4 convolution of stride 2. (B, N, C, H, W) -> (B, N, outputs, H // 2, W // 2)."""

    def __init__(self, members: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(members, outputs, inputs, KERNEL, KERNEL))
        self.bias = nn.Parameter(torch.empty(members, outputs))

    def array(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return kernels.fastest(kernels.CONVOLUTIONS, x, weight, bias)(x, weight, bias)

    def single(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.conv2d(kernels.channels_last(x), weight, bias, STRIDE, PADDING)


class TransposedConv(Layer):
    """4x4 transposed convolution of stride 2. (B, N, C, H, W) -> (B, N, outputs, 2H + extra, 2W + extra).

    Args:
        extra: output padding; 1 where the encoder's matching convolution has an input of odd side.
    """

    def __init__(self, members: int, inputs: int, outputs: int, extra: int = 0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(members, inputs, outputs, KERNEL, KERNEL))
        self.bias = nn.Parameter(torch.empty(members, outputs))
        self.extra = extra

    def array(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        kernel = kernels.fastest(kernels.TRANSPOSED_CONVOLUTIONS, x, weight, bias, self.extra)
        return kernel(x, weight, bias, self.extra)

    def single(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return kernels.TransposedConvolution.apply(kernels.channels_last(x), weight, bias, self.extra)


class Flatten(nn.Module):
    """(B, N, C, H, W) -> (B, N, C * H * W)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(-3)


class Unflatten(nn.Module):
    """(B, N, C * H * W) -> (B, N, C, H, W)."""

    def __init__(self, shape: ImageShape) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, self.shape)


class ReLU(nn.Module):
    """max(0, x), in place unless x is a view: after an in-place change of a view, autograd copies the whole tensor."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x, inplace=not x._is_view())


class LeakyReLU(nn.Module):
    """max(0.01 x, x), in place unless x is a view."""

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x, 0.01, inplace=not x._is_view())


class Network(nn.Sequential):
    """A sequence of layers for B members: (B, N, ...) -> (B, N, ...)."""

    def forward(self, x: Tensor) -> Tensor:
        dtype = x.dtype
        x = x.to(precision.of_networks() or dtype)
        return (self._one_by_one(x) if x.device.type == "cpu" else super().forward(x)).to(dtype)

    def _one_by_one(self, x: Tensor) -> Tensor:
        """Each member in turn through all layers: on a CPU arithmetic is the bottleneck, not kernel launches."""
        weights: list[tuple[Any, Any]] = [
            # unbind once: indexing would make the backward pass fill a gradient of the whole array for each member
            (layer.weight.to(x.dtype).unbind(), layer.bias.to(x.dtype).unbind()) if isinstance(layer, Layer)
            else (None, None)
            for layer in self
        ]  # fmt: skip
        outputs = []
        for i, h in enumerate(x.unbind()):
            for layer, (weight, bias) in zip(self, weights, strict=True):
                h = layer.single(h, weight[i], bias[i]) if isinstance(layer, Layer) else layer(h)
            outputs.append(h)
        return outputs[0].unsqueeze(0) if len(outputs) == 1 else torch.stack(outputs)


def initialise(module: nn.Module, generators: Sequence[torch.Generator]) -> None:
    """Initialise every layer in `module`, in order of construction; member i draws from generator i."""
    for layer in module.modules():
        if isinstance(layer, Layer):
            layer.initialise(generators)


# ---------------------------------------------------------------------- Tables 1-3
def convolutions(image_shape: ImageShape) -> tuple[list[int], list[int], int]:
    """The sizes in Tables 1-3 for images of shape (C, H, W), H = W; other sides follow the same rule.

    Below 64 pixels there are three convolutions, of 32, 32 and 64 channels (Tables 1 and 2); for 64 pixels, and for
    each doubling after that, one more of 64 channels (Table 3 has four; 128 pixels have five). The width h is 256 below
    32 pixels, and 512 from there.

    Returns:
        the side before each convolution and after the last (28 -> [28, 14, 7, 3]); the encoder's channels; the width
        h of the fully connected layers.
    """
    side = image_shape[1]
    count = 3 + (side // 64).bit_length()  # 64 -> 4, 128 -> 5
    sides = [side]
    for _ in range(count):
        sides.append(sides[-1] // STRIDE)
    return sides, [32, 32, *[64] * (count - 2)], 256 if side < 32 else 512


def encoder_trunk(members: int, image_shape: ImageShape) -> tuple[Network, int]:
    """The encoder of Tables 1-3 up to its last hidden layer, (B, N, C, H, W) -> (B, N, h); and the width h."""
    sides, channels, width = convolutions(image_shape)
    layers: list[nn.Module] = []
    inputs = image_shape[0]
    for outputs in channels:
        layers += [Conv(members, inputs, outputs), LeakyReLU()]
        inputs = outputs
    layers += [Flatten(), Linear(members, channels[-1] * sides[-1] ** 2, width), LeakyReLU()]
    return Network(*layers), width


class Encoder(nn.Module):
    """q(z|x) = N(mu(x), diag exp logvar(x)): convolutions, a hidden layer of width h, two heads (Tables 1-3)."""

    def __init__(self, members: int, dim: int, image_shape: ImageShape) -> None:
        super().__init__()
        self.trunk, self.width = encoder_trunk(members, image_shape)
        self.head = Network(Linear(members, self.width, 2 * dim))

    def features(self, x: Tensor) -> Tensor:
        """The last hidden layer: (B, N, C, H, W) -> (B, N, h)."""
        return self.trunk(x)

    def forward(self, x: Tensor) -> DiagonalGaussian:
        """q(z|x) of images (B, N, C, H, W): batch shape (B, N), event shape (p,)."""
        return self.gaussian(self.features(x))

    def gaussian(self, features: Tensor) -> DiagonalGaussian:
        """q(z|x) from the last hidden layer (B, N, h), by the two heads."""
        return DiagonalGaussian(*self.head(features).chunk(2, dim=-1))


def side_by_side(encoders: Iterable[nn.Module], x: Tensor) -> DiagonalGaussian:
    """q_k(z|x) of K Encoders for the same images (B, N, C, H, W): batch shape (B, K, N), event shape (p,).

    On a GPU, where kernel launches are the bottleneck, the K encoders are computed as one array of B * K members.
    """
    return stack([q(x) for q in encoders]) if x.device.type == "cpu" else as_one_array(encoders, x)


def as_one_array(encoders: Iterable[nn.Module], x: Tensor) -> DiagonalGaussian:
    """As `side_by_side`, by stacking the K encoders' weights layer by layer."""
    networks = [[*q.trunk, *q.head] for q in cast(Iterable[Encoder], encoders)]
    members, count = len(x), len(networks)
    h = x.to(precision.of_networks() or x.dtype).repeat_interleave(count, 0)
    for layers in zip(*networks, strict=True):
        if isinstance(layers[0], Layer):
            weight = torch.stack([layer.weight for layer in layers], 1).flatten(0, 1)
            bias = torch.stack([layer.bias for layer in layers], 1).flatten(0, 1)
            h = layers[0].array(h, weight.to(h.dtype), bias.to(h.dtype))
        else:
            h = layers[0](h)
    return DiagonalGaussian(*h.to(x.dtype).unflatten(0, (members, count)).chunk(2, dim=-1))


class PointEncoder(nn.Module):
    """mu(x) alone: the encoder of Tables 1-3 without the variance head."""

    def __init__(self, members: int, dim: int, image_shape: ImageShape) -> None:
        super().__init__()
        self.trunk, width = encoder_trunk(members, image_shape)
        self.head = Network(Linear(members, width, dim))

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C, H, W) -> (B, N, p)."""
        return self.head(self.trunk(x))


class Decoder(nn.Module):
    """p(x|z) = N(g(z), s^2 I): g is a convolutional or fully connected network, s^2 one learnt scalar per member.

    Args:
        kind: 'conv' (Tables 1-3), or 'fc' (Table 5: two hidden layers of width `fc_decoder_width`).
    """

    def __init__(self, members: int, dim: int, image_shape: ImageShape, kind: str = "conv") -> None:
        super().__init__()
        self.image_shape = image_shape
        self.mean = Network(*(_conv_decoder if kind == "conv" else _fc_decoder)(members, dim, image_shape))
        self.logvar = nn.Parameter(torch.zeros(members))

    def forward(self, z: Tensor) -> Tensor:
        """The means g(z): (B, N, p) -> (B, N, C, H, W), or with samples (B, S, N, p) -> (B, S, N, C, H, W)."""
        if z.dim() == 3:
            return self.mean(z)
        return self.mean(z.flatten(1, 2)).unflatten(1, z.shape[1:3])

    def log_prob(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x|z) in nats: x (B, N, C, H, W) and z (B, N, p) -> (B, N), or z (B, S, N, p) -> (B, S, N)."""
        mean = self(z)
        if z.dim() == 4:
            x = x.unsqueeze(1)
        logvar = self.logvar.view(-1, *[1] * (z.dim() - 2))
        return gaussian_log_prob((x - mean).square().sum((-3, -2, -1)), logvar, math.prod(self.image_shape))


def _conv_decoder(members: int, dim: int, image_shape: ImageShape) -> list[nn.Module]:
    sides, channels, width = convolutions(image_shape)
    small = (64, sides[-1], sides[-1])
    layers: list[nn.Module] = [
        Linear(members, dim, width), ReLU(),
        Linear(members, width, math.prod(small)), ReLU(),
        Unflatten(small),
    ]  # fmt: skip
    # the encoder's channels in reverse, then the image's: 32, 32, C or 64, 32, 32, C or 64, 64, 32, 32, C
    outputs = [*channels[-2::-1], image_shape[0]]
    inputs = small[0]
    for output, smaller, larger in zip(outputs, sides[:0:-1], sides[-2::-1], strict=True):
        layers += [TransposedConv(members, inputs, output, extra=larger - STRIDE * smaller), ReLU()]
        inputs = output
    return layers[:-1]


def _fc_decoder(members: int, dim: int, image_shape: ImageShape) -> list[nn.Module]:
    width = fc_decoder_width(dim, image_shape)
    return [
        Linear(members, dim, width), ReLU(),
        Linear(members, width, width), ReLU(),
        Linear(members, width, math.prod(image_shape)), Unflatten(image_shape),
    ]  # fmt: skip


def fc_decoder_width(dim: int, image_shape: ImageShape) -> int:
    """The hidden width that brings the parameter count closest to the convolutional decoder's."""
    with torch.device("meta"):
        target = sum(p.numel() for p in Network(*_conv_decoder(1, dim, image_shape)).parameters())
    pixels = math.prod(image_shape)

    def count(width: int) -> int:
        return (dim + 1) * width + (width + 1) * width + (width + 1) * pixels

    width = 1
    while count(width + 1) <= target:
        width += 1
    return min(width, width + 1, key=lambda w: abs(count(w) - target))


class BoundedRegressor(nn.Module):
    """eps(x) = eps_min + (eps_max - eps_min) sigmoid(MLP(x)) with one hidden layer (supplement 1.3 and 4)."""

    def __init__(self, members: int, image_shape: ImageShape, low: float, high: float, hidden: int = 10) -> None:
        super().__init__()
        self.low, self.high = low, high
        self.mlp = Network(
            Flatten(),
            Linear(members, math.prod(image_shape), hidden),
            ReLU(),
            Linear(members, hidden, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C, H, W) -> (B, N), each in (low, high)."""
        return self.low + (self.high - self.low) * torch.sigmoid(self.mlp(x).squeeze(-1))


class MADE(nn.Module):
    """A two-layer masked autoencoder (Germain et al. 2015): m_i and s_i depend on z_1..z_{i-1} and on a context.

    Hidden unit j has a degree d_j in 0..p-1 and sees z_1..z_{d_j}; outputs i see the units with d_j < i. The context
    enters the hidden layer unmasked, so it reaches the first outputs too, through the units of degree 0.

    Args:
        context: width of the context.
        backwards: whether the autoregressive order is z_p..z_1.
    """

    def __init__(self, members: int, dim: int, context: int, hidden: int = 500, backwards: bool = False) -> None:
        super().__init__()
        position = torch.arange(1, dim + 1)
        if backwards:
            position = position.flip(0)
        degree = torch.arange(hidden) % dim
        sees = degree.unsqueeze(1) >= position  # (hidden, p)
        seen_by = position.unsqueeze(1) > degree  # (p, hidden)
        self.order = position.argsort().tolist()
        self.inputs = Network(MaskedLinear(members, sees))
        self.context = Network(Linear(members, context, hidden))
        self.outputs = Network(MaskedLinear(members, torch.cat([seen_by, seen_by])))

    def forward(self, z: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """m and s, of z's shape, from z (B, N, p) or (B, S, N, p) and a context (B, N, h)."""
        h = self.context(context)
        if z.dim() == 3:
            h = torch.relu(self.inputs(z) + h)
            m, s = self.outputs(h).chunk(2, dim=-1)
            return m, s
        batch = z.shape[1:3]
        h = torch.relu(self.inputs(z.flatten(1, 2)).unflatten(1, batch) + h.unsqueeze(1))
        m, s = self.outputs(h.flatten(1, 2)).unflatten(1, batch).chunk(2, dim=-1)
        return m, s
