"""One training step: the argument of a method's losses."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TypeVar

import torch
from torch import Tensor

from rme.noise import Noise

T = TypeVar("T")


class Step:
    """A batch, its noise and its iteration; a new object for each training step.

    Attributes:
        x: centred images, (B, N, C, H, W).
        noise: the members' training streams.
        iteration: number of steps before this one in this training; from the engine, a tensor () on the device.
    """

    def __init__(self, x: Tensor, noise: Noise, iteration: int | Tensor) -> None:
        self.x = x
        self.noise = noise
        self.iteration = iteration
        self._cache: dict[Hashable, object] = {}

    def normal(self, *shape: int) -> Tensor:
        """N(0, 1) noise of shape (B, *shape)."""
        return self.noise.normal((self.x.shape[0], *shape))

    def frozen(self, key: Hashable, compute: Callable[[], T]) -> T:
        """`compute()` without gradients, cached under `key` for the rest of this step.

        For values that no later update of the step changes, such as a component's posterior after its own update.
        """
        if key not in self._cache:
            with torch.no_grad():
                self._cache[key] = compute()
        return self._cache[key]  # type: ignore[return-value]
