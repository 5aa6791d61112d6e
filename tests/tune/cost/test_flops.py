"""The relative cost of trials, in counted FLOPs."""

from __future__ import annotations

import json

import pytest
import torch

from tests.tune.plan.test_grid import spec
from tune.cost import flops
from tune.cost.flops import array_flops


def test_cost_grows_with_components_steps_epochs_and_images():

    def cost(method, order=None, **fields):
        return array_flops([spec(method, order, **fields)])

    vae = cost("vae", epochs=50)
    assert cost("vae", epochs=100) == pytest.approx(2 * vae, rel=0.1)
    assert cost("sa", 1, epochs=50) > 1.5 * vae
    assert 1.5 < cost("sa", 8, epochs=50) / cost("sa", 4, epochs=50) < 2
    rme = [cost("rme", order, epochs=50) for order in (2, 3, 4, 5)]
    assert vae < rme[0] < rme[1] < rme[2] < rme[3]
    assert cost("vae", epochs=50, dataset="celeba") > 100 * vae  # 160 times the images, 12 times the pixels each
    assert cost("vae", epochs=50, restarts=3) == pytest.approx(3 * vae, rel=0.1)
    # SVI trains nothing; at test time it takes 50 or 10 steps on each image's posterior
    assert cost("svi", 50, epochs=50) == cost("svi", 50, epochs=900)
    assert 4 < cost("svi", 50, iwae_samples=1) / cost("svi", 10, iwae_samples=1) < 5.1


def test_counts_are_cached_and_made_with_one_thread(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    threads, counted = torch.get_num_threads(), []
    count = flops._count

    def noted(run, shape):
        counted.append(torch.get_num_threads())
        return count(run, shape)

    monkeypatch.setattr(flops, "_count", noted)
    flops._per_image.cache_clear()
    first = array_flops([spec("hf", 2)])
    (values,) = json.loads((tmp_path / "rme" / "flops.json").read_text()).values()
    assert len(values) == 1 and counted == [1] and torch.get_num_threads() == threads
    flops._per_image.cache_clear()  # another process
    assert array_flops([spec("hf", 2)]) == first and counted == [1]
