"""SA: its steps against the analytic gradient, image by image; their derivative against finite differences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rme.config import RunSpec
from rme.distributions import DiagonalGaussian
from rme.methods.sa import SA
from rme.noise import Noise
from rme.step import Step
from tests.oracles.linear_gaussian import LinearGaussian

DIM = 2


class Zeros:
    """Noise of zeros, for any number of images."""

    def normal(self, shape) -> Tensor:
        return torch.zeros(tuple(shape), dtype=torch.float64)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def linear_method(order: int, **options: float) -> SA:
    """SA with two members and a linear-Gaussian decoder, for which ELBO and gradients are known."""
    spec = RunSpec(method="sa", order=order, dataset="digits", dim=DIM, precision="float64", options=options)
    method = SA(spec, (1, 28, 28), 2).double().requires_grad_(False)
    method.decoder = LinearGaussian(2, DIM, orthogonal=False)
    return method


def images(count: int) -> Tensor:
    return 0.3 * normal(2, count, 1, 28, 28, seed=2)


def start(count: int) -> DiagonalGaussian:
    """A q(z|x) far from every image's posterior."""
    return DiagonalGaussian(
        (2 + normal(2, count, DIM, seed=3)).requires_grad_(), (0.5 * normal(2, count, DIM, seed=4)).requires_grad_()
    )


def exact_elbo(decoder: LinearGaussian, x: Tensor, q: DiagonalGaussian) -> Tensor:
    """E_q[log p(x|z)] - KL(q || N(0, I)) in closed form: (B, N)."""
    out = []
    for b in range(2):
        w, s2 = decoder.weight[b], decoder.logvar[b].exp()
        residual = x[b].flatten(1) - q.mu[b] @ w.T - decoder.bias[b]
        spread = (q.logvar[b].exp() * w.square().sum(0)).sum(-1)
        fit = -0.5 * ((residual.square().sum(-1) + spread) / s2 + 784 * torch.log(2 * torch.pi * s2))
        out.append(fit - 0.5 * (q.mu[b].square() + q.logvar[b].exp() - 1 - q.logvar[b]).sum(-1))
    return torch.stack(out)


def test_a_step_is_the_analytic_gradient() -> None:
    """With r = x - W z - b: W'r / s^2 - mu w.r.t. mu; (sigma eps W'r / s^2 - exp(logvar) + 1) / 2 w.r.t. logvar."""
    method, x, q, eps = linear_method(1), images(5), start(5), normal(2, 5, DIM, seed=6)
    found = method.ascend(q, x, eps)
    for b in range(2):
        w, s2 = method.decoder.weight[b], method.decoder.logvar[b].exp()
        mu, logvar = q.mu[b].detach(), q.logvar[b].detach()
        sigma = (logvar / 2).exp()
        pull = (x[b].flatten(1) - (mu + sigma * eps[b]) @ w.T - method.decoder.bias[b]) @ w / s2
        torch.testing.assert_close(found.mu[b].detach(), mu + 1e-3 * (pull - mu), rtol=1e-12, atol=1e-12)
        by_logvar = 0.5 * (sigma * eps[b] * pull - logvar.exp() + 1)
        torch.testing.assert_close(found.logvar[b].detach(), logvar + 1e-3 * by_logvar, rtol=1e-12, atol=1e-12)


def test_every_step_raises_the_elbo_of_every_image() -> None:
    method, x, q = linear_method(8), images(10), start(10)
    elbo = exact_elbo(method.decoder, x, q)
    for t in range(8):
        q = method.ascend(q, x, 0.1 * normal(2, 10, DIM, seed=20 + t))
        q = DiagonalGaussian(q.mu.detach().requires_grad_(), q.logvar.detach().requires_grad_())
        higher = exact_elbo(method.decoder, x, q)
        assert (higher > elbo + 1e-4).all()
        elbo = higher


