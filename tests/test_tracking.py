"""What MLflow holds after a run was recorded, or was recorded in part, on a real database."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from mlflow.entities import Metric
from safetensors.torch import load_file
from sweeping import SMALL, write_npz

import rme
from analysis.collect import collect
from analysis.stats import summarise, wilcoxon_greater
from rme import RunSpec
from tune.recorder import Recorder
from tune.storage import Storage
from tune.tracking import Tracker, TrackingError, recorded_without_creating


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Results of a VAE and of an RME(2) that starts from it, two restarts each."""
    path = write_npz(tmp_path_factory.mktemp("data") / "spots.npz")
    common = {"dataset": str(path), **SMALL, "restarts": 2}
    vae = rme.fit(RunSpec.of({"method": "vae", **common}))
    return vae, rme.fit(RunSpec.of({"method": "rme", "order": 2, **common}), parent=vae)


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """A database that is made once: its migration takes seconds. Tests use experiments of their own."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


def children(tracker: Tracker):
    return list(tracker._search())


def download(tracker: Tracker, run, name: str) -> str:
    from mlflow.artifacts import download_artifacts

    return download_artifacts(run_id=run.info.run_id, artifact_path=name, tracking_uri=tracker.uri)


def test_a_run_is_recorded_as_documented(results, database):
    tracker = Tracker(database, "documented")
    result = results[1]
    tracker.record(result)
    (run,) = children(tracker)
    spec = result.spec
    assert run.info.status == "FINISHED"
    assert run.info.run_name == spec.run_name == "spots d3 RME(2) seed 0"
    assert run.data.tags["run_key"] == spec.key
    assert run.data.tags["cell"] == "spots d3 RME(2)"
    assert {"git_commit", "device", "torch_version"} <= run.data.tags.keys()
    wanted = {"method": "rme", "order": "2", "dim": "3", "decoder": "conv", "seed": "0", "kl_max": "5.0"}
    assert wanted.items() <= run.data.params.items()
    assert set(RunSpec.model_fields) - {"options"} == run.data.params.keys()
    chosen = int(torch.stack([result.val_iwae]).argmax())
    assert run.data.metrics["val/iwae"] == pytest.approx(result.val_iwae[chosen].item())
    assert run.data.metrics["test/iwae"] == pytest.approx(result.test_iwae.mean().item())
    assert {"val/elbo", "test/elbo", "time/inference_ms", "time/train_s"} <= run.data.metrics.keys()

    curve = tracker.client.get_metric_history(run.info.run_id, "train/loss_q_1")
    assert [m.step for m in curve] == [1, 2]
    assert [m.value for m in curve] == pytest.approx(result.losses[:, result.updates.index("q_1"), chosen].tolist())
    assert curve[0].timestamp < curve[1].timestamp

    model = load_file(download(tracker, run, "model/model.safetensors"))
    assert all(torch.equal(value, result.models[chosen][name]) for name, value in model.items())
    per_image = np.load(download(tracker, run, "test_log_likelihood.npz"))
    assert per_image["iwae"] == pytest.approx(result.test_iwae.numpy(), rel=1e-6)
    for name in ("reconstructions.png", "samples.png"):
        with open(download(tracker, run, name), "rb") as picture:
            assert picture.read(4) == b"\x89PNG"


def test_a_method_without_order_says_none(results, database):
    tracker = Tracker(database, "no order")
    tracker.record(results[0])
    (run,) = children(tracker)
    assert run.data.params["order"] == "None"
    # what a VAE does not read is not said of it
    assert run.data.params.keys().isdisjoint({"kl_max", "eps_max", "stage_learning_rate"})


def test_recording_twice_changes_nothing(results, database):
    tracker = Tracker(database, "twice")
    tracker.record(results[0])
    before = children(tracker)[0].to_dictionary()
    Tracker(database, "twice").record(results[0])
    (run,) = children(tracker)
    assert run.to_dictionary() == before
    assert tracker.recorded() == {results[0].spec.key}


@pytest.mark.parametrize("writes", range(9))
def test_a_recording_that_was_cut_off_is_completed(results, database, monkeypatch, writes):
    """As by a driver killed after so many of the record's writes."""
    tracker = Tracker(database, f"cut {writes}")

    class Killed(BaseException):
        pass

    count = 0

    def kill(function):
        def counted(*args, **kwargs):
            nonlocal count
            count += 1
            if count > writes:
                raise Killed
            return function(*args, **kwargs)

        return counted

    for name in ("log_batch", "create_run", "log_artifacts", "set_terminated"):
        monkeypatch.setattr(tracker.client, name, kill(getattr(tracker.client, name)))
    with pytest.raises(Killed):
        tracker.record(results[1])
    monkeypatch.undo()

    fresh = Tracker(database, f"cut {writes}")
    assert fresh.recorded() == set()
    fresh.record(results[1])
    (run,) = children(fresh)
    assert run.info.status == "FINISHED"
    assert len(fresh.client.get_metric_history(run.info.run_id, "train/loss_q_0")) == 2  # each point once
    parents = fresh.client.search_runs([fresh.experiment_id], "tags.cell_key != ''")
    assert [parent.info.status for parent in parents] == ["FINISHED"]
    assert parents[0].data.params["kl_max"] == "5.0"


