"""What a trial is counted to cost beside others."""

from __future__ import annotations

import pytest

from tests.tune.plan.test_grid import spec
from tune.cost.flops import array_flops


def test_cost_grows_with_what_is_computed():
    """More components, steps, epochs or images: each costs more, and a component about as much as the last."""

    def cost(method, order=None, **fields):
        return array_flops([spec(method, order, **fields)])

    vae = cost("vae", epochs=50)
    assert cost("vae", epochs=100) == pytest.approx(2 * vae, rel=0.1)
    assert cost("sa", 1, epochs=50) > 1.5 * vae
    assert 1.5 < cost("sa", 8, epochs=50) / cost("sa", 4, epochs=50) < 2
    rme = [cost("rme", order, epochs=50) for order in (2, 3, 4, 5)]
    assert vae < rme[0] < rme[1] < rme[2] < rme[3]
    assert cost("vae", epochs=50, dataset="celeba") > 100 * vae  # 160 times the images, 12 times the pixels
    assert cost("vae", epochs=50, restarts=3) == pytest.approx(3 * vae, rel=0.1)
    # all of it at test time: 50 steps of an image's own posterior against 10
    assert cost("svi", 50, epochs=50) == cost("svi", 50, epochs=900)
    assert 4 < cost("svi", 50, iwae_samples=1) / cost("svi", 10, iwae_samples=1) < 5.1
