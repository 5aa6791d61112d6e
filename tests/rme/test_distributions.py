"""Distributions over latents against torch.distributions, and draws against their densities."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.distributions import (
    AffineTransform,
    Categorical,
    ExpTransform,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    Transform,
    TransformedDistribution,
    kl_divergence,
)

from rme.distributions import (
    MOMENT_DRAWS,
    DiagonalGaussian,
    FullGaussian,
    Mixture,
    Posterior,
    PushForward,
    gaussian_log_prob,
    stack,
    standard_normal_log_prob,
)
from rme.noise import Noise
from rme.objective import kl_to_prior
from tests.oracles.densities import assert_draws_follow_the_density

B, N, P, S = 2, 6, 3, 4


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian(*shape: int, seed: int = 0) -> DiagonalGaussian:
    return DiagonalGaussian(normal(*shape, seed=seed), 0.8 * normal(*shape, seed=seed + 50))


def mixture(components: int, seed: int = 0, p: int = P) -> Mixture:
    logits = 1.5 * normal(B, components, N, seed=seed + 90)
    return Mixture(torch.log_softmax(logits, 1), gaussian(B, components, N, p, seed=seed))


def plain_mixture(q: Mixture) -> MixtureSameFamily:
    """The same in torch.distributions, which has the component axis last."""
    normal = Normal(q.components.mu.transpose(1, 2), (q.components.logvar.transpose(1, 2) / 2).exp())
    return MixtureSameFamily(Categorical(logits=q.log_alpha.transpose(1, 2)), Independent(normal, 1))


def noise(seed: int = 3) -> Noise:
    return Noise([torch.Generator().manual_seed(seed + i) for i in range(B)], torch.float64)


def test_density_from_a_squared_distance() -> None:
    x, mean, logvar = normal(5, 7), normal(5, 7, seed=1), torch.tensor(-0.7, dtype=torch.float64)
    wanted = Normal(mean, math.exp(-0.35)).log_prob(x).sum(-1)
    torch.testing.assert_close(gaussian_log_prob((x - mean).square().sum(-1), logvar, 7), wanted, rtol=1e-12, atol=0)
    for z in (x, normal(B, N, P), normal(B, S, N, P)):
        torch.testing.assert_close(standard_normal_log_prob(z), Normal(0, 1).log_prob(z).sum(-1), rtol=1e-12, atol=0)


# ---------------------------------------------------------------------- one Gaussian
@pytest.mark.parametrize("samples", [0, S, N])
def test_gaussian_density_is_torchs(samples: int) -> None:
    q = gaussian(B, N, P)
    z = normal(B, *[samples] * bool(samples), N, P, seed=2)
    plain = Independent(Normal(q.mu, (q.logvar / 2).exp()), 1)
    for b in range(B):
        own = Independent(Normal(q.mu[b], (q.logvar[b] / 2).exp()), 1)
        torch.testing.assert_close(q.log_prob(z)[b], own.log_prob(z[b]), rtol=1e-12, atol=1e-12)
    if not samples:
        torch.testing.assert_close(q.log_prob(z), plain.log_prob(z), rtol=1e-12, atol=1e-12)


def test_gaussian_draws_have_its_moments_and_entropy() -> None:
    q, draws = gaussian(B, N, P), 20_000
    z = q.sample(noise(), draws)
    assert z.shape == (B, draws, N, P)
    sigma = (q.logvar / 2).exp()
    assert ((z.mean(1) - q.mu) / sigma * math.sqrt(draws)).abs().max() < 4.5
    assert (z.var(1).log() - q.logvar).abs().max() < 4.5 * math.sqrt(2 / draws)
    entropy = Independent(Normal(q.mu, sigma), 1).entropy()
    estimates = -q.log_prob(z)
    assert ((estimates.mean(1) - entropy).abs() < 4.5 * estimates.std(1) / math.sqrt(draws)).all()


def test_gaussian_draws_follow_their_parameters() -> None:
    q = gaussian(B, N, P)
    mu, logvar, eps = q.mu.requires_grad_(), q.logvar.requires_grad_(), normal(B, N, P, seed=4)
    weights = normal(B, N, P, seed=5)
    by_mu, by_logvar = torch.autograd.grad((weights * DiagonalGaussian(mu, logvar).rsample(eps)).sum(), [mu, logvar])
    torch.testing.assert_close(by_mu, weights, rtol=1e-13, atol=0)
    torch.testing.assert_close(by_logvar, weights * eps * (logvar / 2).exp() / 2, rtol=1e-12, atol=1e-15)


def test_draws_of_a_member_come_from_its_own_stream() -> None:
    q = gaussian(B, N, P)
    for distribution in (q, mixture(3)):
        both = distribution.sample(noise(), S)
        other = Noise([torch.Generator().manual_seed(77), torch.Generator().manual_seed(4)], torch.float64)
        again = distribution.sample(other, S)
        assert torch.equal(both[1], again[1])
        assert not torch.isclose(both[0], again[0]).any()


# ---------------------------------------------------------------------- mixtures
@pytest.mark.parametrize("components", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("samples", [0, S, 3, N])
def test_mixture_density_is_torchs(components: int, samples: int) -> None:
    """Also with as many samples as components or images, which catches swapped axes."""
    q = mixture(components)
    z = normal(B, *[samples] * bool(samples), N, P, seed=2)
    found, plain = q.log_prob(z), plain_mixture(q)
    assert found.shape == z.shape[:-1]
    if samples:
        for s in range(samples):
            torch.testing.assert_close(found[:, s], plain.log_prob(z[:, s]), rtol=1e-12, atol=1e-12)
    else:
        torch.testing.assert_close(found, plain.log_prob(z), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("components", [1, 3])
def test_mixture_density_integrates_to_one(components: int) -> None:
    q = mixture(components, p=2)
    side = torch.linspace(-14, 14, 281, dtype=torch.float64)
    grid = torch.cartesian_prod(side, side)  # (S, 2)
    z = grid.view(1, -1, 1, 2).expand(B, -1, N, 2)
    mass = q.log_prob(z).exp().sum(1) * (28 / 280) ** 2
    torch.testing.assert_close(mass, torch.ones(B, N, dtype=torch.float64), rtol=0, atol=2e-3)


def test_mixture_draws_come_from_its_components_in_proportion() -> None:
    """Components far apart, so that each draw's component is known: chi-square of the counts, image by image."""
    components, draws = 4, 4000
    log_alpha = torch.log_softmax(1.2 * normal(B, components, N, seed=7), 1)
    centres = 100.0 * torch.arange(components, dtype=torch.float64).view(1, -1, 1, 1).expand(B, -1, N, P)
    q = Mixture(log_alpha, DiagonalGaussian(centres.contiguous(), 0.3 * normal(B, components, N, P)))
    z = q.sample(noise(), draws)
    assert z.shape == (B, draws, N, P)
    origin = (z / 100).round().long()
    assert (origin == origin[..., :1]).all(), "the entries of one draw come from one component"
    counts = torch.stack([(origin[..., 0] == k).sum(1) for k in range(components)], 1).double()
    expected = draws * log_alpha.exp()
    chi_square = ((counts - expected).square() / expected).sum(1)  # 3 degrees of freedom: P(> 24) = 2e-5
    assert chi_square.max() < 24
    assert 1 < chi_square.mean() < 6, "about its expectation of 3: not closer than chance allows either"
    spread = (z - 100.0 * origin).var(1)
    weighted = (log_alpha.exp().unsqueeze(-1) * q.components.logvar.exp()).sum(1)
    torch.testing.assert_close(spread, weighted, rtol=0.15, atol=0)