def test_a_failure_is_recorded_and_then_mended(results, database):
    tracker = Tracker(database, "failure")
    spec = results[0].spec
    tracker.record_failure(spec, "loss is NaN")
    (run,) = children(tracker)
    assert (run.info.status, run.data.tags["failure"]) == ("FAILED", "loss is NaN")
    assert tracker.recorded() == set()
    tracker.record(results[0])
    (run,) = children(tracker)
    assert run.info.status == "FINISHED" and "failure" not in run.data.tags
    tracker.record_failure(spec, "too late")
    assert children(tracker)[0].info.status == "FINISHED"


def test_parents_hold_the_cell_s_statistics(results, database):
    """As `analysis` computes them, with made-up scores of six seeds."""
    tracker = Tracker(database, "cells")
    rng = np.random.default_rng(3)
    for result in results:
        for seed in range(6):
            spec = result.spec.model_copy(update={"seed": seed})
            shift = 10 * (result.spec.order or 0) + rng.normal()
            tracker.record(replace(result, spec=spec, test_iwae=result.test_iwae + shift))
    tracker.summarise_cells()
    runs = collect(database, "cells")
    expected = summarise(runs).set_index("method_label")
    scores = {label: cell.set_index("seed")["test_iwae"] for label, cell in runs.groupby("method_label")}
    best = expected["mean"].idxmax()
    parents = tracker.client.search_runs([tracker.experiment_id], "tags.cell_key != ''")
    assert len(parents) == 2
    for parent in parents:
        assert "run_key" not in parent.data.tags
        label, metrics = parent.data.tags["method_label"], parent.data.metrics
        assert metrics["cell/mean"] == pytest.approx(expected.loc[label, "mean"])
        assert metrics["cell/sd"] == pytest.approx(expected.loc[label, "sd"])
        assert metrics["cell/n"] == 6
        assert metrics["cell/rank"] == (1 if label == best else 2)
        assert ("cell/p" in metrics) == (label != best)
        if label != best:
            assert metrics["cell/p"] == pytest.approx(wilcoxon_greater(scores[best], scores[label]).p)
    nested = [run.data.tags["mlflow.parentRunId"] for run in children(tracker)]
    assert sorted(set(nested)) == sorted(parent.info.run_id for parent in parents)


def test_the_recorder_tries_again_until_the_server_takes_it(results, database, tmp_path, monkeypatch):
    tracker = Tracker(database, "again")
    storage = Storage(tmp_path)
    results[0].save(storage.run_folder(results[0].spec.key))
    monkeypatch.setattr("tune.recorder.RETRY_AFTER_S", (0.01,))
    calls = 0
    real = tracker.record

    def unreliable(result):
        nonlocal calls
        calls += 1
        if calls < 3:
            raise ConnectionError("down")
        real(result)

    monkeypatch.setattr(tracker, "record", unreliable)
    heard = []
    recorder = Recorder(tracker, storage, lambda spec, metrics: heard.append(spec.key))
    recorder.result(results[0].spec)
    recorder.close()
    assert recorder.left == []
    assert calls == 3 and heard == [results[0].spec.key] and len(children(tracker)) == 1


def test_what_the_server_never_takes_is_named_at_the_end(results, database, tmp_path, monkeypatch):
    tracker = Tracker(database, "never")
    storage = Storage(tmp_path)
    results[0].save(storage.run_folder(results[0].spec.key))

    def down(result):
        raise ConnectionError("down")

    monkeypatch.setattr(tracker, "record", down)
    recorder = Recorder(tracker, storage)
    recorder.result(results[0].spec)
    recorder.close(timeout_s=0.2)
    assert [spec.key for spec in recorder.left] == [results[0].spec.key]


def test_a_damaged_result_is_not_recorded(results, database, tmp_path):
    tracker = Tracker(database, "damaged")
    storage = Storage(tmp_path)
    folder = storage.run_folder(results[0].spec.key)
    results[0].save(folder)
    content = bytearray((folder / "arrays.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "arrays.safetensors").write_bytes(content)
    recorder = Recorder(tracker, storage)
    recorder.result(results[0].spec)
    recorder.close()
    assert recorder.left == []
    assert recorder.failures.keys() == {results[0].spec.key} and children(tracker) == []
    assert not storage.has_result(results[0].spec.key), "it is to be trained again"


def test_a_plan_makes_no_database(tmp_path):
    path = tmp_path / "none.db"
    assert recorded_without_creating(f"sqlite:///{path}", "x") == set()
    assert not path.exists()


def test_a_plan_makes_no_experiment(database):
    assert recorded_without_creating(database, "unheard of") == set()
    assert Tracker(database, "another").client.get_experiment_by_name("unheard of") is None


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "nonsense://x", "sqlite:////proc/none/mlflow.db"])
def test_a_server_that_is_not_there_is_named(uri, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(TrackingError, match=uri.replace(".", r"\.")):
        Tracker(uri, "x")


def test_history_points_are_finite(results, database):
    tracker = Tracker(database, "finite")
    tracker.record(results[0])
    (run,) = children(tracker)
    for name in run.data.metrics:
        history: list[Metric] = tracker.client.get_metric_history(run.info.run_id, name)
        assert history and all(math.isfinite(m.value) for m in history)
