"""Distributions over latents: reparametrised samples and log-densities, in nats.

Everything works on trailing axes: a batch shape (*, N) and an event z of shape (p,). Samples put their axis S before
N, (*, S, N, p), which for an array of B members is (B, S, N, p).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from rme.noise import Noise

LOG_2PI = math.log(2 * math.pi)


class Posterior(ABC):
    """What a method returns as q(z|x)."""

    @abstractmethod
    def sample(self, noise: Noise, samples: int) -> Tensor:
        """I.i.d. draws: (*, S, N, p)."""

    @abstractmethod
    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z|x): z (*, N, p) -> (*, N), or (*, S, N, p) -> (*, S, N)."""

    def sample_with_log_prob(self, noise: Noise, samples: int) -> tuple[Tensor, Tensor]:
        """Draws (*, S, N, p) and their log q(z|x), (*, S, N). A flow, whose inverse is slow, knows both at once."""
        z = self.sample(noise, samples)
        return z, self.log_prob(z)


def gaussian_log_prob(squared_distance: Tensor, logvar: Tensor, size: int) -> Tensor:
    """log N(x; m, exp(logvar) I) from |x - m|^2, for an x of `size` entries. Shapes broadcast."""
    return -0.5 * (squared_distance * torch.exp(-logvar) + size * (logvar + LOG_2PI))


def standard_normal_log_prob(z: Tensor) -> Tensor:
    """log N(z; 0, I): (*, p) -> (*)."""
    return -0.5 * (z.square().sum(-1) + z.shape[-1] * LOG_2PI)


@dataclass(frozen=True)
class DiagonalGaussian(Posterior):
    """N(mu, diag exp logvar).

    Shapes: mu and logvar (*, N, p).
    """

    mu: Tensor
    logvar: Tensor

    def rsample(self, eps: Tensor) -> Tensor:
        """mu + sigma * eps, with eps (*, N, p)."""
        return self.mu + torch.exp(0.5 * self.logvar) * eps

    def sample(self, noise: Noise, samples: int) -> Tensor:
        """Reparametrised draws: (*, S, N, p)."""
        shape = (*self.mu.shape[:-2], samples, *self.mu.shape[-2:])
        return self.unsqueeze(-3).rsample(noise.normal(shape))

    def log_prob(self, z: Tensor) -> Tensor:
        """Z (*, N, p) -> (*, N), or with samples (*, S, N, p) -> (*, S, N)."""
        q = self.unsqueeze(-3) if z.dim() > self.mu.dim() else self
        scaled = (z - q.mu).square() * torch.exp(-q.logvar)
        return -0.5 * (scaled + q.logvar + LOG_2PI).sum(-1)

    def unsqueeze(self, axis: int) -> DiagonalGaussian:
        """The same distributions with a new axis of size 1 in their parameters."""
        return DiagonalGaussian(self.mu.unsqueeze(axis), self.logvar.unsqueeze(axis))


@dataclass(frozen=True)
class Mixture(Posterior):
    """sum_k alpha_k N(mu_k, diag exp logvar_k).

    Shapes: log_alpha (*, K, N); components hold (*, K, N, p).
    """

    log_alpha: Tensor
    components: DiagonalGaussian

    def rsample_each(self, eps: Tensor) -> Tensor:
        """One reparametrised draw of each component, with eps (*, K, N, p): (*, K, N, p)."""
        return self.components.rsample(eps)

    def sample(self, noise: Noise, samples: int) -> Tensor:
        """Draws of the mixture: a component by its weight, then its Gaussian: (*, S, N, p). No gradient by alpha."""
        *batch, _, n, p = self.components.mu.shape
        # the inverse of the weights' cumulative sum; the last component takes what rounding leaves over
        edges = self.log_alpha.exp().cumsum(-2)[..., :-1, :]
        uniform = noise.uniform((*batch, samples, n)) * self.log_alpha.exp().sum(-2, keepdim=True)
        chosen = (uniform.unsqueeze(-2) >= edges.unsqueeze(-3)).sum(-2)  # (*, S, N)
        index = chosen.unsqueeze(-1).expand(*batch, samples, n, p)
        drawn = DiagonalGaussian(self.components.mu.gather(-3, index), self.components.logvar.gather(-3, index))
        return drawn.rsample(noise.normal((*batch, samples, n, p)))

    def log_prob(self, z: Tensor) -> Tensor:
        """Z (*, N, p) -> (*, N), or with samples (*, S, N, p) -> (*, S, N)."""
        if z.dim() == self.components.mu.dim() - 1:
            each = self.components.log_prob(z.unsqueeze(-3))  # (*, K, N)
            return torch.logsumexp(self.log_alpha + each, -2)
        # samples stand on the component axis of the parameters: (*, S, 1, N, p) against (*, 1, K, N, p)
        each = self.components.unsqueeze(-4).log_prob(z.unsqueeze(-3))
        return torch.logsumexp(self.log_alpha.unsqueeze(-3) + each, -2)
