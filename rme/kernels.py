"""Implementations of the layers' convolutions: for one model on a CPU, and for all members of an array at once.

For an array there are several. Which is fastest depends on the device, the layer's shape and the number of members, so
`fastest` times them. Shapes: x (B, N, C, H, W); weights of a convolution (B, outputs, C, 4, 4), of a transposed one
(B, C, outputs, 4, 4); biases (B, outputs).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from rme.device import is_lost

log = logging.getLogger(__name__)

KERNEL, STRIDE, PADDING = 4, 2, 1
"""Of every convolution: kernel 4x4, stride 2, and the padding with which it halves (transposed: doubles) the side."""

Kernel = Callable[..., Tensor]


# ---------------------------------------------------------------------- one model on a CPU
def channels_last(x: Tensor) -> Tensor:
    """x (N, C, H, W) in channels-last memory layout, also for C = 1, where torch accepts either layout as such.

    Otherwise the convolution returns the other layout, and converting each gradient costs as much as a layer.
    """
    if x.shape[1] == 1:
        return x.contiguous().squeeze(1).unsqueeze(-1).movedim(-1, 1)
    return x.contiguous(memory_format=torch.channels_last)


class TransposedConvolution(torch.autograd.Function):
    """One model's transposed convolution: (N, C, H, W) -> (N, outputs, 2H + extra, 2W + extra), channels last.

    With few output channels (an image's 1 or 3) it is a matrix product and a fold, several times faster than the
    library's kernel. The gradient by x is a plain convolution, so second derivatives (through SA's steps) consist of
    convolutions too; torch's own second derivatives of a convolution copy all their inputs.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, extra: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.extra = extra
        y = _folded(x, weight, extra) if weight.shape[1] <= FOLDED_CHANNELS else _transposed(x, weight, extra)
        # added here because the library's kernel takes up to twice as long with a bias, forward and backward
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
"""Up to this many output channels, a matrix product and a fold is faster."""


def _transposed(x: Tensor, weight: Tensor, extra: int) -> Tensor:
    return F.conv_transpose2d(x, weight, None, STRIDE, PADDING, extra)


def _folded(x: Tensor, weight: Tensor, extra: int) -> Tensor:
    n, inputs, height, width = x.shape
    pixels = x.permute(0, 2, 3, 1).reshape(n, height * width, inputs)
    columns = torch.bmm(weight.reshape(1, inputs, -1).mT.expand(n, -1, -1), pixels.mT)
    side = (STRIDE * height + extra, STRIDE * width + extra)
    # all images as the channels of one: folding works per channel, and separate images would cost a few calls each
    y = F.fold(columns.view(1, -1, height * width), side, KERNEL, padding=PADDING, stride=STRIDE)
    return y.view(n, -1, *side)


