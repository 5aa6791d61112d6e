"""The components' diagnostics against torch.distributions and closed forms; measured, stored and resumed."""

from __future__ import annotations

import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal, kl_divergence

from rme import diagnostics
from rme.distributions import DiagonalGaussian, Mixture
from rme.methods.rme import mixture
from rme.noise import Noise
from rme.result import Result
from rme.selection import results
from rme.training import train

B, K, N, P = 2, 3, 4, 3


class Uninformative:
    """A decoder with log p(x|z) = 0, so that the ELBO is -KL(q || prior)."""

    def log_prob(self, x, z):
        return torch.zeros(z.shape[:-1], dtype=z.dtype)


def a_mixture() -> Mixture:
    g = torch.Generator().manual_seed(1)
    mu = torch.randn(B, K, N, P, generator=g, dtype=torch.float64)
    logvar = torch.randn(B, K, N, P, generator=g, dtype=torch.float64) / 2
    impacts = [torch.rand(B, N, generator=g, dtype=torch.float64) * 0.4 + 0.05 for _ in range(K - 1)]
    return mixture(DiagonalGaussian(mu, logvar), impacts)


def streams() -> Noise:
    return Noise([torch.Generator().manual_seed(i) for i in range(B)], torch.float64)


def test_weights_elbos_and_kls_are_those_of_torch_distributions():
    q = a_mixture()
    found = diagnostics.of_mixture(Uninformative(), torch.zeros(B, N, 1, 2, 2, dtype=torch.float64), q, streams())
    assert list(found) == diagnostics.names(K)
    z = q.rsample_each(streams().normal((B, K, N, P)))
    weights = q.log_alpha.exp().movedim(1, -1)
    parts = Normal(q.components.mu.movedim(1, -2), (q.components.logvar / 2).exp().movedim(1, -2))
    for k in range(K):
        own = Normal(q.components.mu[:, k], (q.components.logvar[:, k] / 2).exp())
        torch.testing.assert_close(found[f"alpha_{k}"], weights[..., k])
        to_prior = kl_divergence(own, Normal(torch.zeros(P).double(), 1.0)).sum(-1)
        torch.testing.assert_close(found[f"elbo_q_{k}"], -to_prior)
        if k:
            first = Independent(Normal(parts.loc[..., :k, :], parts.scale[..., :k, :]), 1)
            before = MixtureSameFamily(Categorical(probs=weights[..., :k]), first)  # Categorical normalises them
            torch.testing.assert_close(
                found[f"kl_{k}"], Independent(own, 1).log_prob(z[:, k]) - before.log_prob(z[:, k])
            )


def test_the_mixture_before_a_component_is_the_one_it_was_added_to():
    """Since alpha_m = eps_m prod_{j > m} (1 - eps_j), normalising the first k weights undoes eps_k and later."""
    g = torch.Generator().manual_seed(3)
    impacts = [torch.rand(B, N, generator=g, dtype=torch.float64) * 0.5 + 0.01 for _ in range(K - 1)]
    components = a_mixture().components
    whole = mixture(components, impacts)
    earlier = mixture(DiagonalGaussian(components.mu[:, :2], components.logvar[:, :2]), impacts[:1])
    torch.testing.assert_close(diagnostics._before(whole, 2).log_alpha, earlier.log_alpha)


def test_the_mean_of_many_draws_is_the_closed_form():
    mu, logvar = torch.zeros(1, 2, 20_000, P).double(), torch.zeros(1, 2, 20_000, P).double()
    mu[:, 1] += 1.5
    logvar[:, 1] -= 0.7
    q = Mixture(torch.full((1, 2, 20_000), 0.5).double().log(), DiagonalGaussian(mu, logvar))
    noise = Noise([torch.Generator().manual_seed(0)], torch.float64)
    found = diagnostics.of_mixture(Uninformative(), torch.zeros(1, 20_000, 1, 1, 1).double(), q, noise)
    first, second = (Independent(Normal(mu[:, k], (logvar[:, k] / 2).exp()), 1) for k in range(2))
    exact = kl_divergence(second, first)
    error = found["kl_1"].std() / 20_000**0.5
    assert abs(found["kl_1"].mean() - exact.mean()) < 4 * error


def test_they_are_measured_stored_and_resumed(small, tmp_path):
    spec = small.spec("rme", 2, restarts=2, epochs=3)
    whole = small.engine(spec)
    train(whole)
    history = whole.history.diagnostics
    assert set(history) == set(diagnostics.names(2))
    assert all(len(values) == 3 and torch.stack(values).isfinite().all() for values in history.values())
    weights = torch.stack(history["alpha_0"]) + torch.stack(history["alpha_1"])
    torch.testing.assert_close(weights, torch.ones_like(weights))

    begun, resumed = small.engine(spec), small.engine(spec)
    begun.train_epoch()
    begun.validate()
    resumed.load_state(begun.state())
    train(resumed)
    for name, values in resumed.history.diagnostics.items():
        assert torch.equal(torch.stack(values), torch.stack(history[name]))

    result = next(iter(results(whole).values()))
    assert isinstance(result, Result)
    result.save(tmp_path)
    loaded = Result.load(tmp_path)
    assert loaded.diagnostics.keys() == history.keys()
    assert torch.equal(loaded.diagnostics["kl_1"], torch.stack(history["kl_1"]))


def test_epochs_without_a_measurement_are_nan(small):
    engine = small.engine(small.spec("me", 2))
    engine.train_epoch()
    engine.train_epoch()
    engine.validate()
    engine.train_epoch()
    values = torch.stack(engine.history.diagnostics["elbo_q_1"])[:, 0]
    assert values.isfinite().tolist() == [False, True, False]
