"""Untrained models and random images, for counting, timing and measuring."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rme import nets, noise, precision
from rme.data import Images, Split
from rme.engine import Engine, all_members
from rme.methods.base import Method
from rme.nets import ImageShape

if TYPE_CHECKING:
    from rme.config import RunSpec


def untrained(specs: Sequence[RunSpec], shape: ImageShape, device: torch.device | str = "cpu") -> Method:
    """An array with the first restart of each run, initialised and not trained.

    Args:
        specs: runs of one cell, one for each of the B members.
        shape: (C, H, W) of the images.
        device: of the returned model.
    """
    spec = specs[0]
    model = spec.method_class(spec, shape, len(specs)).to(precision.DTYPES[spec.precision])
    model.requires_grad_(False)
    nets.initialise(model, [noise.generator(each.seed, 0, noise.INIT) for each in specs])
    return model.to(device)


def untrained_engine(
    specs: Sequence[RunSpec], pixels: Tensor, device: torch.device | str = "cpu", split: Split | None = None
) -> Engine:
    """An engine for these runs before its first step. Models that the runs start from are untrained, too.

    Args:
        specs: runs of one cell.
        pixels: uint8 images (n, C, H, W).
        device: where to train.
        split: training, validation and test images; None: each of the three is all images.
    """
    everything = torch.arange(len(pixels))
    splits = [split or Split(everything, everything, everything)] * len(specs)
    shape = (pixels.shape[1], pixels.shape[2], pixels.shape[3])
    starts = [start for member in all_members(specs) if (start := member.spec.parent) is not None]
    parents = dict(untrained(starts, shape).state_dict()) if starts else None
    return Engine(specs, Images(pixels, pixels), splits, device=device, parents=parents)


def random_images(count: int, shape: ImageShape, seed: int = 0) -> Tensor:
    """Random images: uint8 (count, C, H, W)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=generator)
