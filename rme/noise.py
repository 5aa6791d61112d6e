"""Random streams: one generator per member, so that a member draws the same noise alone and in an array."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

INIT, ORDER, TRAIN, EVALUATE, PICTURES, GAPS, DRAWS = range(1, 8)
"""Purposes of streams. Streams of different purposes are independent."""


def generator(seed: int, restart: int, purpose: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A new generator for the member (seed, restart) and purpose, at the start of its stream."""
    state = np.random.SeedSequence([seed, restart, purpose]).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(state[0]))


class Noise:
    """Standard noise for an array of B members; member i draws from generator i alone.

    Args:
        generators: one per member, on the device where the noise is needed.
        dtype: of the noise; float64 draws differ from float32 draws of the same stream.
    """

    def __init__(self, generators: Sequence[torch.Generator], dtype: torch.dtype = torch.float32) -> None:
        self.generators = list(generators)
        self.dtype = dtype

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Independent N(0, 1) of shape (B, ...)."""
        return self._fill(shape, Tensor.normal_)

    def uniform(self, shape: Sequence[int]) -> Tensor:
        """Independent U[0, 1) of shape (B, ...)."""
        return self._fill(shape, Tensor.uniform_)

    def _fill(self, shape: Sequence[int], draw) -> Tensor:
        if shape[0] != len(self.generators):
            raise ValueError(f"noise of shape {tuple(shape)}: expected a first axis of {len(self.generators)} members")
        out = torch.empty(tuple(shape), dtype=self.dtype, device=self.generators[0].device)
        for row, g in zip(out, self.generators, strict=True):
            draw(row, generator=g)
        return out
