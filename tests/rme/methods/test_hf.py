"""HF against explicit matrices: the reflections, the resulting Gaussian with full covariance, its KL."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

from rme import objective
from rme.distributions import DiagonalGaussian, PushForward
from rme.methods.hf import Reflection
from tests.oracles.densities import assert_draws_follow_the_density

B, N = 2, 3


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def flow(dim: int, flows: int, images: int = N) -> PushForward:
    base = DiagonalGaussian(normal(B, images, dim, seed=6), 1.5 * normal(B, images, dim, seed=7))
    return PushForward(base, [Reflection(normal(B, images, dim, seed=20 + t)) for t in range(flows)])


def householder(v: Tensor) -> Tensor:
    return torch.eye(len(v), dtype=v.dtype) - 2 * torch.outer(v, v) / (v @ v)


def explicit(q: PushForward, b: int, n: int) -> MultivariateNormal:
    """The same distribution from the product H_k .. H_1."""
    matrix = torch.eye(q.base.mu.shape[-1], dtype=torch.float64)
    for reflection in q.flows:
        matrix = householder(reflection.v[b, n]) @ matrix
    covariance = matrix @ q.base.logvar[b, n].exp().diag() @ matrix.T
    return MultivariateNormal(matrix @ q.base.mu[b, n], (covariance + covariance.T) / 2)


def test_a_reflection_is_the_householder_matrix() -> None:
    v = normal(B, N, 4)
    columns = torch.eye(4, dtype=torch.float64).view(1, 4, 1, 4).expand(B, 4, N, 4)
    found, log_det = Reflection(v).forward(columns)
    assert (log_det == 0).all() and log_det.shape == (B, 4, N)
    for b in range(B):
        for n in range(N):
            matrix = found[b, :, n].T
            torch.testing.assert_close(matrix, householder(v[b, n]), rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(matrix @ matrix.T, torch.eye(4, dtype=torch.float64), rtol=0, atol=1e-12)
            torch.testing.assert_close(matrix @ v[b, n], -v[b, n], rtol=1e-12, atol=1e-12)
            assert torch.linalg.det(matrix).item() == pytest.approx(-1)


def test_a_reflection_of_one_latent_negates_it() -> None:
    z = normal(B, 5, N, 1)
    found, log_det = Reflection(normal(B, N, 1, seed=1)).forward(z)
    torch.testing.assert_close(found, -z, rtol=1e-12, atol=0)
    assert (log_det == 0).all() and log_det.shape == (B, 5, N)


def test_a_reflection_with_a_zero_vector_is_the_identity() -> None:
    z = normal(1, 1, 3)
    assert torch.equal(Reflection(torch.zeros(1, 1, 3, dtype=torch.float64)).forward(z)[0], z)


@pytest.mark.parametrize("flows", [1, 2, 4])
@pytest.mark.parametrize("samples", [0, 2, N])
def test_the_density_is_the_full_gaussians(flows: int, samples: int) -> None:
    q = flow(4, flows)
    z0 = normal(B, *[samples] * bool(samples), N, 4)
    z, log_q = q.push(z0)
    torch.testing.assert_close(q.log_prob(z), log_q, rtol=1e-10, atol=1e-10)
    for b in range(B):
        for n in range(N):
            plain = explicit(q, b, n)
            torch.testing.assert_close(log_q[b, ..., n], plain.log_prob(z[b, ..., n, :]), rtol=1e-9, atol=1e-9)
            covariance = plain.covariance_matrix
            assert (covariance - covariance.diagonal().diag()).abs().max() > 0.05, "it is not diagonal"


def test_log_det_is_that_of_the_jacobian() -> None:
    q, z = flow(4, 3), normal(B, N, 4)
    jacobian = torch.autograd.functional.jacobian(lambda z: q.push(z)[0], z)
    for b in range(B):
        for n in range(N):
            assert torch.linalg.slogdet(jacobian[b, n, :, b, n]).logabsdet.abs() < 1e-12
    torch.testing.assert_close(q.push(z)[1], q.base.log_prob(z), rtol=1e-12, atol=0)


@pytest.mark.parametrize("flows", [1, 4])
def test_the_kl_to_the_prior_is_the_bases(flows: int) -> None:
    q = flow(4, flows)
    prior = MultivariateNormal(torch.zeros(4, dtype=torch.float64), torch.eye(4, dtype=torch.float64))
    for b in range(B):
        for n in range(N):
            wanted = kl_divergence(explicit(q, b, n), prior)
            torch.testing.assert_close(objective.kl_to_prior(q.base)[b, n], wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("flows", [1, 2])
def test_draws_follow_the_density(flows: int) -> None:
    base = DiagonalGaussian(normal(B, 2, 2), torch.tensor([0.8, -1.5], dtype=torch.float64).expand(B, 2, 2))
    q = PushForward(base, [Reflection(normal(B, 2, 2, seed=20 + t)) for t in range(flows)])
    assert_draws_follow_the_density(q, (B, 2))


def test_each_vector_is_linear_in_the_previous_one_and_the_first_in_the_hidden_layer(tiny) -> None:
    engine = tiny.engine(tiny.spec("hf", 4, precision="float64", restarts=2))
    method = engine.method
    x = method.centred(tiny.images.test[:5].expand(2, -1, -1, -1, -1))
    q = method.posterior(x, None)
    assert len(q.flows) == 4, "the order is the number of flows"
    for b in range(2):
        v = method.encoder.features(x)[b]
        for linear, reflection in zip(method.vectors, q.flows, strict=True):
            v = v @ linear[0].weight[b].T + linear[0].bias[b]
            torch.testing.assert_close(reflection.v[b], v, rtol=1e-12, atol=1e-12)
    (vae, _) = tiny.models(engine.spec.parent, tiny.images)
    assert torch.equal(method.encoder.head[0].weight[0], vae["encoder.head.0.weight"])
    assert torch.equal(method.decoder.mean[0].weight[0], vae["decoder.mean.0.weight"])


def test_the_loss_is_minus_the_elbo(tiny) -> None:
    """The ELBO with closed-form KL against the mean of log p(x, z) - log q(z|x) over many draws."""
    engine = tiny.engine(tiny.spec("hf", 2, precision="float64"))
    method = engine.method
    x = method.centred(tiny.images.train[:4].unsqueeze(0))
    with torch.no_grad():
        q = method.posterior(x, None)
        noise = engine.noise
        z, log_q = q.sample_with_log_prob(noise, 500)
        literal = objective.log_joint(method.decoder, x, z) - log_q
        closed = method.decoder.log_prob(x, z) - objective.kl_to_prior(q.base).unsqueeze(1)
    difference = (literal - closed).mean((1, 2))
    assert difference.abs() < 5 * (literal - closed).std() / 2000**0.5
