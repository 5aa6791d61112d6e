"""Check a posterior of two latents: its density has mass one, and its draws follow it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rme.distributions import Posterior
from rme.noise import Noise


def assert_draws_follow_the_density(q: Posterior, batch: tuple[int, int], half: float = 8.0, draws: int = 6000) -> None:
    """For q of batch shape (B, N) and z (2,): integrates on a grid, then tests coarse bins by chi-square.

    Args:
        half: half width of the grid [-half, half]^2, which must contain all but 1e-3 of the mass.
    """
    coarse, fine = 12, 20
    side, step = coarse * fine, 2 * half / (coarse * fine)
    middle = -half + step * (torch.arange(side, dtype=torch.float64) + 0.5)
    grid = torch.cartesian_prod(middle, middle)
    members, images = batch
    z = grid.view(1, -1, 1, 2).expand(members, -1, images, 2)
    with torch.no_grad():
        mass = q.log_prob(z).exp().view(members, coarse, fine, coarse, fine, images).sum((2, 4)) * step**2
        torch.testing.assert_close(mass.sum((1, 2)), torch.ones(batch, dtype=torch.float64), rtol=0, atol=1e-3)
        noise = Noise([torch.Generator().manual_seed(30 + i) for i in range(members)], torch.float64)
        found = q.sample(noise, draws)
    for b in range(members):
        for n in range(images):
            assert_counts(found[b, :, n], mass[b, ..., n].flatten(), half, coarse)


def assert_counts(z: Tensor, mass: Tensor, half: float, coarse: int) -> None:
    """Chi-square test of the draws z (S, 2) against the bins' masses (coarse^2,); bins expecting < 10 are merged."""
    cell = ((z + half) / (2 * half) * coarse).floor().long().clamp(0, coarse - 1)
    counts = torch.bincount(cell[:, 0] * coarse + cell[:, 1], minlength=coarse**2).double()
    expected = mass * len(z)
    common = expected >= 10
    counts = torch.cat([counts[common], counts[~common].sum().view(1)])
    expected = torch.cat([expected[common], expected[~common].sum().view(1)])
    chi_square = ((counts - expected).square() / expected.clamp(min=1)).sum().item()
    freedom = len(counts) - 1
    assert freedom >= 3, "the density is too narrow for these bins to show anything"
    assert chi_square < freedom + 5 * math.sqrt(2 * freedom) + 5
