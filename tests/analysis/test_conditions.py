"""Data sets, networks and compute of an experiment, against the registry, torch's own counts and sums of the frame."""

from __future__ import annotations

import pytest

from analysis.collect import collect
from analysis.conditions import _BEFORE, architecture, compute_listing, compute_text, data_sets, dataset_listing
from rme import RunSpec, data, nets
from rme.untrained import untrained
from tests.analysis.test_collect import Store


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(tmp_path_factory)


def test_what_old_runs_do_not_record_is_what_the_data_sets_are():
    for name, (shape, split) in _BEFORE.items():
        assert (data.get(name).shape, data.get(name).split_sizes) == (shape, split), name


@pytest.mark.parametrize("side", [16, 28, 32, 63, 64, 100, 128])
def test_the_architecture_is_that_of_the_networks(side):
    _, channels, width = nets.convolutions((3, side, side))
    assert architecture((3, side, side)) == (type(architecture((3, side, side)))(tuple(channels), width))


def test_a_run_records_its_images_and_parameters(result):
    """Counted by torch on the untrained networks, and by the data that the run was given."""
    tags = result.tags
    model = untrained([result.spec], (1, 28, 28))
    assert int(tags["parameters"]) == sum(p.numel() for p in model.parameters())
    assert int(tags["decoder_parameters"]) == sum(p.numel() for p in model.decoder.parameters())
    assert (tags["image_shape"], tags["train_images"], tags["validation_images"]) == ("1x28x28", "18", "2")
    assert tags["test_images"] == "6" and tags["device_type"] == "cpu" and int(tags["threads"]) >= 1


@pytest.fixture(scope="module")
def result():
    import rme
    from tests.tiny import blobs

    spec = RunSpec(method="vae", dataset="images", dim=2, epochs=1, restarts=1, iwae_samples=2, batch_size=9)
    return rme.fit(spec, images=(blobs(20, (1, 28, 28), 1), blobs(6, (1, 28, 28), 2)), progress=False)


def test_recorded_images_come_before_what_is_known(store):
    tags = {"image_shape": "3x16x16", "train_images": "90", "validation_images": "10", "test_images": "7"}
    store.run("own", "vae", None, 0, 1.0, dataset="mine.npz", label="mine", tags=tags)
    store.run("own", "vae", None, 0, 1.0, dim=20, dataset="mine.npz", label="mine", tags=tags)
    (found,) = data_sets(collect(store.uri, "own"))
    assert (found.shape, found.split, found.dims) == ((3, 16, 16), (90, 10, 7), [10, 20])
    assert dataset_listing(collect(store.uri, "own")).rows == [["mine", "3×16×16", "90", "10", "7", "10, 20"]]


def test_compute_is_the_sum_over_the_runs(store):
    """Each run of the store took 1,800 s; on two threads that is an hour of one core."""
    for seed in range(3):
        tags = {"device_type": "cpu", "threads": "2", "parameters": "403222", "decoder_parameters": "200000"}
        store.run("cores", "vae", None, seed, 1.0, tags=tags | {"updates": "1"})
        store.run("cores", "rme", 2, seed, 1.0, tags=tags | {"updates": "4", "parameters": "613727"})
    found = compute_listing(collect(store.uri, "cores"))
    assert found.rows == [
        ["VAE", "3", "403,222", "200,000", "1", "3.0 h", "60 min"],
        ["RME(2)", "3", "613,727", "200,000", "4", "3.0 h", "60 min"],
        ["All", "6", "", "", "", "6.0 h", "60 min"],
    ]
    assert found.header[-2:] == ["Core time", "Core time of a run"]


def test_compute_of_old_or_mixed_runs_has_no_unit(store):
    store.run("mixed", "vae", None, 0, 1.0, tags={"device_type": "cuda"})
    store.run("mixed", "vae", None, 1, 1.0)
    found = compute_listing(collect(store.uri, "mixed"))
    assert found.header[-2:] == ["Time", "Time of a run"] and found.rows == [["VAE", "2", "", "", "60 min", "30 min"]]


def test_compute_in_words():
    assert compute_text(11_520, "GPU") == "3.2 GPU-hours"
    assert compute_text(840, "core") == "14 core-minutes"
    assert compute_text(3_600_000, "") == "1,000 hours of training"