@pytest.mark.parametrize("order", [1, 8])
def test_an_image_is_refined_the_same_alone_and_in_a_batch(tiny, order: int) -> None:
    method = tiny.engine(tiny.spec("sa", order, precision="float64")).method
    x = method.centred(tiny.images.train[:10].unsqueeze(0))
    with torch.no_grad():
        together, alone = method.posterior(x, Zeros()), method.posterior(x[:, 4:5], Zeros())
        begin = method.encoder(x)
    torch.testing.assert_close(together.mu[:, 4:5], alone.mu, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(together.logvar[:, 4:5], alone.logvar, rtol=1e-12, atol=1e-12)
    assert ((together.mu - begin.mu).abs().amax(-1) > 1e-6).all()
    assert not together.mu.requires_grad and not any(p.requires_grad for p in method.parameters())


def test_the_steps_are_the_same_at_training_and_test_time(tiny) -> None:
    method = tiny.engine(tiny.spec("sa", 4, precision="float64")).method
    x = method.centred(tiny.images.train[:3].unsqueeze(0))
    with torch.no_grad():
        found = method.posterior(x, Noise([torch.Generator().manual_seed(8)], torch.float64))
    step = Step(x, Noise([torch.Generator().manual_seed(8)], torch.float64), 0)
    method.requires_grad_(True)
    q = method.encoder(x)
    for _ in range(4):
        q = method.ascend(q, x, step.normal(3, 3), learning=True)
    torch.testing.assert_close(found.mu, q.mu.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.logvar, q.logvar.detach(), rtol=1e-12, atol=1e-12)


def test_the_gradient_goes_through_the_steps(tiny, monkeypatch) -> None:
    """Against finite differences, with steps so long that their own derivative matters."""
    method = tiny.engine(tiny.spec("sa", 2, dim=DIM, precision="float64", options={"svi_step": 0.02})).method
    x = method.centred(tiny.images.train[:4].unsqueeze(0))

    def loss() -> Tensor:
        return method.loss(Step(x, Noise([torch.Generator().manual_seed(8)], torch.float64), 0)).sum()

    chosen = {
        "encoder.head.0.bias": (0, 0), "encoder.head.0.weight": (0, 3, 7), "decoder.mean.0.weight": (0, 5, 1),
        "decoder.mean.9.bias": (0, 0), "decoder.logvar": (0,),
    }  # fmt: skip
    parameters = dict(method.named_parameters())

    def gradients() -> dict[str, float]:
        method.requires_grad_(True)
        found = torch.autograd.grad(loss(), [parameters[name] for name in chosen])
        method.requires_grad_(False)
        return {name: g[at].item() for g, (name, at) in zip(found, chosen.items(), strict=True)}

    through = gradients()
    ascend = SA.ascend

    def detached(self, q, x, eps, learning=False):
        """A step that is treated as a constant."""
        moved = ascend(self, q, x, eps, learning=True)
        return DiagonalGaussian(q.mu + (moved.mu - q.mu).detach(), q.logvar + (moved.logvar - q.logvar).detach())

    monkeypatch.setattr(SA, "ascend", detached)
    without = gradients()
    monkeypatch.setattr(SA, "ascend", ascend)
    for name, at in chosen.items():
        values = []
        for h in (1e-6, -1e-6):
            parameters[name][at] += h
            method.requires_grad_(True)
            values.append(loss().item())
            method.requires_grad_(False)
            parameters[name][at] -= h
        assert (values[0] - values[1]) / 2e-6 == pytest.approx(through[name], rel=1e-4, abs=1e-5), name
    assert any(abs(through[n] - without[n]) > 0.01 * abs(through[n]) for n in chosen), "this test needs longer steps"


def test_a_step_size_of_zero_keeps_the_encoders_posterior_and_is_part_of_the_key(tiny) -> None:
    spec = tiny.spec("sa", 2, precision="float64", options={"svi_step": 0.0})
    method = tiny.engine(spec).method
    x = method.centred(tiny.images.train[:3].unsqueeze(0))
    with torch.no_grad():
        assert torch.equal(method.posterior(x, Zeros()).mu, method.encoder(x).mu)
    assert spec.key != tiny.spec("sa", 2, precision="float64").key
    assert tiny.spec("sa", 2).key == tiny.spec("sa", 2, options={"svi_step": 1e-3}).key