# ---------------------------------------------------------------------- an array's convolution
def grouped(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Members as the groups of one grouped convolution."""
    y = F.conv2d(_members_as_channels(x), weight.flatten(0, 1), bias.flatten(), STRIDE, PADDING, groups=len(weight))
    return _channels_as_members(y, len(weight))


def one_by_one(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """One convolution per member."""
    each = zip(x.unbind(), weight.unbind(), bias.unbind(), strict=True)
    return torch.stack([F.conv2d(channels_last(h), w, b, STRIDE, PADDING) for h, w, b in each])


def product(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The images' patches times the weights, as one batched matrix product (im2col)."""
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
    """One transposed convolution per member."""
    each = zip(x.unbind(), weight.unbind(), bias.unbind(), strict=True)
    return torch.stack([F.conv_transpose2d(channels_last(h), w, b, STRIDE, PADDING, extra) for h, w, b in each])


def transposed_product(x: Tensor, weight: Tensor, bias: Tensor, extra: int) -> Tensor:
    """Each pixel's contribution to its output patch, by one batched matrix product; then the patches are summed."""
    members, n, inputs, height, width = x.shape
    pixels = x.permute(0, 1, 3, 4, 2).reshape(members, n * height * width, inputs)
    columns = torch.bmm(pixels, weight.flatten(2)).view(members * n, height * width, -1).mT
    side = (STRIDE * height + extra, STRIDE * width + extra)
    y = F.fold(columns, side, KERNEL, padding=PADDING, stride=STRIDE)
    return y.unflatten(0, (members, n)) + bias.view(members, 1, -1, 1, 1)


# ---------------------------------------------------------------------- both in Triton
def in_triton(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`product` without storing the patches, as a Triton kernel."""
    from rme.triton_kernels import convolution  # not at the top: Triton is optional

    return convolution(x, weight, bias)


def transposed_in_triton(x: Tensor, weight: Tensor, bias: Tensor, extra: int) -> Tensor:
    """Each output pixel from the four pixels of x that contribute to it, as a Triton kernel."""
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
_excluded: set[tuple[Kernel, torch.dtype, torch.device]] = set()

TRIALS = 5
"""How often each kernel is timed; the shortest time counts."""

HEAD_START = 10_000_000
"""Cycles (some ms) that the GPU waits first, so that launch overhead is not timed: in a CUDA graph there is none."""


def fastest(candidates: Sequence[Kernel], x: Tensor, weight: Tensor, *rest) -> Kernel:
    """The fastest kernel on x's device for these shapes: forward and, if gradients are needed, backward.

    Timed at the first call with these shapes, then remembered in this process. The first candidate is returned untimed
    on a CPU, and for a new shape during a CUDA graph capture, when nothing can be timed. A kernel that fails is
    excluded: if out of memory, for these shapes; otherwise for all tensors of that dtype on that device.
    """
    if x.device.type != "cuda":
        return candidates[0]
    learning = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    tf32 = torch.backends.cudnn.allow_tf32
    key = (candidates[0].__name__, x.device, x.dtype, tuple(x.shape), tuple(weight.shape), rest[1:], learning, tf32)
    if key not in _chosen:
        if torch.cuda.is_current_stream_capturing():
            return candidates[0]
        times = measured(candidates, x.dtype, x.device, lambda k: _milliseconds(k, learning, x, weight, *rest))
        _chosen[key] = min(times, key=lambda kernel: times[kernel])
        each = ", ".join(f"{kernel.__name__} {ms:.3f} ms" for kernel, ms in times.items())
        log.debug("%s by %s: %s", tuple(x.shape), tuple(weight.shape), each)
    return _chosen[key]


def measured(
    candidates: Sequence[Kernel], dtype: torch.dtype, device: torch.device, milliseconds: Callable[[Kernel], float]
) -> dict[Kernel, float]:
    """The time of each kernel that runs, in ms. Raises the first error if all fail, or an error that lost the GPU."""
    times: dict[Kernel, float] = {}
    errors: list[Exception] = []
    for kernel in candidates:
        if (kernel, dtype, device) in _excluded:
            continue
        try:
            times[kernel] = milliseconds(kernel)
        except Exception as error:
            if is_lost(error):
                raise
            errors.append(error)
            if not isinstance(error, torch.OutOfMemoryError):
                _excluded.add((kernel, dtype, device))
                reason = (kernel.__name__, dtype, device, type(error).__name__, error)
                log.info("the kernel %s failed and is no longer used for %s on %s: %s: %s", *reason)
    if not times and errors:
        _excluded.difference_update((kernel, dtype, device) for kernel in candidates)
        raise errors[0]
    return times


def _milliseconds(kernel: Kernel, learning: bool, x: Tensor, weight: Tensor, *rest) -> float:
    arguments = [x.detach(), weight.detach()]
    rest = tuple(r.detach() if isinstance(r, Tensor) else r for r in rest)
    if learning:
        arguments = [a.requires_grad_(like.requires_grad) for a, like in zip(arguments, (x, weight), strict=True)]

    def once() -> None:
        y = kernel(*arguments, *rest)
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
