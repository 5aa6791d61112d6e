"""The true posterior on a grid, against a known one."""

from __future__ import annotations

import pytest
import torch

from rme.noise import Noise
from rme.posterior_grid import grids, windows
from tests.oracles.linear_gaussian import SHAPE, LinearMethod

MEMBERS, IMAGES = 2, 3


@pytest.fixture(scope="module")
def model(tiny):
    """A model with a correlated posterior and a shifted q; and images."""
    method = LinearMethod(tiny.spec(dim=2), MEMBERS, orthogonal=False, shift=0.3)
    x = torch.rand(MEMBERS, IMAGES, *SHAPE, generator=torch.Generator().manual_seed(7), dtype=torch.float64) - 0.5
    return method, x


def noise() -> Noise:
    return Noise([torch.Generator().manual_seed(i) for i in range(MEMBERS)], torch.float64)


def test_the_grid_is_the_posterior(model) -> None:
    method, x = model
    q = method.posterior(x, noise())
    found = grids(method, x, q, noise(), side=81)
    for b in range(MEMBERS):
        torch.testing.assert_close(found.log_p[b], method.decoder.log_evidence(b, x[b]), atol=2e-3, rtol=0)
        exact = method.decoder.posterior(b, x[b])
        for n in range(IMAGES):
            first, second = found.axes[b, n]
            assert first[1] - first[0] == pytest.approx(float(second[1] - second[0])), "windows are square"
            z = torch.stack(torch.meshgrid(first, second, indexing="ij"), -1)
            wanted = exact.log_prob(z.unsqueeze(2))[:, :, n]
            near = wanted > wanted.max() - 8
            torch.testing.assert_close(found.log_posterior[b, n][near], wanted[near], atol=2e-3, rtol=0)
            torch.testing.assert_close(
                found.log_q[b, n], q.log_prob(z.view(1, -1, 1, 2).expand(2, -1, IMAGES, 2))[b, :, n].view(81, 81)
            )


def test_windows_contain_the_posterior_and_q(model) -> None:
    method, x = model
    q = method.posterior(x, noise())
    window = windows(method, x, q, noise())
    for b in range(MEMBERS):
        exact = method.decoder.posterior(b, x[b])
        for mean, variance in ((exact.mean, exact.variance), (q.mu[b], q.logvar[b].exp())):
            reach = 2 * torch.stack([-variance.sqrt(), variance.sqrt()], -1)
            inside = mean.unsqueeze(-1) + reach
            assert (window[b, ..., 0] < inside[..., 0]).all() and (window[b, ..., 1] > inside[..., 1]).all()


def test_a_grid_needs_two_latents(tiny) -> None:
    method = LinearMethod(tiny.spec(dim=3), MEMBERS, orthogonal=True)
    with pytest.raises(ValueError, match="dim=3"):
        grids(method, torch.zeros(MEMBERS, 1, *SHAPE), None, noise())  # type: ignore[arg-type]