@pytest.mark.parametrize("components", [1, 2, 5])
def test_mixture_draws_have_its_moments(components: int) -> None:
    q, draws = mixture(components, seed=11), 20_000
    z, plain = q.sample(noise(), draws), plain_mixture(q)
    assert ((z.mean(1) - plain.mean) / plain.stddev * math.sqrt(draws)).abs().max() < 4.5
    centred = (z - plain.mean.unsqueeze(1)).square()
    assert ((centred.mean(1) - plain.variance) / centred.std(1) * math.sqrt(draws)).abs().max() < 4.5


def test_one_draw_of_each_component_is_reparametrised() -> None:
    q, eps = mixture(3), normal(B, 3, N, P, seed=8)
    z = q.rsample_each(eps)
    for k in range(3):
        sigma = (q.components.logvar[:, k] / 2).exp()
        torch.testing.assert_close(z[:, k], q.components.mu[:, k] + sigma * eps[:, k], rtol=1e-13, atol=1e-13)


def test_mixture_density_far_in_the_tail_is_a_number() -> None:
    """Where every component's density underflows."""
    q = mixture(3)
    z = torch.full((B, N, P), 300.0, dtype=torch.float64)
    assert q.log_prob(z).max() < -745  # exp of it is zero
    torch.testing.assert_close(q.log_prob(z), plain_mixture(q).log_prob(z), rtol=1e-12, atol=0)


