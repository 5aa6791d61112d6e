"""Triton kernels for an array's convolutions: matrix products that read the patches directly from the images.

They are candidates of `kernels.fastest` on a GPU. Importing this needs Triton, which comes with torch for CUDA.
Shapes as in `rme.kernels`; results are channels last. The gradient by x uses the other kernel, the gradient by the
weights a batched product with the patches, so both can be differentiated again.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

PIXELS, CHANNELS, INNER = 64, 32, 32
"""Block sizes: each program computes PIXELS x CHANNELS outputs, and sums over INNER products at a time."""


@triton.jit
def _convolution(
    x, weight, y, pixels, inner, outputs, height, width, out_height, out_width,
    x_member, x_image, x_channel, x_row, x_column,
    precision: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    """y[b, n, i, j, o] = sum over c, u, v of x[b, n, c, 2i - 1 + u, 2j - 1 + v] weight[b, o, (c, u, v)]."""
    member = tl.program_id(2).to(tl.int64)
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    output = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    image = pixel // (out_height * out_width)
    top = pixel // out_width % out_height * 2 - 1
    left = pixel % out_width * 2 - 1
    start = x + member * x_member + image.to(tl.int64) * x_image
    total = tl.zeros((PIXELS, CHANNELS), dtype=tl.float32)
    for first in range(0, inner, INNER):
        k = first + tl.arange(0, INNER)
        row = top[:, None] + (k // 4 % 4)[None, :]
        column = left[:, None] + (k % 4)[None, :]
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        inside = inside & (pixel < pixels)[:, None] & (k < inner)[None, :]
        at = start[:, None] + (k // 16 * x_channel)[None, :] + row * x_row + column * x_column
        patches = tl.load(at, mask=inside, other=0.0)
        known = (output < outputs)[None, :] & (k < inner)[:, None]
        factors = tl.load(weight + (member * outputs + output[None, :]) * inner + k[:, None], mask=known, other=0.0)
        total = tl.dot(patches, factors, total, input_precision=precision)
    known = (pixel < pixels)[:, None] & (output < outputs)[None, :]
    tl.store(y + (member * pixels + pixel[:, None]) * outputs + output[None, :], total, mask=known)


@triton.jit
def _transposed(
    x, weight, y, pixels, inner, inputs, outputs, height, width, out_height, out_width, cells_high, cells_wide,
    x_member, x_image, x_channel, x_row, x_column,
    precision: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    """y[b, n, 2i + p, 2j + q, o] for one parity (p, q), from 2x2 pixels of x and 2x2 of the 4x4 weights.

    Row r of y sums over s = 0, 1: row (r + 1) // 2 - s of x times row (r + 1) % 2 + 2s of the weights; columns alike.
    """
    plane = tl.program_id(2)
    member = (plane // 4).to(tl.int64)
    odd_row, odd_column = plane // 2 % 2, plane % 2
    cell = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    output = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    image = cell // (cells_high * cells_wide)
    out_row = cell // cells_wide % cells_high * 2 + odd_row
    out_column = cell % cells_wide * 2 + odd_column
    start = x + member * x_member + image.to(tl.int64) * x_image
    total = tl.zeros((PIXELS, CHANNELS), dtype=tl.float32)
    for first in range(0, inner, INNER):
        k = first + tl.arange(0, INNER)
        channel, down, right = k // 4, k // 2 % 2, k % 2
        row = ((out_row + 1) // 2)[:, None] - down[None, :]
        column = ((out_column + 1) // 2)[:, None] - right[None, :]
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        inside = inside & (cell < pixels)[:, None] & (k < inner)[None, :]
        at = start[:, None] + (channel * x_channel)[None, :] + row * x_row + column * x_column
        values = tl.load(at, mask=inside, other=0.0)
        entry = ((1 - odd_row) + 2 * down) * 4 + (1 - odd_column) + 2 * right
        known = (output < outputs)[None, :] & (k < inner)[:, None]
        at = weight + ((member * inputs + channel[:, None]) * outputs + output[None, :]) * 16 + entry[:, None]
        total = tl.dot(values, tl.load(at, mask=known, other=0.0), total, input_precision=precision)
    known = (cell < pixels) & (out_row < out_height) & (out_column < out_width)
    known = known[:, None] & (output < outputs)[None, :]
    images = pixels // (cells_high * cells_wide)
    at = ((member * images + image) * out_height + out_row) * out_width + out_column
    tl.store(y + at[:, None] * outputs + output[None, :], total, mask=known)


def _blocks() -> dict[str, int]:
    return {"PIXELS": PIXELS, "CHANNELS": CHANNELS, "INNER": INNER}


def _precision() -> str:
    return "tf32" if torch.backends.cuda.matmul.allow_tf32 else "ieee"


def _down(x: Tensor, weight: Tensor) -> Tensor:
    """The convolution without a bias."""
    members, n, inputs, height, width = x.shape
    outputs, out_height, out_width = weight.shape[1], height // 2, width // 2
    y = x.new_empty(members, n, out_height, out_width, outputs)
    pixels = n * out_height * out_width
    grid = (triton.cdiv(pixels, PIXELS), triton.cdiv(outputs, CHANNELS), members)
    _convolution[grid](
        x, weight.contiguous(), y, pixels, inputs * 16, outputs, height, width, out_height, out_width, *x.stride(),
        precision=_precision(), **_blocks(),
    )  # fmt: skip
    return y.movedim(-1, 2)


def _up(x: Tensor, weight: Tensor, extra: tuple[int, int]) -> Tensor:
    """The transposed convolution without a bias. `extra`, each 0 or 1: its height and width beyond twice those of x."""
    members, n, inputs, height, width = x.shape
    outputs, out_height, out_width = weight.shape[2], 2 * height + extra[0], 2 * width + extra[1]
    y = x.new_empty(members, n, out_height, out_width, outputs)
    cells_high, cells_wide = (out_height + 1) // 2, (out_width + 1) // 2
    cells = n * cells_high * cells_wide
    grid = (triton.cdiv(cells, PIXELS), triton.cdiv(outputs, CHANNELS), 4 * members)
    _transposed[grid](
        x, weight.contiguous(), y, cells, inputs * 4, inputs, outputs, height, width, out_height, out_width,
        cells_high, cells_wide, *x.stride(), precision=_precision(), **_blocks(),
    )  # fmt: skip
    return y.movedim(-1, 2)


def _by_weight(large: Tensor, small: Tensor) -> Tensor:
    """Gradient by the weights: sum_{n,i,j} small[n, o, i, j] large[n, c, 2i - 1 + u, 2j - 1 + v], (B, o, c, 4, 4)."""
    windows = torch.nn.functional.pad(large, [1] * 4).unfold(-2, 4, 2).unfold(-2, 4, 2)
    windows = windows[..., : small.shape[-2], : small.shape[-1], :, :]
    patches = windows.permute(0, 1, 3, 4, 2, 5, 6).flatten(4).flatten(1, 3)
    product = small.permute(0, 2, 1, 3, 4).flatten(2) @ patches
    return product.unflatten(-1, (large.shape[2], 4, 4))


class _Down(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _down(x, weight)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        odd = (x.shape[-2] % 2, x.shape[-1] % 2)
        by_x = _Up.apply(gradient, weight, odd) if ctx.needs_input_grad[0] else None
        return by_x, _by_weight(x, gradient) if ctx.needs_input_grad[1] else None


class _Up(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, extra: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _up(x, weight, extra)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        by_x = _Down.apply(gradient, weight) if ctx.needs_input_grad[0] else None
        return by_x, _by_weight(gradient, x) if ctx.needs_input_grad[1] else None, None


def convolution(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """All members' convolutions, as `kernels.grouped`."""
    _check(x)
    return _Down.apply(x, weight) + bias.unsqueeze(1)[..., None, None]


def transposed_convolution(x: Tensor, weight: Tensor, bias: Tensor, extra: int) -> Tensor:
    """All members' transposed convolutions, as `kernels.transposed_grouped`."""
    _check(x)
    return _Up.apply(x, weight, (extra, extra)) + bias.unsqueeze(1)[..., None, None]


def _check(x: Tensor) -> None:
    if x.dtype == torch.float64:
        raise TypeError("the Triton kernels accumulate in float32: float64 is not supported")
