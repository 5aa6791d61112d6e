"""One training step as a method's losses see it."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TypeVar

import torch
from torch import Tensor

from rme.noise import Noise

T = TypeVar("T")


class Step:
    """A batch and what goes with it; made anew for each training step.

    Attributes:
        x: centred images, (B, N, C, H, W).
        noise: the members' training streams.
        iteration: steps already made in this training, 0 in the first; the engine's is a tensor (), on the device.
    """

    def __init__(self, x: Tensor, noise: Noise, iteration: int | Tensor) -> None:
        self.x = x
        self.noise = noise
        self.iteration = iteration
        self._kept: dict[Hashable, object] = {}

    def normal(self, *shape: int) -> Tensor:
        """N(0, 1) noise of shape (B, *shape)."""
        return self.noise.normal((self.x.shape[0], *shape))

    def frozen(self, key: Hashable, compute: Callable[[], T]) -> T:
        """`compute()` without gradients, once in this step.

        For what no later update of the step changes, such as a component after its own update.
        """
        if key not in self._kept:
            with torch.no_grad():
                self._kept[key] = compute()
        return self._kept[key]  # type: ignore[return-value]
