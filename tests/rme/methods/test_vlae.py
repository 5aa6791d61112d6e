"""VLAE: its linearisation against autograd's Jacobian; with a linear decoder, against the exact p(z|x) and log p(x)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from bench.plain import copy_member, fc_decoder
from rme import evaluate, nets, noise
from rme.engine import Engine
from rme.noise import Noise
from rme.step import Step

DIM, MEMBERS, IMAGES = 3, 2, 4


def engine(tiny, order: int, linear: bool) -> Engine:
    """Two members in float64; if linear, all units of their decoders are active for any z."""
    found = tiny.engine(tiny.spec("vlae", order, decoder="fc", dim=DIM, precision="float64", restarts=MEMBERS))
    first, second, last = found.method.layers()
    for layer in (first, second, last):
        layer.weight *= 1.5
    if linear:
        first.bias += 100.0
        second.bias += 1000.0
        last.bias -= found.method.decoder.mean(torch.zeros(MEMBERS, 1, DIM, dtype=torch.float64)).flatten(1)
    found.method.decoder.logvar.copy_(torch.tensor([-1.0, -2.0]))
    return found


def images(method, tiny) -> Tensor:
    return method.centred(tiny.images.test[:IMAGES].expand(MEMBERS, -1, -1, -1, -1))


def plain_decoder(method, i: int) -> nn.Module:
    plain = fc_decoder(DIM, (1, 28, 28), nets.fc_decoder_width(DIM, (1, 28, 28))).double().requires_grad_(False)
    copy_member(method.decoder, i, plain)
    return nn.Sequential(*plain, nn.Flatten())


def linear_gaussian(method, i: int) -> tuple[Tensor, Tensor, Tensor]:
    """W = W3 W2 W1, b = g(0), s^2 of member i."""
    first, second, last = method.layers()
    at_zero = plain_decoder(method, i)(torch.zeros(1, DIM, dtype=torch.float64))[0]
    return last.weight[i] @ second.weight[i] @ first.weight[i], at_zero, method.decoder.logvar[i].exp()


def exact_posterior(method, i: int, x: Tensor) -> tuple[Tensor, Tensor]:
    """Modes (N, p) and covariance (p, p) of p(z|x)."""
    w, b, s2 = linear_gaussian(method, i)
    covariance = torch.linalg.inv(w.T @ w / s2 + torch.eye(DIM, dtype=torch.float64))
    return (x[i].flatten(1) - b) @ w @ covariance / s2, covariance


# ---------------------------------------------------------------------- the linearisation
def test_tangents_are_the_jacobian_and_the_precision_its_gram_matrix(tiny) -> None:
    method = engine(tiny, 1, linear=False).method
    mu = torch.randn(MEMBERS, IMAGES, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mean, tangents = method.linearise(mu)
    last = method.layers()[-1].weight
    cholesky = method.precision_cholesky(tangents, last.mT @ last)
    assert (tangents == 0).any() and (tangents != 0).any(), "this test needs active and inactive units"
    for i in range(MEMBERS):
        decode = plain_decoder(method, i)
        torch.testing.assert_close(mean[i], decode(mu[i]), rtol=1e-12, atol=1e-12)
        for n in range(IMAGES):
            jacobian = torch.func.jacfwd(lambda z, decode=decode: decode(z.unsqueeze(0))[0])(mu[i, n])  # (784, p)
            torch.testing.assert_close(tangents[i, n] @ last[i].T, jacobian.T, rtol=1e-11, atol=1e-12)
            precision = jacobian.T @ jacobian / method.decoder.logvar[i].exp() + torch.eye(DIM, dtype=torch.float64)
            torch.testing.assert_close(cholesky[i, n] @ cholesky[i, n].T, precision, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("order", [1, 4])
def test_the_posterior_is_the_algorithm_written_out(tiny, order: int) -> None:
    """With a ReLU decoder, image by image, in the reference's notation: W, b, and the linear model's mode."""
    method = engine(tiny, order, linear=False).method
    x = images(method, tiny)
    q = method.posterior(x, None)
    begin = method.encoder(x)
    for i in range(MEMBERS):
        decode, s2 = plain_decoder(method, i), method.decoder.logvar[i].exp()

        def jacobian(z: Tensor, decode=decode) -> Tensor:
            return torch.func.jacfwd(lambda z: decode(z.unsqueeze(0))[0])(z)

        for n in range(IMAGES):
            mu, eye = begin[i, n], torch.eye(DIM, dtype=torch.float64)
            for t in range(order):
                w = jacobian(mu)
                b = decode(mu.unsqueeze(0))[0] - w @ mu
                mode = torch.linalg.solve(w.T @ w / s2 + eye, w.T @ (x[i, n].flatten() - b) / s2)
                rate = 0.5 / (t + 1)
                mu = (1 - rate) * mu + rate * mode
            torch.testing.assert_close(q.mu[i, n], mu, rtol=1e-9, atol=1e-9)
            w = jacobian(mu)
            precision = q.precision_cholesky[i, n] @ q.precision_cholesky[i, n].T
            torch.testing.assert_close(precision, w.T @ w / s2 + eye, rtol=1e-9, atol=1e-9)


# ---------------------------------------------------------------------- a linear decoder
@pytest.mark.parametrize("order", [1, 2, 4, 8])
def test_each_step_reduces_the_distance_to_the_mode_as_damped(tiny, order: int) -> None:
    """Step t multiplies the distance by 1 - 0.5 / (t + 1); the covariance is exact from the start."""
    method = engine(tiny, order, linear=True).method
    x = images(method, tiny)
    q, begin = method.posterior(x, None), method.encoder(x)
    left = math.prod(1 - 0.5 / (t + 1) for t in range(order))
    for i in range(MEMBERS):
        mode, covariance = exact_posterior(method, i, x)
        assert ((begin[i] - mode).norm(dim=-1) > 0.05).all()
        torch.testing.assert_close(q.mu[i] - mode, left * (begin[i] - mode), rtol=1e-6, atol=1e-8)
        for n in range(IMAGES):
            cholesky = q.precision_cholesky[i, n]
            torch.testing.assert_close(torch.linalg.inv(cholesky @ cholesky.T), covariance, rtol=1e-8, atol=1e-10)
        correlation = covariance / covariance.diagonal().outer(covariance.diagonal()).sqrt()
        assert (correlation - torch.eye(DIM)).abs().max() > 0.05, "it is not diagonal"


@pytest.mark.parametrize("order", [1, 8])
def test_one_sample_gives_log_p_of_x_if_the_encoder_finds_the_mode(tiny, order: int, monkeypatch) -> None:
    e = engine(tiny, order, linear=True)
    method = e.method
    x = images(method, tiny)
    modes = torch.stack([exact_posterior(method, i, x)[0] for i in range(MEMBERS)])
    monkeypatch.setattr(method.encoder, "forward", lambda x: modes)
    index = torch.arange(IMAGES).expand(MEMBERS, -1)
    streams = [noise.generator(0, r, noise.EVALUATE) for r in range(MEMBERS)]
    found = evaluate.scores(method, tiny.images.test, index, samples=1, generators=streams)
    for i in range(MEMBERS):
        w, b, s2 = linear_gaussian(method, i)
        evidence = MultivariateNormal(b, w @ w.T + s2 * torch.eye(784, dtype=torch.float64))
        torch.testing.assert_close(found.iwae[i], evidence.log_prob(x[i].flatten(1)), rtol=1e-9, atol=1e-6)


def test_the_gap_of_the_elbo_is_the_kl_to_the_exact_posterior(tiny) -> None:
    """With an untrained encoder, so that q is not at the mode."""
    e = engine(tiny, 4, linear=True)
    method = e.method
    x = images(method, tiny)
    q = method.posterior(x, None)
    stream = Noise([noise.generator(0, r, noise.EVALUATE) for r in range(MEMBERS)], torch.float64)
    z, log_q = q.sample_with_log_prob(stream, 2000)
    log_w = method.decoder.log_prob(x, z) + torch.distributions.Normal(0, 1).log_prob(z).sum(-1) - log_q
    for i in range(MEMBERS):
        w, b, s2 = linear_gaussian(method, i)
        exact = MultivariateNormal(b, w @ w.T + s2 * torch.eye(784, dtype=torch.float64)).log_prob(x[i].flatten(1))
        mode, covariance = exact_posterior(method, i, x)
        gap = exact - log_w[i].mean(0)
        # KL of two Gaussians with the same covariance
        offset = q.mu[i] - mode
        kl = 0.5 * (offset @ torch.linalg.inv(covariance) * offset).sum(-1)
        error = log_w[i].std(0) / math.sqrt(2000)
        assert ((gap - kl).abs() < 5 * error + 1e-6).all()


def test_the_encoder_gets_a_gradient(tiny) -> None:
    """Without damping, a linear decoder's posterior would not depend on the encoder."""
    e = engine(tiny, 8, linear=True)
    parameters = list(e.method.encoder.parameters())
    e.method.requires_grad_(True)
    loss = e.method.loss(Step(images(e.method, tiny), e.noise, 0))
    for gradient in torch.autograd.grad(loss.sum(), parameters):
        assert gradient.isfinite().all() and (gradient.flatten(1).norm(dim=1) > 1e-6).all()
