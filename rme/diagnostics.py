"""Diagnostics of a mixture's components: each one's weight, its ELBO, and its KL from the components before it."""

from __future__ import annotations

import torch
from torch import Tensor

from rme import objective
from rme.distributions import DiagonalGaussian, Mixture
from rme.noise import Noise
from rme.objective import Likelihood


def names(components: int) -> list[str]:
    """The names of `of_mixture`'s diagnostics for a mixture of `components`, in its order."""
    each = range(components)
    return [f"alpha_{k}" for k in each] + [f"elbo_q_{k}" for k in each] + [f"kl_{k}" for k in each[1:]]


def of_mixture(decoder: Likelihood, x: Tensor, q: Mixture, noise: Noise) -> dict[str, Tensor]:
    """Diagnostics of each component q_k(z|x) of Q(z|x), per image, by name: (B, N) each.

    alpha_k: its weight. elbo_q_k: its own ELBO, nats. kl_k, k > 0: KL(q_k || Q_{k-1}), nats, where Q_{k-1} is the
    mixture of the components before it, their weights normalised (in RME these equal the weights when q_k was added).
    ELBO and KL are estimated at one draw of each component.

    Args:
        decoder: log p(x|z).
        x: images (B, N, C, H, W).
        q: Q(z|x), components (B, K, N, p).
        noise: one stream per member.
    """
    components = q.components
    z = q.rsample_each(noise.normal(components.mu.shape))
    found: dict[str, Tensor] = {}
    for k in range(components.mu.shape[-3]):
        q_k = DiagonalGaussian(components.mu[..., k, :, :], components.logvar[..., k, :, :])
        z_k = z[..., k, :, :]
        found[f"alpha_{k}"] = q.log_alpha[..., k, :].exp()
        found[f"elbo_q_{k}"] = objective.elbo(decoder, x, q_k, z_k)
        if k > 0:
            found[f"kl_{k}"] = objective.kl_monte_carlo(q_k, _before(q, k), z_k)
    return {name: found[name] for name in names(components.mu.shape[-3])}


def _before(q: Mixture, k: int) -> Mixture:
    """Q_{k-1}: the first k components, their weights normalised."""
    log_alpha = torch.log_softmax(q.log_alpha[..., :k, :], -2)
    return Mixture(log_alpha, DiagonalGaussian(q.components.mu[..., :k, :, :], q.components.logvar[..., :k, :, :]))
