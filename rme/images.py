"""Images as a user has them, in any usual layout, to the layout of the models: (N, C, H, W)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from rme.nets import ImageShape

ROUNDING = 1e-5
"""How far floating point pixels may be outside [0, 1], by rounding; they are moved to the nearer end."""


class ImagesError(ValueError):
    """Images that cannot be used; the message says what was found and what would be valid."""


def as_images(images: Any, shape: ImageShape | None = None, name: str = "images") -> Tensor:
    """Images as a tensor (N, C, H, W) on the CPU: uint8 in 0..255, or float32 in [0, 1].

    Args:
        images: torch or numpy; uint8, or floating point in [0, 1]; (N, H, W), (N, C, H, W) or (N, H, W, C).
        shape: (C, H, W) that they must have; None: any with one or three channels.
        name: for error messages.

    Raises:
        ImagesError: another type, shape or range, or NaN.

    Example:
        >>> as_images(numpy.zeros((5, 28, 28), dtype="uint8")).shape
        torch.Size([5, 1, 28, 28])
    """
    tensor = _as_tensor(images, name)
    tensor = _channels_first(tensor, shape, name)
    return _checked_bytes(tensor, name) if tensor.dtype == torch.uint8 else _checked_floats(tensor, name)


def as_bytes(images: Tensor) -> Tensor:
    """uint8 images from float ones in [0, 1]; uint8 images unchanged."""
    return images if images.dtype == torch.uint8 else images.mul(255).round().clamp(0, 255).to(torch.uint8)


def _as_tensor(images: Any, name: str) -> Tensor:
    if isinstance(images, Tensor):
        if images.layout != torch.strided:
            raise ImagesError(f"{name}: a tensor of layout {images.layout}; expected a dense one: images.to_dense()")
        tensor = images.detach().cpu()
    elif np.ma.isMaskedArray(images):
        raise ImagesError(f"{name}: a masked array; fill its missing pixels first: images.filled(0)")
    else:
        try:
            array = np.asarray(images)
            if not array.dtype.isnative:
                array = array.astype(array.dtype.newbyteorder("="))
            if not array.flags.writeable or any(stride < 0 for stride in array.strides):
                array = array.copy()  # torch shares no such memory
            tensor = torch.from_numpy(array)
        except (TypeError, ValueError):
            found = type(images).__name__
            raise ImagesError(f"{name}: {found} is no array of images; expected torch or numpy") from None
    if tensor.dtype != torch.uint8 and not tensor.is_floating_point():
        raise ImagesError(f"{name}: {tensor.dtype}; expected uint8 in 0..255, or floating point in [0, 1]")
    return tensor


def _channels_first(tensor: Tensor, shape: ImageShape | None, name: str) -> Tensor:
    if tensor.ndim == 3:
        found = tensor.unsqueeze(1)
        if shape is None or found.shape[1:] == shape:
            return found
    elif tensor.ndim == 4:
        last = tensor.movedim(-1, 1)
        for each in (tensor, last):
            if each.shape[1:] == shape or (shape is None and each.shape[1] in (1, 3)):
                return each
    if shape is None:
        raise ImagesError(f"{name}: shape {tuple(tensor.shape)}; expected (N, H, W), (N, C, H, W) or (N, H, W, C) "
                          "with one or three channels")  # fmt: skip
    channels, height, width = shape
    layouts = [f"(N, {height}, {width})"] if channels == 1 else []
    layouts += [f"(N, {channels}, {height}, {width})", f"(N, {height}, {width}, {channels})"]
    single = " for one image, add an axis: images[None]" if tuple(tensor.shape) in _single(shape) else ""
    raise ImagesError(
        f"{name}: shape {tuple(tensor.shape)} does not fit images of shape {shape}; expected {' or '.join(layouts)}"
        + (f";{single}" if single else "")
    )


def _single(shape: ImageShape) -> list[tuple[int, ...]]:
    channels, height, width = shape
    return [(height, width), (channels, height, width), (height, width, channels)]


def _checked_bytes(tensor: Tensor, name: str) -> Tensor:
    if tensor.numel() and int(tensor.max()) == 1:
        raise ImagesError(
            f"{name}: uint8 images whose largest pixel is 1 are nearly black: pixels are 0..255; "
            "multiply by 255, or give floating point in [0, 1]"
        )
    return tensor.contiguous()


def _checked_floats(tensor: Tensor, name: str) -> Tensor:
    if tensor.numel():
        low, high = (float(value) for value in tensor.aminmax())
        if not (np.isfinite(low) and np.isfinite(high)):
            count = int((~tensor.isfinite()).flatten(1).any(1).sum())
            raise ImagesError(f"{name}: {count} of {len(tensor)} images have pixels that are NaN or infinite")
        if low < -ROUNDING or high > 1 + ROUNDING:
            raise ImagesError(
                f"{name}: pixels from {low:.7g} to {high:.7g}; floating point images are in [0, 1], uint8 in 0..255"
            )
        if 0 < high <= 1 / 255:
            raise ImagesError(f"{name}: the largest pixel is {high:.3g}; floating point images are in [0, 1], and "
                              "these look as if divided by 255 twice")  # fmt: skip
    return tensor.to(torch.float32).clamp(0, 1).contiguous()
