"""`--gpus-per-trial auto`: the arithmetic with given numbers, and measurements on a CPU."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from rme import data
from tests import ROOT
from tests.tune.plan.test_grid import spec
from tune.cost import gpu_share as packing
from tune.cost.gpu_share import Need, image_bytes, kind, measure, share

GIB = 1 << 30


@pytest.mark.parametrize(
    ("trial", "device", "expected"),
    [
        (1.0, 10.0, 1 / 8),  # 10 / 1.15 = 8.7
        (3.0, 10.0, 1 / 2),
        (6.0, 10.0, 1.0),
        (30.0, 10.0, 1.0),  # does not fit: starts anyway, and is halved
        (0.7, 80.0, 1 / 99),
    ],
)
def test_as_many_as_fit_with_a_margin(trial, device, expected):
    found = share(Need(int(trial * GIB), int(device * GIB)))
    assert found == pytest.approx(expected, abs=1e-4)
    fitting = round(1 / expected)
    assert found * fitting <= 1, "Ray must find room for all of them"
    assert fitting == 1 or fitting * trial * 1.15 <= device
    assert (fitting + 1) * trial * 1.15 > device


def test_trials_of_equal_memory_have_the_same_kind():
    base = (spec("rme", 2, seed=0), spec("rme", 2, seed=1))
    assert kind(base) == kind((spec("rme", 2, seed=5, epochs=9), spec("rme", 2, seed=6, epochs=9)))
    assert kind(base) == kind([spec("rme", 2, seed=s, variant="kl 20", kl_max=20) for s in (0, 1)])
    others = [
        base[:1],
        (spec("rme", 3, seed=0), spec("rme", 3, seed=1)),
        [spec("rme", 2, seed=s, dataset="celeba") for s in (0, 1)],
        [spec("rme", 2, seed=s, precision="float64") for s in (0, 1)],
        [spec("rme", 2, seed=s, batch_size=512) for s in (0, 1)],
    ]
    assert len({kind(runs) for runs in [base, *others]}) == 6


def test_celeba_s_images_are_counted():
    """200,000 images of 12 KB, and 20,000 of them as 32-bit floats: more than the network itself."""
    celeba = data.get("celeba")
    pixels = 3 * 64 * 64
    test = celeba.split_sizes[2]
    wanted = image_bytes([spec(dataset="celeba", restarts=1)])
    assert wanted >= celeba.counts[0] * pixels + 4 * test * pixels


MEASURED = """
import multiprocessing, torch
from rme import RunSpec
from tune.cost import gpu_share as packing

packing.IMAGES = 192  # enough for one training batch

def trial(restarts):
    run = RunSpec(method="vae", dataset="digits", dim=3, restarts=restarts, iwae_samples=4)
    return packing.measure([run], torch.device("cpu")).trial

torch.set_num_threads(1)
with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
    print(*pool.map(trial, [1, 4], chunksize=1))
"""
"""Measures each in a process of its own, forked from one that has only imported modules."""


def test_on_a_cpu_the_resident_set_is_measured_and_grows_with_the_members():
    """Each of three more models takes at least 16 bytes a parameter: weights, gradients and Adam's two moments."""
    done = subprocess.run([sys.executable, "-c", MEASURED], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    few, many = map(int, done.stdout.split())
    model = spec().method_class(spec(), (1, 28, 28), 1)
    parameters = sum(p.numel() for p in model.parameters())
    assert many - few > 3 * 16 * parameters
    assert few < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_a_stage_a_flow_and_an_untrained_method_can_be_measured(monkeypatch):
    monkeypatch.setattr(packing, "IMAGES", 128)
    for method, order in (("rme", 2), ("iaf", 1), ("svi", 10)):
        settings = {"restarts": 2, "iwae_samples": 2, "epochs": 9, "finish_epochs": 5, "stage_patience": 1}
        need = measure([spec(method, order, seed=s, **settings) for s in (0, 1)], torch.device("cpu"))
        assert need.trial > 0


def test_a_share_counts_the_data_set_s_own_images(monkeypatch, tmp_path):
    """The cached memory of a kind excludes images; each trial's are added."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    mnist, svhn = ([spec(dataset=name, restarts=1)] for name in ("mnist", "omniglot"))
    assert kind(mnist) == kind(svhn)
    free = image_bytes(mnist) * 20
    cache = packing._memory_cache()
    cache.values[kind(mnist)] = image_bytes(mnist), free
    cache.save()
    of = packing.shares([mnist], cpus=1)
    assert of(mnist) == pytest.approx(1 / 8, abs=1e-4)  # 20 / (2 * 1.15)
    assert of(svhn) < of(mnist), "fewer images"
    assert of([spec("sa", 8, restarts=1)]) == 1.0, "a kind that was not measured"