def test_a_component_without_weight_is_never_drawn() -> None:
    alpha = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64).view(1, 3, 1).expand(B, 3, N)
    centres = torch.arange(3, dtype=torch.float64).view(1, 3, 1, 1).expand(B, 3, N, P).contiguous()
    q = Mixture(alpha.log(), DiagonalGaussian(centres, torch.full_like(centres, -20.0)))
    z = q.sample(noise(), 500)
    assert (z.round() == 1).all()
    assert q.log_prob(z).isfinite().all()


def test_a_component_without_weight_is_not_drawn_when_the_uniform_is_0() -> None:
    """U[0, 1) includes 0, which then equals the component's upper edge."""

    class Lowest(Noise):
        def uniform(self, shape):
            return torch.zeros(tuple(shape), dtype=torch.float64)

    alpha = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64).view(1, 3, 1).expand(B, 3, N)
    centres = torch.arange(3, dtype=torch.float64).view(1, 3, 1, 1).expand(B, 3, N, P).contiguous()
    q = Mixture(alpha.log(), DiagonalGaussian(centres, torch.full_like(centres, -20.0)))
    z = q.sample(Lowest(noise().generators, torch.float64), S)
    assert (z.round() == 1).all()


@pytest.mark.parametrize("samples", [0, S])
def test_mixture_density_with_more_batch_axes_is_torchs(samples: int) -> None:
    components = gaussian(B, 2, 3, N, P, seed=13)
    q = Mixture(torch.log_softmax(normal(B, 2, 3, N, seed=14), 2), components)
    plain = MixtureSameFamily(
        Categorical(logits=q.log_alpha.movedim(2, -1)),
        Independent(Normal(components.mu.movedim(2, -2), (components.logvar.movedim(2, -2) / 2).exp()), 1),
    )
    z = normal(B, 2, *[samples] * bool(samples), N, P, seed=15)
    wanted = plain.log_prob(z.movedim(2, 0)).movedim(0, 2) if samples else plain.log_prob(z)
    torch.testing.assert_close(q.log_prob(z), wanted, rtol=1e-12, atol=1e-12)


def test_a_mixture_with_more_batch_axes_draws_from_the_component_with_weight() -> None:
    """All weight on one component, which differs between images: (B, 2, K, N)."""
    place = torch.randint(0, 4, (B, 2, N), generator=torch.Generator().manual_seed(12))
    alpha = torch.nn.functional.one_hot(place, 4).movedim(-1, 2).double()
    centres = torch.arange(4, dtype=torch.float64).view(4, 1, 1).expand(B, 2, 4, N, P).contiguous()
    z = Mixture(alpha.log(), DiagonalGaussian(centres, torch.full_like(centres, -20.0))).sample(noise(), S)
    assert z.shape == (B, 2, S, N, P)
    assert (z.round() == place.view(B, 2, 1, N, 1)).all()


# ---------------------------------------------------------------------- one Gaussian of full covariance
def full_gaussian(*batch: int, p: int = P) -> FullGaussian:
    root = torch.tril(0.7 * normal(*batch, p, p, seed=31))
    root = root - torch.diag_embed(root.diagonal(dim1=-2, dim2=-1)) + torch.diag_embed(normal(*batch, p, seed=32).exp())
    return FullGaussian(normal(*batch, p, seed=30), root)


