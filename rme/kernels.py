"""Ways to compute the layers' convolutions: for one model on a CPU, and for all members of an array at once.

For an array there are several: which is fastest depends on the device, the layer's shape and the number of members, so
`fastest` measures. Shapes: x (B, N, C, H, W); a convolution's weights (B, outputs, C, 4, 4), a transposed one's
(B, C, outputs, 4, 4); biases (B, outputs).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

log = logging.getLogger(__name__)

KERNEL, STRIDE, PADDING = 4, 2, 1
"""Every convolution: 4x4, stride 2, and the padding that halves (or doubles) the side."""

Kernel = Callable[..., Tensor]


# ---------------------------------------------------------------------- one model on a CPU
def channels_last(x: Tensor) -> Tensor:
    """The same values (N, C, H, W) with C's stride 1, also where C = 1 lets torch take either layout for it.

    Else the convolution answers in the other layout, and each gradient that meets it costs as much as a layer.
    """
    if x.shape[1] == 1:
        return x.contiguous().squeeze(1).unsqueeze(-1).movedim(-1, 1)
    return x.contiguous(memory_format=torch.channels_last)


class TransposedConvolution(torch.autograd.Function):
    """One model's transposed convolution: (N, C, H, W) -> (N, outputs, 2H + extra, 2W + extra), channels last.

    To an image's 1 or 3 channels it is a matrix product and a fold, several times faster than the library's kernel. Its
    gradient by x is the convolution whose adjoint it is, so that what goes through gradients (SA's steps) is made of
    convolutions too; torch's own second derivatives of a convolution copy all their inputs.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, extra: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.extra = extra
        y = _folded(x, weight, extra) if weight.shape[1] <= FOLDED_CHANNELS else _transposed(x, weight, extra)
        # added here, because the library's kernel takes up to twice as long with a bias, forward and backward
        return y.add_(bias.view(1, -1, 1, 1))

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        gradient = channels_last(gradient)
        by_x = by_weight = by_bias = None
        if ctx.needs_input_grad[0]:
            by_x = F.conv2d(gradient, weight, None, STRIDE, PADDING)
        if ctx.needs_input_grad[1]:
            _, by_weight, _ = torch.ops.aten.convolution_backward(
                gradient, x, weight, None, [STRIDE] * 2, [PADDING] * 2, [1, 1], True, [ctx.extra] * 2, 1,
                [False, True, False],
            )  # fmt: skip
        if ctx.needs_input_grad[2]:
            by_bias = gradient.sum((0, 2, 3))
        return by_x, by_weight, by_bias, None


FOLDED_CHANNELS = 4
"""Up to so many output channels a product and a fold is the faster way."""


def _transposed(x: Tensor, weight: Tensor, extra: int) -> Tensor:
    return F.conv_transpose2d(x, weight, None, STRIDE, PADDING, extra)


def _folded(x: Tensor, weight: Tensor, extra: int) -> Tensor:
    n, inputs, height, width = x.shape
    pixels = x.permute(0, 2, 3, 1).reshape(n, height * width, inputs)
    columns = torch.bmm(weight.reshape(1, inputs, -1).mT.expand(n, -1, -1), pixels.mT)
    side = (STRIDE * height + extra, STRIDE * width + extra)
    # images as channels of one image: folding is per channel, and each image by itself costs a few calls
    y = F.fold(columns.view(1, -1, height * width), side, KERNEL, padding=PADDING, stride=STRIDE)
    return y.view(n, -1, *side)


# ---------------------------------------------------------------------- an array's convolution
def grouped(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Members as the groups of one grouped convolution."""
    y = F.conv2d(_members_as_channels(x), weight.flatten(0, 1), bias.flatten(), STRIDE, PADDING, groups=len(weight))
    return _channels_as_members(y, len(weight))


def one_by_one(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A convolution for each member."""
    each = zip(x.unbind(), weight.unbind(), bias.unbind(), strict=True)
    return torch.stack([F.conv2d(channels_last(h), w, b, STRIDE, PADDING) for h, w, b in each])


def product(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Patches of the images times the weights, as one batched matrix product."""
    members, n = x.shape[:2]
    padded = F.pad(x, [PADDING] * 4)
    windows = padded.unfold(-2, KERNEL, STRIDE).unfold(-2, KERNEL, STRIDE)  # (B, N, C, H', W', 4, 4)
    height, width = windows.shape[3:5]
    patches = windows.permute(0, 1, 3, 4, 2, 5, 6).reshape(members, n * height * width, -1)
    y = torch.baddbmm(bias.unsqueeze(1), patches, weight.flatten(2).mT)
    return y.view(members, n, height, width, -1).permute(0, 1, 4, 2, 3)


# ---------------------------------------------------------------------- an array's transposed convolution
def transposed_grouped(x: Tensor, weight: Tensor, bias: Tensor, extra: int) -> Tensor:
    """Members as the groups of one grouped transposed convolution."""
    y = F.conv_transpose2d(
        _members_as_channels(x), weight.flatten(0, 1), bias.flatten(), STRIDE, PADDING, extra, len(weight)
    )
    return _channels_as_members(y, len(weight))


def transposed_one_by_one(x: Tensor, weight: Tensor, bias: Tensor, extra: int) -> Tensor:
    """A transposed convolution for each member."""
    each = zip(x.unbind(), weight.unbind(), bias.unbind(), strict=True)
    return torch.stack([F.conv_transpose2d(channels_last(h), w, b, STRIDE, PADDING, extra) for h, w, b in each])


def transposed_product(x: Tensor, weight: Tensor, bias: Tensor, extra: int) -> Tensor:
    """What each pixel adds to its patch, as one batched matrix product, and the sum of the patches."""
    members, n, inputs, height, width = x.shape
    pixels = x.permute(0, 1, 3, 4, 2).reshape(members, n * height * width, inputs)
    columns = torch.bmm(pixels, weight.flatten(2)).view(members * n, height * width, -1).mT
    side = (STRIDE * height + extra, STRIDE * width + extra)
    y = F.fold(columns, side, KERNEL, padding=PADDING, stride=STRIDE)
    return y.unflatten(0, (members, n)) + bias.view(members, 1, -1, 1, 1)


# ---------------------------------------------------------------------- both in Triton
def in_triton(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`product` without its patches in memory, as a Triton kernel."""
    from rme.triton_kernels import convolution  # not at the top: Triton need not be there

    return convolution(x, weight, bias)


def transposed_in_triton(x: Tensor, weight: Tensor, bias: Tensor, extra: int) -> Tensor:
    """Each pixel of the result from the four of x that reach it, as a Triton kernel."""
    from rme.triton_kernels import transposed_convolution

    return transposed_convolution(x, weight, bias, extra)


CONVOLUTIONS: tuple[Kernel, ...] = (grouped, one_by_one, product, in_triton)
TRANSPOSED_CONVOLUTIONS: tuple[Kernel, ...] = (
    transposed_grouped, transposed_one_by_one, transposed_product, transposed_in_triton,
)  # fmt: skip


def _members_as_channels(x: Tensor) -> Tensor:
    return x.transpose(0, 1).flatten(1, 2)


def _channels_as_members(x: Tensor, members: int) -> Tensor:
    return x.unflatten(1, (members, -1)).transpose(0, 1)


# ---------------------------------------------------------------------- the choice
_chosen: dict[tuple, Kernel] = {}
_left_out: set[tuple[Kernel, torch.dtype, torch.device]] = set()

TRIALS = 5
"""How often each way is timed; the shortest counts."""

HEAD_START = 10_000_000
"""Cycles, some ms, that a GPU waits while a way's work is launched: a CUDA graph, too, has its launches behind it."""


def fastest(ways: Sequence[Kernel], x: Tensor, weight: Tensor, *rest) -> Kernel:
    """The way that takes the least time on x's device for these shapes, forward and, where gradients are on, backward.

    Measured at the first call with such shapes and remembered in this process; while a CUDA graph is captured nothing
    can be measured, so a shape not met before takes the first way, as everything does on a CPU. A way that fails is
    left out: for these shapes when memory was short, else from then on for tensors of that type on that device.
    """
    if x.device.type != "cuda":
        return ways[0]
    learning = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    tf32 = torch.backends.cudnn.allow_tf32
    key = (ways[0].__name__, x.device, x.dtype, tuple(x.shape), tuple(weight.shape), rest[1:], learning, tf32)
    if key not in _chosen:
        if torch.cuda.is_current_stream_capturing():
            return ways[0]
        times = measured(ways, x.dtype, x.device, lambda way: _milliseconds(way, learning, x, weight, *rest))
        _chosen[key] = min(times, key=lambda way: times[way])
        said = ", ".join(f"{way.__name__} {ms:.3f} ms" for way, ms in times.items())
        log.debug("%s by %s: %s", tuple(x.shape), tuple(weight.shape), said)
    return _chosen[key]


def measured(
    ways: Sequence[Kernel], dtype: torch.dtype, device: torch.device, milliseconds: Callable[[Kernel], float]
) -> dict[Kernel, float]:
    """How long each way takes, but for those that fail. Raises the first's error where all do."""
    times: dict[Kernel, float] = {}
    errors: list[Exception] = []
    for way in ways:
        if (way, dtype, device) in _left_out:
            continue
        try:
            times[way] = milliseconds(way)
        except Exception as error:
            errors.append(error)
            if not isinstance(error, torch.OutOfMemoryError):
                _left_out.add((way, dtype, device))
                said = (way.__name__, dtype, device, type(error).__name__, error)
                log.info("the kernel %s is left out for %s on %s: %s: %s", *said)
    if not times and errors:
        _left_out.difference_update((way, dtype, device) for way in ways)
        raise errors[0]
    return times


def _milliseconds(way: Kernel, learning: bool, x: Tensor, weight: Tensor, *rest) -> float:
    arguments = [x.detach(), weight.detach()]
    rest = tuple(r.detach() if isinstance(r, Tensor) else r for r in rest)
    if learning:
        arguments = [a.requires_grad_(like.requires_grad) for a, like in zip(arguments, (x, weight), strict=True)]

    def once() -> None:
        y = way(*arguments, *rest)
        if learning:
            torch.autograd.grad(y, [a for a in arguments if a.requires_grad], torch.ones_like(y))

    with torch.set_grad_enabled(learning):
        once()
        times = []
        for _ in range(TRIALS):
            began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda._sleep(HEAD_START)
            began.record()
            once()
            ended.record()
            ended.synchronize()
            times.append(began.elapsed_time(ended))
    return min(times)
