"""The estimates of disk space against the sizes of files that are really written."""

from __future__ import annotations

import pytest

from rme import fit
from rme.checkpoint import Checkpoints
from rme.result import MARKER
from rme.training import identity
from tests.tiny import Tiny, write_npz
from tune.cost import disk

RUNS = [("vae", None, {}), ("rme", 2, {"restarts": 2}), ("iaf", 2, {"keep": "best"}), ("sa", 4, {"epochs": 3})]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Images of 28x28, whose networks' parameters are most of a file as in real runs."""
    return write_npz(tmp_path_factory.mktemp("data") / "spots.npz", train=40, test=12)


@pytest.mark.parametrize(("method", "order", "fields"), RUNS)
def test_a_checkpoint_has_about_the_estimated_size(tmp_path, tiny: Tiny, method, order, fields):
    specs = [tiny.spec(method, order, seed=seed, **fields) for seed in (0, 1)]
    engine = tiny.engine(specs)
    engine.train_epoch()
    Checkpoints(tmp_path).save(1, engine.state(), identity(engine))
    (file,) = tmp_path.iterdir()
    assert disk.checkpoint_bytes(specs) == pytest.approx(file.stat().st_size, rel=0.05)


def test_a_result_has_about_the_estimated_size(tmp_path, tiny: Tiny, images):
    for fields in ({"restarts": 1}, {"restarts": 3, "epochs": 1}):
        result = fit(tiny.spec(dataset=str(images), **fields), device="cpu", progress=False)
        result.save(tmp_path)
        assert disk.result_bytes(result.spec) == pytest.approx((tmp_path / MARKER).stat().st_size, rel=0.05)


def test_a_sweep_needs_all_results_and_the_checkpoints_of_what_runs_at_once(tiny: Tiny):
    small, large = [tiny.spec("vae")], [tiny.spec("rme", 3, seed=seed) for seed in (0, 1)]
    results = sum(map(disk.result_bytes, [*small, *large]))
    of_small, of_large = disk.checkpoint_bytes(small), disk.checkpoint_bytes(large)
    assert of_large > of_small
    assert disk.sweep_bytes([small, large], 1) == results + disk.COPIES * of_large
    assert disk.sweep_bytes([small, large], 2) == disk.sweep_bytes([small, large], 5)
    assert disk.sweep_bytes([small, large], 2) == results + disk.COPIES * (of_large + of_small)


def test_a_method_that_is_not_trained_has_no_checkpoints(tiny: Tiny):
    assert disk.checkpoint_bytes([tiny.spec("svi", 10)]) == 0