def plain_full(q: FullGaussian, b: int, n: int) -> MultivariateNormal:
    root = q.precision_cholesky[b, n]
    return MultivariateNormal(q.mu[b, n], precision_matrix=root @ root.T)


@pytest.mark.parametrize("samples", [0, S, P, N])
def test_full_gaussian_density_is_torchs(samples: int) -> None:
    q = full_gaussian(B, N)
    z = normal(B, *[samples] * bool(samples), N, P, seed=2)
    found = q.log_prob(z)
    assert found.shape == z.shape[:-1]
    for b in range(B):
        for n in range(N):
            wanted = plain_full(q, b, n).log_prob(z[b, ..., n, :])
            torch.testing.assert_close(found[b, ..., n], wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("samples", [0, S])
def test_full_gaussian_density_with_more_batch_axes_is_torchs(samples: int) -> None:
    q = full_gaussian(B, 2, N)
    z = normal(B, 2, *[samples] * bool(samples), N, P, seed=2)
    root = q.precision_cholesky
    plain = MultivariateNormal(q.mu, precision_matrix=root @ root.mT)  # batch (B, 2, N)
    wanted = plain.log_prob(z.movedim(2, 0)).movedim(0, 2) if samples else plain.log_prob(z)
    torch.testing.assert_close(q.log_prob(z), wanted, rtol=1e-9, atol=1e-9)


def test_whitened_full_gaussian_draws_are_the_noise() -> None:
    """L' (z - mu) = eps."""
    q = full_gaussian(B, N)
    eps = noise().normal((B, S, N, P))
    back = (q.precision_cholesky.mT.unsqueeze(1) @ (q.sample(noise(), S) - q.mu.unsqueeze(1)).unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(back, eps, rtol=1e-9, atol=1e-9)


def test_full_gaussian_draws_have_its_moments() -> None:
    q, draws = full_gaussian(B, N), 20_000
    z = q.sample(noise(), draws)
    assert z.shape == (B, draws, N, P)
    for b in range(B):
        for n in range(N):
            plain, own = plain_full(q, b, n), z[b, :, n]
            assert ((own.mean(0) - plain.mean) / plain.stddev * math.sqrt(draws)).abs().max() < 4.5
            scale = plain.stddev.outer(plain.stddev)
            assert ((torch.cov(own.T) - plain.covariance_matrix) / scale * math.sqrt(draws / 2)).abs().max() < 4.5
    torch.testing.assert_close(q.rsample(normal(B, N, P)), q.mu + torch.linalg.solve(
        q.precision_cholesky.mT, normal(B, N, P).unsqueeze(-1)).squeeze(-1), rtol=1e-9, atol=1e-9)  # fmt: skip


def test_full_gaussian_kl_to_the_prior_is_torchs() -> None:
    q = full_gaussian(B, N)
    prior = MultivariateNormal(torch.zeros(P, dtype=torch.float64), torch.eye(P, dtype=torch.float64))
    for b in range(B):
        for n in range(N):
            plain = plain_full(q, b, n)
            torch.testing.assert_close(kl_to_prior(q)[b, n], kl_divergence(plain, prior), rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(q.variance()[b, n], plain.variance, rtol=1e-9, atol=0)


def test_full_gaussian_draws_follow_its_density() -> None:
    root = torch.tensor([[[[1.2, 0.0], [-0.9, 0.7]]], [[[0.8, 0.0], [0.5, 1.5]]]], dtype=torch.float64)
    assert_draws_follow_the_density(FullGaussian(normal(B, 1, 2), root), (B, 1), half=10.0)


# ---------------------------------------------------------------------- flows
@dataclass(frozen=True)
class Elementwise:
    """One of torch's transforms as a flow."""

    transform: Transform

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        moved = self.transform(z)
        return moved, self.transform.log_abs_det_jacobian(z, moved).sum(-1)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        back = self.transform.inv(z)
        return back, self.transform.log_abs_det_jacobian(back, z).sum(-1)


def pushed_forward(p: int = P) -> tuple[PushForward, TransformedDistribution]:
    """Two maps that do not commute; and the same distribution from torch."""
    base, maps = gaussian(B, N, p, seed=40), [AffineTransform(0.4, 0.5), ExpTransform()]
    plain = Independent(Normal(base.mu, (base.logvar / 2).exp()), 1)
    return PushForward(base, [Elementwise(each) for each in maps]), TransformedDistribution(plain, maps)


@pytest.mark.parametrize("p", [1, P])
@pytest.mark.parametrize("samples", [0, S, N])
def test_a_flows_density_is_torchs_by_push_and_by_inverse(samples: int, p: int) -> None:
    q, plain = pushed_forward(p)
    shape = (B, samples, N, p) if samples else (B, N, p)
    z, log_q = q.push(normal(*shape, seed=41))
    assert log_q.shape == shape[:-1]
    # torch has the sample axis first
    wanted = plain.log_prob(z.movedim(1, 0)).movedim(0, 1) if samples else plain.log_prob(z)
    torch.testing.assert_close(log_q, wanted, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(q.log_prob(z), wanted, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(z, torch.exp(0.4 + 0.5 * normal(*shape, seed=41)), rtol=1e-12, atol=0)


def test_a_flows_draws_are_its_bases_draws_mapped() -> None:
    q, _ = pushed_forward()
    z0 = q.base.sample(noise(), S)
    torch.testing.assert_close(q.sample(noise(), S), torch.exp(0.4 + 0.5 * z0), rtol=1e-12, atol=0)


@pytest.mark.parametrize("which", ["gaussian", "mixture", "full", "flow"])
def test_sample_with_log_prob_equals_sample_and_log_prob(which: str) -> None:
    q: Posterior = {
        "gaussian": gaussian(B, N, P), "mixture": mixture(3), "full": full_gaussian(B, N), "flow": pushed_forward()[0],
    }[which]  # fmt: skip
    z, log_q = q.sample_with_log_prob(noise(), S)
    assert torch.equal(z, q.sample(noise(), S))
    torch.testing.assert_close(log_q, q.log_prob(z), rtol=1e-11, atol=1e-11)


def test_stacking_keeps_each_component() -> None:
    """With as many components as images, which catches swapped axes."""
    parts = [gaussian(B, N, P, seed=60 + k) for k in range(N)]
    z = normal(B, N, P, seed=70)
    found = stack(parts).log_prob(z.unsqueeze(1).expand(B, N, N, P))
    for k, q in enumerate(parts):
        wanted = Normal(q.mu, (q.logvar / 2).exp()).log_prob(z).sum(-1)
        torch.testing.assert_close(found[:, k], wanted, rtol=1e-12, atol=1e-12)


# ---------------------------------------------------------------------- moments
def full_covariance() -> tuple[FullGaussian, MultivariateNormal]:
    root = torch.tril(0.5 * normal(B, N, P, P, seed=80), -1) + torch.diag_embed(normal(B, N, P, seed=81).exp())
    q = FullGaussian(normal(B, N, P, seed=82), root)
    return q, MultivariateNormal(q.mu, precision_matrix=root @ root.mT)


def test_moments_in_closed_form_are_torchs() -> None:
    full, plain_full = full_covariance()
    single, several = gaussian(B, N, P), mixture(4)
    for q, plain in [
        (single, Normal(single.mu, (single.logvar / 2).exp())), (several, plain_mixture(several)), (full, plain_full)
    ]:  # fmt: skip
        mean, stddev = q.moments(noise())
        torch.testing.assert_close(mean, plain.mean, rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(stddev, plain.variance.sqrt(), rtol=1e-11, atol=1e-11)


def test_moments_without_a_closed_form_are_estimated() -> None:
    """Of a log-normal, whose moments are known: exp(m + s^2 / 2), times sqrt(exp(s^2) - 1)."""
    base = DiagonalGaussian(normal(B, N, P), torch.full((B, N, P), math.log(0.09), dtype=torch.float64))
    mean, stddev = PushForward(base, [Elementwise(ExpTransform())]).moments(noise())
    wanted = torch.exp(base.mu + 0.045)
    spread = wanted * math.sqrt(math.exp(0.09) - 1)
    assert ((mean - wanted).abs() < 6 * spread / math.sqrt(MOMENT_DRAWS)).all()
    torch.testing.assert_close(stddev, spread, rtol=0.1, atol=0)
