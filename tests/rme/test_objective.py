"""ELBO, KL and IWAE: closed forms, torch.distributions, and the linear-Gaussian model, whose log p(x) is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from rme import objective
from rme.distributions import DiagonalGaussian, FullGaussian, Mixture
from rme.noise import Noise
from tests.oracles.linear_gaussian import LinearGaussian


def gaussian(*shape: int, seed: int, dtype=torch.float64) -> DiagonalGaussian:
    g = torch.Generator().manual_seed(seed)
    return DiagonalGaussian(
        torch.randn(shape, generator=g, dtype=dtype), 0.7 * torch.randn(shape, generator=g, dtype=dtype)
    )


def plain(q: DiagonalGaussian) -> Independent:
    return Independent(Normal(q.mu, q.logvar.exp().sqrt()), 1)


def streams(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(100 + i) for i in range(count)]


# ---------------------------------------------------------------------- KL
def test_kl_to_the_prior_equals_torchs() -> None:
    q = gaussian(2, 7, 5, seed=0)
    prior = Independent(Normal(torch.zeros_like(q.mu), torch.ones_like(q.mu)), 1)
    torch.testing.assert_close(objective.kl_to_prior(q), kl_divergence(plain(q), prior), rtol=1e-12, atol=1e-12)


def test_kl_of_a_full_gaussian_to_the_prior_equals_torchs() -> None:
    g = torch.Generator().manual_seed(10)
    root = torch.randn(2, 3, 4, 4, generator=g, dtype=torch.float64).tril(-1)
    root = root + torch.diag_embed(torch.rand(2, 3, 4, generator=g, dtype=torch.float64) + 0.5)
    mu = torch.randn(2, 3, 4, generator=g, dtype=torch.float64)
    prior = MultivariateNormal(torch.zeros(4, dtype=torch.float64), torch.eye(4, dtype=torch.float64))
    wanted = kl_divergence(MultivariateNormal(mu, precision_matrix=root @ root.mT), prior)
    torch.testing.assert_close(objective.kl_to_prior(FullGaussian(mu, root)), wanted, rtol=1e-9, atol=1e-9)


def test_the_mean_of_the_monte_carlo_kl_is_the_closed_form() -> None:
    q, r = gaussian(1, 4, 3, seed=2), gaussian(1, 4, 3, seed=3)
    draws = 20_000
    z = q.sample(Noise(streams(1), torch.float64), draws)
    estimates = objective.kl_monte_carlo(q, r, z)
    assert estimates.shape == (1, draws, 4)
    error = estimates.std(1) / math.sqrt(draws)
    assert ((estimates.mean(1) - kl_divergence(plain(q), plain(r))).abs() < 4 * error).all()


# ---------------------------------------------------------------------- IWAE
def test_iwae_is_the_log_of_the_mean_weight() -> None:
    g = torch.Generator().manual_seed(4)
    log_w = 3 * torch.randn(2, 6, 6, generator=g, dtype=torch.float64)  # (B, S, N) with S = N: catches swapped axes
    value = objective.iwae(log_w)
    assert value.shape == (2, 6)
    for b in range(2):
        for n in range(6):
            literal = math.log(sum(math.exp(log_w[b, s, n]) for s in range(6)) / 6)
            assert value[b, n].item() == pytest.approx(literal, rel=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("level", [-2000.0, 2000.0])
def test_iwae_does_not_overflow(dtype: torch.dtype, level: float) -> None:
    offsets = torch.tensor([0.0, -1.0, -2.0], dtype=torch.float64)
    log_w = (level + offsets).to(dtype).view(1, 3, 1)
    literal = level + math.log(sum(math.exp(o) for o in offsets.tolist()) / 3)
    assert objective.iwae(log_w).item() == pytest.approx(literal, rel=1e-6 if dtype == torch.float32 else 1e-14)


def test_iwae_of_one_draw_is_its_log_weight() -> None:
    log_w = torch.tensor([[[-812.25, 3.5]]])
    assert torch.equal(objective.iwae(log_w), log_w[:, 0])


# ---------------------------------------------------------------------- log weights and ELBOs
@pytest.mark.parametrize("samples", [0, 5])
def test_log_weights_are_joint_minus_posterior(samples: int) -> None:
    decoder = LinearGaussian(2, 3, orthogonal=False)
    q = gaussian(2, 4, 3, seed=5)
    g = torch.Generator().manual_seed(6)
    x = torch.rand(2, 4, 1, 28, 28, generator=g, dtype=torch.float64)
    z = torch.randn(2, *[samples] * bool(samples), 4, 3, generator=g, dtype=torch.float64)
    found = objective.log_weights(decoder, x, q, z)
    assert found.shape == z.shape[:-1]
    for b in range(2):
        w, bias, s = decoder.weight[b], decoder.bias[b], (decoder.logvar[b] / 2).exp()
        joint = Normal(z[b] @ w.T + bias, s).log_prob(x[b].flatten(1)).sum(-1) + Normal(0, 1).log_prob(z[b]).sum(-1)
        own = Normal(q.mu[b], (q.logvar[b] / 2).exp()).log_prob(z[b]).sum(-1)
        torch.testing.assert_close(found[b], joint - own, rtol=1e-12, atol=1e-9)


def test_the_mean_of_a_gaussians_elbo_is_the_closed_form() -> None:
    """E[elbo] = log p(x) - KL(q || p(z|x)), both from torch.distributions."""
    decoder = LinearGaussian(2, 3, orthogonal=False)
    x = torch.rand(2, 4, 1, 28, 28, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    exact = decoder.diagonal_posterior(x)
    q = DiagonalGaussian(exact.mu + 0.3, exact.logvar + 0.4)
    draws, noise = 1500, Noise(streams(2), torch.float64)
    estimates = torch.stack([objective.elbo(decoder, x, q, q.rsample(noise.normal(q.mu.shape))) for _ in range(draws)])
    error = estimates.std(0) / math.sqrt(draws)
    for b in range(2):
        own = MultivariateNormal(q.mu[b], torch.diag_embed(q.logvar[b].exp()))
        wanted = decoder.log_evidence(b, x[b]) - kl_divergence(own, decoder.posterior(b, x[b]))
        assert ((estimates.mean(0)[b] - wanted).abs() < 4 * error[b]).all()


def mixture_on_a_line() -> tuple[LinearGaussian, Tensor, Mixture]:
    decoder = LinearGaussian(1, 1, orthogonal=True)
    x = torch.rand(1, 2, 1, 28, 28, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    mu = torch.tensor([-0.8, 0.3, 1.1], dtype=torch.float64).view(1, 3, 1, 1).expand(1, 3, 2, 1)
    logvar = torch.tensor([-1.0, -0.2, -2.0], dtype=torch.float64).view(1, 3, 1, 1).expand(1, 3, 2, 1)
    alpha = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]], dtype=torch.float64).T.unsqueeze(0)
    return decoder, x, Mixture(alpha.log(), DiagonalGaussian(mu, logvar))


def elbo_by_quadrature(decoder: LinearGaussian, x: Tensor, q: Mixture) -> Tensor:
    """Integral of Q(z) (log p(x, z) - log Q(z)) dz over a fine grid, with densities from torch.distributions: (N,)."""
    z = torch.linspace(-9, 9, 6001, dtype=torch.float64)
    normal = Normal(q.components.mu[0], (q.components.logvar[0] / 2).exp())  # (K, N, 1)
    log_q = torch.logsumexp(q.log_alpha[0].unsqueeze(-1) + normal.log_prob(z), 0)  # (N, grid)
    grid = z.view(1, -1, 1, 1).expand(1, -1, x.shape[1], 1)
    joint = decoder.log_prob(x, grid)[0].T + Normal(0, 1).log_prob(z)
    return torch.trapezoid(log_q.exp() * (joint - log_q), z, dim=-1)


def test_the_elbo_of_a_mixture_is_unbiased() -> None:
    decoder, x, q = mixture_on_a_line()
    draws, noise = 1500, Noise(streams(1), torch.float64)
    estimates = torch.stack([
        objective.elbo_of_mixture(decoder, x, q, q.rsample_each(noise.normal(q.components.mu.shape)))
        for _ in range(draws)
    ])[:, 0]  # fmt: skip
    assert estimates.shape == (draws, 2)
    error = estimates.std(0) / math.sqrt(draws)
    assert ((estimates.mean(0) - elbo_by_quadrature(decoder, x, q)).abs() < 4 * error).all()


def test_the_weights_gradient_of_a_mixtures_elbo_is_unbiased() -> None:
    """W.r.t. the weights' logits: sampling a component instead of summing over all would lose this gradient."""
    decoder, x, q = mixture_on_a_line()
    logits = q.log_alpha.clone().requires_grad_()

    def with_weights() -> Mixture:
        return Mixture(torch.log_softmax(logits, dim=1), q.components)

    (wanted,) = torch.autograd.grad(elbo_by_quadrature(decoder, x, with_weights()).sum(), logits)
    draws, noise = 1000, Noise(streams(1), torch.float64)
    gradients = []
    for _ in range(draws):
        own = with_weights()
        z = own.rsample_each(noise.normal(q.components.mu.shape))
        gradients.append(torch.autograd.grad(objective.elbo_of_mixture(decoder, x, own, z).sum(), logits)[0])
    stacked = torch.stack(gradients)
    error = stacked.std(0) / math.sqrt(draws)
    assert ((stacked.mean(0) - wanted).abs() < 4 * error).all()
    assert (wanted.abs() > 8 * error).any(), "the estimate is too noisy to show anything"
