"""The losses of methods with a single update, at one draw, against torch.distributions on the decoder's means."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from rme.noise import Noise
from rme.step import Step

MEMBERS, IMAGES, DIM = 2, 4, 3
CASES = [("vae", None, "conv"), ("sa", 2, "conv"), ("hf", 2, "conv"), ("iaf", 2, "conv"), ("vlae", 2, "fc")]


def streams() -> Noise:
    return Noise([torch.Generator().manual_seed(50 + i) for i in range(MEMBERS)], torch.float64)


def log_normal(value: Tensor, mean: Tensor | float, scale: Tensor | float) -> Tensor:
    return Normal(mean, scale).log_prob(value).flatten(1).sum(1)


@pytest.mark.parametrize(("name", "order", "decoder"), CASES)
def test_the_loss_is_minus_the_elbo_at_the_draw(tiny, name: str, order: int | None, decoder: str) -> None:
    """With KL(q || p) in closed form for a Gaussian q or base; for IAF from log q(z), by the inverse."""
    method = tiny.engine(tiny.spec(name, order, decoder=decoder, precision="float64", restarts=MEMBERS)).method
    method.requires_grad_(True)
    for i in range(MEMBERS):
        method.decoder.logvar.data[i] = -1.0 - i
    x = method.centred(tiny.images.train[:IMAGES].expand(MEMBERS, -1, -1, -1, -1))
    loss = method.loss(Step(x, streams(), 0)).detach()
    assert loss.shape == (MEMBERS,)

    noise = streams()
    q = method.posterior(x, noise)  # SA's steps draw from the noise first, as in its loss
    eps = noise.normal((MEMBERS, IMAGES, DIM))
    with torch.no_grad():
        for b in range(MEMBERS):
            if name == "vlae":
                root = q.precision_cholesky[b]
                own = MultivariateNormal(q.mu[b], precision_matrix=root @ root.mT)
                z = q.mu[b] + (torch.linalg.inv(root).mT @ eps[b].unsqueeze(-1)).squeeze(-1)
                prior = MultivariateNormal(torch.zeros(DIM, dtype=z.dtype), torch.eye(DIM, dtype=z.dtype))
                kl = kl_divergence(own, prior)
            else:
                base = q.base if hasattr(q, "base") else q
                sigma = (base.logvar / 2).exp()
                z0 = base.mu + sigma * eps
                prior = Independent(Normal(torch.zeros_like(base.mu[b]), torch.ones_like(base.mu[b])), 1)
                kl = kl_divergence(Independent(Normal(base.mu[b], sigma[b]), 1), prior)
                z = z0[b]
                if name == "hf":
                    for reflection in q.flows:
                        v = reflection.v[b]
                        z = z - 2 * v * (v * z).sum(-1, keepdim=True) / v.square().sum(-1, keepdim=True)
                if name == "iaf":
                    moved = z0
                    for gate in q.flows:
                        moved, _ = gate.forward(moved)
                    z = moved[b]
                    kl = q.log_prob(moved)[b] - Normal(0, 1).log_prob(z).sum(-1)
            mean = method.decoder(z.expand(MEMBERS, -1, -1))[b]
            fit = log_normal(x[b], mean, (method.decoder.logvar[b] / 2).exp())
            torch.testing.assert_close(loss[b], -(fit - kl).mean(), rtol=1e-11, atol=0)


@pytest.mark.parametrize(("name", "order", "decoder"), [*CASES, ("me", 2, "conv")])
def test_the_single_update_has_all_parameters_and_the_methods_name(
    tiny, name: str, order: int | None, decoder: str
) -> None:
    """The metric is then `train/loss_<name>`."""
    method = tiny.engine(tiny.spec(name, order, decoder=decoder)).method
    (update,) = method.updates()
    assert update.name == name and update.loss == method.loss
    assert {id(p) for p in update.parameters} == {id(p) for p in method.parameters()}


@pytest.mark.parametrize("name", ["me", "rme"])
def test_a_mixtures_diagnostics_are_those_of_its_posterior(tiny, name: str) -> None:
    """Each component's weight, and its own ELBO at one draw from the given noise."""
    method = tiny.engine(tiny.spec(name, 2, precision="float64", restarts=MEMBERS)).method
    x = method.centred(tiny.images.train[:IMAGES].expand(MEMBERS, -1, -1, -1, -1))
    with torch.no_grad():
        found, q = method.diagnostics(x, streams()), method.posterior(x, streams())
        z = q.components.mu + (q.components.logvar / 2).exp() * streams().normal(q.components.mu.shape)
        assert set(found) == {"alpha_0", "alpha_1", "elbo_q_0", "elbo_q_1", "kl_1"}
        for k in range(2):
            torch.testing.assert_close(found[f"alpha_{k}"], q.log_alpha[:, k].exp(), rtol=1e-12, atol=0)
            sigma = (q.components.logvar[:, k] / 2).exp()
            own = Independent(Normal(q.components.mu[:, k], sigma), 1)
            kl = kl_divergence(own, Independent(Normal(torch.zeros_like(sigma), torch.ones_like(sigma)), 1))
            for b in range(MEMBERS):
                fit = log_normal(x[b], method.decoder(z[:, k])[b], (method.decoder.logvar[b] / 2).exp())
                torch.testing.assert_close(found[f"elbo_q_{k}"][b], fit - kl[b], rtol=1e-11, atol=0)
