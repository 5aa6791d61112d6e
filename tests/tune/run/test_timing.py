"""Timings: what is timed, how results are stored, and that they are separate from trainings."""

from __future__ import annotations

import pytest
import torch

from analysis.collect import collect
from rme import evaluate, timing
from rme.data import Images
from rme.timing import Timing, TimingSpec
from tests.sweeping import Sweep
from tests.tiny import blobs, write_npz
from tune.plan import grid
from tune.plan.grid import GridError
from tune.plan.kinds import TIMING, TRAINING
from tune.run.machine import ResourceError, check_machine
from tune.run.options import Resources

CPU = torch.device("cpu")


def timed(method="vae", order=None, **fields) -> TimingSpec:
    return TimingSpec.of({"method": method, "order": order, "dataset": "digits", "dim": 3, **fields})


@pytest.fixture(scope="module")
def images() -> Images:
    return Images(blobs(40, (1, 28, 28), 1), blobs(300, (1, 28, 28), 2))


def test_the_grid_is_tables_4_and_6():
    found = grid.load("timing")
    assert found.kind is TIMING and all(isinstance(run, TimingSpec) for run in found.runs)
    assert all(run.parent is None for run in found.runs)
    cells = {(run.method_label, run.dataset, run.decoder, run.dim) for run in found.runs}
    # Table 4: 13 rows, 5 data sets; Table 6: 4 columns with 4 rows of VLAE, and 4 of RME again in parentheses
    assert len(cells) == len(found.runs) == 13 * 5 + 4 * 4 + 4 * 4 + 4 * 2


def test_a_timing_is_a_different_run_from_a_training():
    spec = timed()
    training = grid.RunSpec.of({"method": "vae", "dataset": "digits", "dim": 3, "restarts": 1})
    assert spec.key != training.key and spec.cell_key != training.cell_key
    assert spec.run_name == training.run_name
    # fields that only affect a training do not change a timing's key
    assert TimingSpec(**{**spec.model_dump(), "epochs": 7}).key == spec.key
    assert timed(dim=4).key != spec.key != timed(batch_size=64).key


def test_fields_of_a_training_are_refused(tmp_path):
    path = tmp_path / "t.yaml"
    path.write_text("kind: timing\nrows: [{method: vae, dataset: digits, dim: 3, epochs: 5}]")
    with pytest.raises(GridError, match="row 1: epochs: no such field; the fields are method, order"):
        grid.load(str(path))
    with pytest.raises(GridError, match="--set epochs=5: no such field"):
        grid.load("timing", overrides={"epochs": 5})
    path.write_text("kind: tuning\nrows: [{method: vae}]")
    with pytest.raises(GridError, match="kind: 'tuning': did you mean training\\? valid values are training, timing"):
        grid.load(str(path))


def test_each_pass_covers_every_test_image_once(images, monkeypatch):
    passes = []
    real = evaluate.Inference.ms

    def counted(self, batches):
        passes.append(sum(x.shape[1] for x in batches))
        assert max(x.shape[1] for x in batches) == 128
        return real(self, batches)

    monkeypatch.setattr(evaluate.Inference, "ms", counted)
    found = timing.measure(timed("iaf", 2), images, CPU)
    assert passes[-2 * 5 :] == [300] * 2 * 5, "the VAE and the flow in turn, five times"
    assert len(passes) > 2 * 5, "no pass before the timed ones"
    assert found.ms.shape == found.vae_ms.shape == (5,) and (found.ms > 0).all()


def test_a_flow_s_passes_are_timed(images, monkeypatch):
    """A flow's posterior is computed only by drawing from it."""
    from rme import nets

    calls, in_a_pass = [], []
    forward, ms = nets.MADE.forward, evaluate.Inference.ms

    def counted(self, batches):
        before = len(calls)
        found = ms(self, batches)
        in_a_pass.append(len(calls) - before)
        return found

    monkeypatch.setattr(nets.MADE, "forward", lambda self, *a: calls.append(1) or forward(self, *a))
    monkeypatch.setattr(evaluate.Inference, "ms", counted)
    timing.measure(timed("iaf", 4, repeats=2), images, CPU)
    flows, batches = 4, 3
    assert in_a_pass[-4:] == [0, flows * batches] * 2, "the VAE has none"


def test_metrics_are_computed_from_the_repeats(tmp_path):
    ms, vae = torch.tensor([4.0, 8.0, 6.0]).double(), torch.tensor([2.0, 4.0, 2.0]).double()
    found = Timing(timed("sa", 1, repeats=3), ms, vae, {"device": "a device"})
    assert found.metrics["time/inference_ms"] == pytest.approx(6)
    assert found.metrics["time/inference_ms_sd"] == pytest.approx(2)
    assert found.metrics["time/ratio_to_vae"] == pytest.approx(2)  # robust to a clock rate that halves in one repeat
    found.save(tmp_path)
    again = Timing.load(tmp_path)
    assert again.spec == found.spec and again.environment == found.environment
    assert torch.equal(again.ms, ms) and torch.equal(again.vae_ms, vae)


def test_a_fraction_of_a_gpu_is_refused_for_timings():
    half = Resources(address="auto", gpus=0.5)
    with pytest.raises(ResourceError, match=r"--gpus-per-trial 0\.5: a timing needs whole GPUs"):
        check_machine(half, TIMING)
    check_machine(half, TRAINING)


def test_a_sweep_of_timings_is_recorded_and_resumed(tmp_path, ray_folder):
    """With the real command: results on the storage, in MLflow and in analysis; the second time nothing is timed."""
    dataset = write_npz(tmp_path / "spots.npz")
    path = tmp_path / "speed.yaml"
    path.write_text(
        f"name: speed\nkind: timing\ndefaults: {{dataset: '{dataset}', dim: 3}}\n"
        "rows: [{method: vae}, {method: rme, order: 2}]"
    )
    sweep = Sweep(tmp_path / "sweep", path, ray_folder)
    done = sweep.run("--gpus-per-trial", "auto")
    assert done.returncode == 0, done.stderr
    again = sweep.call()
    assert again.returncode == 0 and "2 runs are done already" in again.stderr
    for run in sweep.runs():
        assert run.info.status == "FINISHED" and run.data.params["kind"] == "timing"
        assert run.data.metrics["time/inference_ms"] > 0 and run.data.metrics["time/inference_ms_sd"] >= 0
        assert [m.step for m in sweep.history(run, "time/repeat_ms")] == [1, 2, 3, 4, 5]
        assert run.data.tags["device"]
    frame = collect(sweep.tracking, "speed").set_index("method")
    assert frame.loc["rme", "ratio_to_vae"] > 0 and (frame["inference_ms"] > 0).all()
    assert frame["test_iwae"].isna().all()
