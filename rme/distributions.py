"""Distributions over latents: reparametrised samples and log-densities, in nats.

Everything works on trailing axes: batch shape (*, N), event z of shape (p,). The sample axis S comes before N:
(*, S, N, p), for an array of B members (B, S, N, p).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from rme.noise import Noise

LOG_2PI = math.log(2 * math.pi)

MOMENT_DRAWS, MOMENT_PART = 4000, 100
"""Draws from which moments without a closed form are computed, and how many of them at once."""


class Posterior(ABC):
    """A method's q(z|x)."""

    @abstractmethod
    def sample(self, noise: Noise, samples: int) -> Tensor:
        """I.i.d. draws: (*, S, N, p)."""

    @abstractmethod
    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z|x): z (*, N, p) -> (*, N), or (*, S, N, p) -> (*, S, N)."""

    def sample_with_log_prob(self, noise: Noise, samples: int) -> tuple[Tensor, Tensor]:
        """Draws (*, S, N, p) and their log q(z|x), (*, S, N). A flow overrides it, to avoid its slow inverse."""
        z = self.sample(noise, samples)
        return z, self.log_prob(z)

    def moments(self, noise: Noise) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each latent: (*, N, p) each.

        Here from `MOMENT_DRAWS` draws, for posteriors without a closed form, such as flows. The error of the mean is
        then about 1.6% of the standard deviation, that of the standard deviation about 1.1% of itself.
        """
        total = squares = torch.zeros(())
        first = self.sample(noise, 1)  # subtracted, so that the squares lose no digits
        for _ in range(MOMENT_DRAWS // MOMENT_PART):
            z = (self.sample(noise, MOMENT_PART) - first).double()
            total, squares = total + z.sum(-3), squares + z.square().sum(-3)
        mean = total / MOMENT_DRAWS
        deviation = (squares / MOMENT_DRAWS - mean.square()).clamp_min(0).sqrt()
        return (mean + first.squeeze(-3)).to(first.dtype), deviation.to(first.dtype)


def gaussian_log_prob(squared_distance: Tensor, logvar: Tensor, size: int) -> Tensor:
    """log N(x; m, exp(logvar) I) from |x - m|^2, for x of `size` entries. Shapes broadcast."""
    return -0.5 * (squared_distance * torch.exp(-logvar) + size * (logvar + LOG_2PI))


def standard_normal_log_prob(z: Tensor) -> Tensor:
    """log N(z; 0, I): (*, p) -> (*)."""
    return -0.5 * (z.square().sum(-1) + z.shape[-1] * LOG_2PI)


@dataclass(frozen=True)
class DiagonalGaussian(Posterior):
    """N(mu, diag exp logvar), with mu and logvar (*, N, p)."""

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
        """log q(z|x): z (*, N, p) -> (*, N), or with samples (*, S, N, p) -> (*, S, N)."""
        q = self.unsqueeze(-3) if z.dim() > self.mu.dim() else self
        scaled = (z - q.mu).square() * torch.exp(-q.logvar)
        return -0.5 * (scaled + q.logvar + LOG_2PI).sum(-1)

    def moments(self, noise: Noise) -> tuple[Tensor, Tensor]:
        return self.mu, torch.exp(0.5 * self.logvar)

    def unsqueeze(self, axis: int) -> DiagonalGaussian:
        """The same distribution with a new batch axis of size 1."""
        return DiagonalGaussian(self.mu.unsqueeze(axis), self.logvar.unsqueeze(axis))


def stack(components: Sequence[DiagonalGaussian]) -> DiagonalGaussian:
    """K distributions of shape (*, N, p) as one of shape (*, K, N, p)."""
    return DiagonalGaussian(
        torch.stack([q.mu for q in components], -3), torch.stack([q.logvar for q in components], -3)
    )


@dataclass(frozen=True)
class Mixture(Posterior):
    """sum_k alpha_k N(mu_k, diag exp logvar_k), with log_alpha (*, K, N) and components' parameters (*, K, N, p)."""

    log_alpha: Tensor
    components: DiagonalGaussian

    def rsample_each(self, eps: Tensor) -> Tensor:
        """One reparametrised draw of each component, with eps (*, K, N, p): (*, K, N, p)."""
        return self.components.rsample(eps)

    def sample(self, noise: Noise, samples: int) -> Tensor:
        """Draws (*, S, N, p): choose a component by its weight, then draw from it. No gradient w.r.t. alpha."""
        *batch, _, n, p = self.components.mu.shape
        # invert the weights' cumulative sum; the last component takes what rounding leaves over
        edges = self.log_alpha.exp().cumsum(-2)[..., :-1, :]
        uniform = noise.uniform((*batch, samples, n)) * self.log_alpha.exp().sum(-2, keepdim=True)
        chosen = (uniform.unsqueeze(-2) >= edges.unsqueeze(-3)).sum(-2)  # (*, S, N)
        index = chosen.unsqueeze(-1).expand(*batch, samples, n, p)
        drawn = DiagonalGaussian(self.components.mu.gather(-3, index), self.components.logvar.gather(-3, index))
        return drawn.rsample(noise.normal((*batch, samples, n, p)))

    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z|x): z (*, N, p) -> (*, N), or with samples (*, S, N, p) -> (*, S, N)."""
        if z.dim() == self.components.mu.dim() - 1:
            each = self.components.log_prob(z.unsqueeze(-3))  # (*, K, N)
            return torch.logsumexp(self.log_alpha + each, -2)
        # broadcast samples against components: (*, S, 1, N, p) against (*, 1, K, N, p)
        each = self.components.unsqueeze(-4).log_prob(z.unsqueeze(-3))
        return torch.logsumexp(self.log_alpha.unsqueeze(-3) + each, -2)

    def moments(self, noise: Noise) -> tuple[Tensor, Tensor]:
        """By the law of total variance: E[sigma^2 + mu^2] - E[mu]^2 over the components."""
        alpha = self.log_alpha.exp().unsqueeze(-1)
        alpha = alpha / alpha.sum(-3, keepdim=True)
        mean = (alpha * self.components.mu).sum(-3)
        spread = (self.components.mu - mean.unsqueeze(-3)).square()
        return mean, (alpha * (self.components.logvar.exp() + spread)).sum(-3).sqrt()


@dataclass(frozen=True)
class FullGaussian(Posterior):
    """N(mu, (L L')^-1), with mu (*, N, p) and L, the lower Cholesky factor of the precision, (*, N, p, p)."""

    mu: Tensor
    precision_cholesky: Tensor

    def rsample(self, eps: Tensor) -> Tensor:
        """mu + L'^-1 eps, with eps (*, N, p)."""
        return self.mu + self._solve(eps.unsqueeze(-1)).squeeze(-1)

    def sample(self, noise: Noise, samples: int) -> Tensor:
        """Reparametrised draws: (*, S, N, p)."""
        eps = noise.normal((*self.mu.shape[:-2], samples, *self.mu.shape[-2:]))
        # one triangular solve per image, with the draws as columns: (*, S, N, p) to (*, N, p, S) and back
        return self.mu.unsqueeze(-3) + self._solve(eps.movedim(-3, -1)).movedim(-1, -3)

    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z|x): z (*, N, p) -> (*, N), or with samples (*, S, N, p) -> (*, S, N)."""
        if z.dim() == self.mu.dim():
            columns = (z - self.mu).unsqueeze(-1)
        else:
            columns = (z - self.mu.unsqueeze(-3)).movedim(-3, -1)
        squared = (self.precision_cholesky.mT @ columns).square().sum(-2)  # (*, N, 1 or S)
        value = -0.5 * (squared + self.mu.shape[-1] * LOG_2PI - self.log_det_precision().unsqueeze(-1))
        return value.squeeze(-1) if z.dim() == self.mu.dim() else value.movedim(-1, -2)

    def moments(self, noise: Noise) -> tuple[Tensor, Tensor]:
        return self.mu, self.variance().sqrt()

    def log_det_precision(self) -> Tensor:
        """log det L L': (*, N)."""
        return 2 * self.precision_cholesky.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def variance(self) -> Tensor:
        """The diagonal of (L L')^-1: (*, N, p)."""
        identity = torch.eye(self.mu.shape[-1], dtype=self.mu.dtype, device=self.mu.device)
        return self._solve(identity.expand_as(self.precision_cholesky)).square().sum(-1)

    def _solve(self, columns: Tensor) -> Tensor:
        """L'^-1 columns: (*, N, p, k) -> (*, N, p, k)."""
        return torch.linalg.solve_triangular(self.precision_cholesky.mT, columns, upper=True)


class Flow(Protocol):
    """An invertible map f of latents. Both directions also return log |det df/dz|: z's shape without its last axis."""

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """f(z): z (*, N, p), or with samples (*, S, N, p)."""
        ...

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The z_0 with f(z_0) = z, and log |det df/dz| at z_0."""
        ...


@dataclass(frozen=True)
class PushForward(Posterior):
    """The distribution of f_k(.. f_1(z_0)), z_0 from the base: log q(z) = log q_0(z_0) - sum_t log |det df_t|."""

    base: DiagonalGaussian
    flows: Sequence[Flow]

    def push(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Map base draws z_0 (*, N, p) or (*, S, N, p) through the flows; also returns their log q(z|x)."""
        log_q = self.base.log_prob(z)
        for flow in self.flows:
            z, log_det = flow.forward(z)
            log_q = log_q - log_det
        return z, log_q

    def sample(self, noise: Noise, samples: int) -> Tensor:
        """Reparametrised draws: (*, S, N, p)."""
        return self.sample_with_log_prob(noise, samples)[0]

    def sample_with_log_prob(self, noise: Noise, samples: int) -> tuple[Tensor, Tensor]:
        """Draws (*, S, N, p) and their log q(z|x), in one pass through the flows."""
        return self.push(self.base.sample(noise, samples))

    def log_prob(self, z: Tensor) -> Tensor:
        """By inverting the flows: z (*, N, p) -> (*, N), or with samples (*, S, N, p) -> (*, S, N)."""
        total = torch.zeros_like(z[..., 0])
        for flow in reversed(self.flows):
            z, log_det = flow.inverse(z)
            total = total + log_det
        return self.base.log_prob(z) - total
