"""BVI-ER1, BVI-ER2: the regulariser against hand-computed values, its schedule, and everything else as in RME."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal

from rme.distributions import DiagonalGaussian
from rme.engine import Engine
from rme.methods import bvi
from rme.noise import Noise
from rme.step import Step

NAMES = pytest.mark.parametrize("name", ["bvi-er1", "bvi-er2"])


def step(engine: Engine, iteration: int) -> Step:
    """A step on the same images with the same draws, at the given iteration."""
    x = engine.method.centred(engine.pixels[:8].unsqueeze(0))
    return Step(x, Noise([torch.Generator().manual_seed(9)], torch.float64), iteration)


@NAMES
def test_the_regulariser_on_one_latent_by_hand(tiny, name: str) -> None:
    """q = N(1, 0.25) and N(-2, 4), drawn at one and two sigma: the value and both gradients."""
    method = tiny.engine(tiny.spec(name, 2, precision="float64")).method
    mu = torch.tensor([[[1.0], [-2.0]]], dtype=torch.float64, requires_grad=True)
    logvar = torch.tensor([[[math.log(0.25)], [math.log(4.0)]]], dtype=torch.float64, requires_grad=True)
    q = DiagonalGaussian(mu, logvar)
    z = q.rsample(torch.tensor([[[1.0], [2.0]]], dtype=torch.float64))
    value = method.regulariser(1, q, z, Step(mu, None, 3))  # nu = 1/2
    half_log_2pi = 0.5 * math.log(2 * math.pi)
    if name == "bvi-er1":  # nu * mean of log q = -log sigma - eps^2 / 2 - log(2 pi) / 2
        first, second = math.log(2) - 0.5 - half_log_2pi, -math.log(2) - 2.0 - half_log_2pi
        wanted, slope = 0.5 * (first + second) / 2, -0.5 / 2 / 2
    else:  # -nu * mean of log sigma^2
        wanted, slope = -0.5 * (math.log(0.25) + math.log(4.0)) / 2, -0.5 / 2
    assert value.shape == (1,) and value.item() == pytest.approx(wanted, abs=1e-12)
    by_mu, by_logvar = torch.autograd.grad(value.sum(), [mu, logvar], allow_unused=True)
    assert by_mu is None or by_mu.abs().max() < 1e-12
    torch.testing.assert_close(by_logvar, torch.full_like(mu, slope), rtol=1e-12, atol=0)
    assert slope < 0, "minimising this loss widens q"


def test_er1_estimates_the_entropy(tiny) -> None:
    method = tiny.engine(tiny.spec("bvi-er1", 2, precision="float64")).method
    logvar = torch.tensor([0.3, -1.2, 0.8], dtype=torch.float64)
    q = DiagonalGaussian(torch.zeros(1, 20_000, 3, dtype=torch.float64), logvar.expand(1, 20_000, 3))
    z = q.rsample(torch.randn(q.mu.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    entropy = Normal(0, (logvar / 2).exp()).entropy().sum().item()
    assert method.regulariser(1, q, z, Step(q.mu, None, 0)).item() == pytest.approx(-entropy, abs=5 * 1.23 / 141)


@NAMES
@pytest.mark.parametrize(("iteration", "nu"), [(0, 1.0), (1, 0.5**0.5), (3, 0.5), (99, 0.1)])
def test_the_loss_is_minus_the_elbo_plus_nu_times_the_regulariser(tiny, name: str, iteration: int, nu: float) -> None:
    """nu = 1 / sqrt(t + 1); q_0 has no regulariser. The rest of the loss is that of RME with kl_max = 0."""
    engine = tiny.engine(tiny.spec(name, 3, precision="float64"))
    recursive = tiny.engine(tiny.spec("rme", 3, precision="float64", kl_max=0.0))
    for e in (engine, recursive):  # so that no estimated KL is below 0
        for m, component in enumerate(e.method.components):
            component.head[0].bias[:, :3] += m
    for m in range(3):
        with torch.no_grad():
            found = engine.method.component_loss(m, step(engine, iteration)).item()
            plain = recursive.method.component_loss(m, step(recursive, iteration)).item()
            s = step(engine, iteration)
            q = engine.method.components[m](s.x)
            eps = s.normal(8, 3)
        sigma = (q.logvar / 2).exp()
        density = Normal(q.mu, sigma).log_prob(q.mu + sigma * eps)
        regulariser = density if name == "bvi-er1" else -2 * sigma.log()
        wanted = nu * regulariser.sum(-1).mean().item() if m else 0.0
        assert found - plain == pytest.approx(wanted, abs=1e-9)
        assert m == 0 or abs(wanted) > 1e-3


@NAMES
def test_t_counts_the_steps_of_this_training(tiny, name: str, monkeypatch) -> None:
    seen = []
    impact = bvi.impact
    monkeypatch.setattr(bvi, "impact", lambda step: seen.append(impact(step)) or seen[-1])
    engine = tiny.engine(tiny.spec(name, 2))
    for _ in range(2):
        engine.train_epoch()  # three steps each
    assert seen == pytest.approx([1 / math.sqrt(t + 1) for t in range(6)])


@NAMES
def test_it_does_not_read_the_kl_max_of_rme(tiny, name: str) -> None:
    assert tiny.spec(name, 2, kl_max=1.0).key == tiny.spec(name, 2, kl_max=2.0).key
    assert tiny.spec("rme", 2, kl_max=1.0).key != tiny.spec("rme", 2, kl_max=2.0).key
    assert tiny.spec(name, 2, eps_max=0.2).key != tiny.spec(name, 2).key
    assert [u.name for u in tiny.engine(tiny.spec(name, 3)).updates] == [
        "q_0",
        "q_1",
        "eps_1",
        "q_2",
        "eps_2",
        "decoder",
    ]
