"""ELBO, KL and IWAE, per image, in nats. Nothing else in the project defines them.

Shapes: images x (B, N, C, H, W); one draw z (B, N, p), or S draws (B, S, N, p).
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from rme.distributions import DiagonalGaussian, FullGaussian, Mixture, Posterior, standard_normal_log_prob


class Likelihood(Protocol):
    """A decoder: anything with log p(x|z)."""

    def log_prob(self, x: Tensor, z: Tensor) -> Tensor: ...


def kl_to_prior(q: DiagonalGaussian | FullGaussian) -> Tensor:
    """KL(q || N(0, I)) in closed form: (*, N)."""
    if isinstance(q, FullGaussian):
        return 0.5 * ((q.mu.square() + q.variance() - 1).sum(-1) + q.log_det_precision())
    return 0.5 * (q.mu.square() + q.logvar.exp() - 1 - q.logvar).sum(-1)


def kl_monte_carlo(q: Posterior, r: Posterior, z: Tensor) -> Tensor:
    """KL(q || r) estimated at draws z of q: log q(z) - log r(z), of z's shape without its last axis."""
    return q.log_prob(z) - r.log_prob(z)


def log_joint(decoder: Likelihood, x: Tensor, z: Tensor) -> Tensor:
    """log p(x, z) = log p(x|z) + log p(z): z (B, N, p) -> (B, N), or (B, S, N, p) -> (B, S, N)."""
    return decoder.log_prob(x, z) + standard_normal_log_prob(z)


def log_weights(decoder: Likelihood, x: Tensor, q: Posterior, z: Tensor) -> Tensor:
    """log p(x, z) - log q(z|x) at draws z of q: (B, N) or (B, S, N). The mean over draws estimates the ELBO."""
    return log_joint(decoder, x, z) - q.log_prob(z)


def elbo(decoder: Likelihood, x: Tensor, q: DiagonalGaussian | FullGaussian, z: Tensor) -> Tensor:
    """ELBO estimate: log p(x|z) at one draw z (B, N, p) of q, minus KL(q || prior) in closed form. (B, N)."""
    return decoder.log_prob(x, z) - kl_to_prior(q)


def elbo_of_mixture(decoder: Likelihood, x: Tensor, q: Mixture, z: Tensor) -> Tensor:
    """ELBO estimate: sum_k alpha_k(x) (log p(x, z_k) - log Q(z_k|x)), z (B, K, N, p) a draw of each component. (B, N).

    The sum over components is exact, not sampled, so gradients reach the weights alpha (section 4).
    """
    return (q.log_alpha.exp() * log_weights(decoder, x, q, z)).sum(-2)


def iwae(log_w: Tensor) -> Tensor:
    """Eq. (1): log (1/S sum_s w_s), from log-weights (B, S, N): (B, N)."""
    return torch.logsumexp(log_w, -2) - math.log(log_w.shape[-2])
