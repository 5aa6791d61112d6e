"""The posterior q(z|x) of a model's images, without a member axis, for any number of images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from rme import distributions, precision
from rme.noise import Noise
from rme.numbers_given import whole


class Posterior:
    """q(z|x) of N images: what `Model.encode` returns. All tensors are on the CPU.

    Args:
        blocks: the posteriors of consecutive blocks of images, each of an array of one model.
        sizes: the number of images in each block.
        dim: the number p of latents.
        noise: from a seed (None: the run's own) to a stream at its start, on the model's device.

    Example:
        >>> q = model.encode(images)
        >>> q.mean.shape, q.sample(3).shape, q.log_prob(q.sample(3)).shape
        (torch.Size([5, 10]), torch.Size([3, 5, 10]), torch.Size([3, 5]))
    """

    def __init__(
        self,
        blocks: Sequence[distributions.Posterior],
        sizes: Sequence[int],
        dim: int,
        noise: Callable[[int | None], Noise],
    ) -> None:
        self.blocks = list(blocks)
        self._sizes = list(sizes)
        self._shape = (sum(sizes), dim)
        self._noise = noise

    @cached_property
    def _moments(self) -> tuple[Tensor, Tensor]:
        noise = self._noise(None)
        with torch.no_grad(), precision.scoring():
            found = [block.moments(noise) for block in self.blocks]
        mean, stddev = (torch.cat([pair[i][0] for pair in found]).cpu() for i in (0, 1))
        return mean, stddev

    @property
    def mean(self) -> Tensor:
        """(N, p); of a flow an estimate (`rme.distributions.Posterior.moments`)."""
        return self._moments[0]

    @property
    def stddev(self) -> Tensor:
        """The standard deviation of each latent, (N, p); of a flow an estimate."""
        return self._moments[1]

    def sample(self, n: int = 1, seed: int | None = None) -> Tensor:
        """n i.i.d. draws for each image, (n, N, p). The same seed gives the same draws; None: the run's own."""
        noise, n = self._noise(seed), whole("n", n, 1)
        with torch.no_grad(), precision.scoring():
            return torch.cat([block.sample(noise, n)[0] for block in self.blocks], 1).cpu()

    def log_prob(self, z: Any) -> Tensor:
        """log q(z|x) in nats: z (N, p) -> (N,), or several points for each image, (n, N, p) -> (n, N).

        Raises:
            ValueError: z has another shape.
        """
        count, dim = self._shape
        z = torch.as_tensor(z)
        if z.ndim not in (2, 3) or tuple(z.shape[-2:]) != (count, dim):
            raise ValueError(f"z has shape {tuple(z.shape)}; expected ({count}, {dim}) or (n, {count}, {dim})")
        parts = z.to(self._like).unsqueeze(0).split(self._sizes, dim=-2)
        with torch.no_grad(), precision.scoring():
            found = [block.log_prob(part)[0] for block, part in zip(self.blocks, parts, strict=True)]
        return torch.cat(found, -1).cpu()

    @property
    def _like(self) -> Tensor:
        """A tensor with the model's dtype and device."""
        return self._noise(None).normal((1, 0))

    def __len__(self) -> int:
        return self._shape[0]

    def __repr__(self) -> str:
        count, dim = self._shape
        return f"Posterior of {count} images, {dim} latents ({type(self.blocks[0]).__name__})"
