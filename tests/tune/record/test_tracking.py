"""What a real MLflow database contains after a run was recorded, completely or in part."""

from __future__ import annotations

import json
import math
import re
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs

import numpy as np
import pytest
import torch
from mlflow.data import get_source
from mlflow.entities import Metric, Param
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

import rme
from analysis.collect import collect, curves
from analysis.recorded_model import model_file
from analysis.stats import summarise, wilcoxon_greater
from rme import RunSpec, data
from tests.databases import blank_database
from tests.sweeping import SMALL
from tests.tiny import write_npz
from tune.record.artifacts import IMAGES
from tune.record.notes import EARLIER
from tune.record.tracking import Tracker, TrackingError, finished_without_creating
from tune.store.failure import Failure

NOTE = "mlflow.note.content"


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Results of a VAE and of an RME(2) that starts from it, two restarts each."""
    path = write_npz(tmp_path_factory.mktemp("data") / "spots.npz")
    common = {"dataset": str(path), **SMALL, "restarts": 2}
    vae = rme.fit(RunSpec.of({"method": "vae", **common}))
    return vae, rme.fit(RunSpec.of({"method": "rme", "order": 2, **common}), parent=vae)


@pytest.fixture(scope="module")
def untrained(results):
    """The result of SVI from the same VAE: a method without training."""
    vae = results[0]
    values = vae.spec.model_dump(exclude={"stage_learning_rate"})
    return rme.fit(RunSpec.of({**values, "method": "svi", "order": 10}), parent=vae)


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """A database shared by the tests, because creating one takes seconds. Each test uses its own experiment."""
    return blank_database(tmp_path_factory.mktemp("mlflow") / "mlflow.db")


def children(tracker: Tracker):
    return list(tracker._search())


def cells(tracker: Tracker):
    return list(tracker.client.search_runs([tracker.experiment_id], "tags.cell_key != ''"))


def download(tracker: Tracker, run, name: str) -> str:
    from mlflow.artifacts import download_artifacts

    return download_artifacts(run_id=run.info.run_id, artifact_path=name, tracking_uri=tracker.uri)


def test_a_run_is_recorded_as_documented(results, database):
    command = "python tune/sweep.py --grid 'my grid.yaml'"
    tracker = Tracker(database, "documented", command)
    result = results[1]
    tracker.record(result)
    (run,) = children(tracker)
    spec = result.spec
    assert run.info.status == "FINISHED"
    assert run.info.run_name == spec.run_name == "spots d3 RME(2) seed 0"
    assert run.data.tags["run_key"] == spec.key
    assert run.data.tags["cell"] == "spots d3 RME(2)"
    assert {"git_commit", "device", "torch_version"} <= run.data.tags.keys()
    epoch = 1 + int(result.history_elbo[:, int(torch.stack([result.val_iwae]).argmax())].argmax())
    of_training = {"starts_from": "vae", "kept_epoch": str(epoch), "updates": "4", "parameters": str(trainable(spec))}
    assert of_training.items() <= run.data.tags.items()
    assert collect(database, "documented")["command"].tolist() == [command]
    wanted = {"method": "rme", "order": "2", "dim": "3", "decoder": "conv", "seed": "0", "kl_max": "5.0"}
    assert wanted.items() <= run.data.params.items()
    unset = {"options", "variant", "patience", "stage_patience", "stage_keep", "finish_epochs", "finish_learning_rate"}
    assert set(RunSpec.model_fields) - unset == run.data.params.keys()
    chosen = int(torch.stack([result.val_iwae]).argmax())
    assert run.data.metrics["val/iwae"] == pytest.approx(result.val_iwae[chosen].item())
    assert run.data.metrics["test/iwae"] == pytest.approx(result.test_iwae.mean().item())
    assert {"val/elbo", "test/elbo", "time/inference_ms", "time/train_s"} <= run.data.metrics.keys()

    curve = tracker.client.get_metric_history(run.info.run_id, "train/loss_q_1")
    assert [m.step for m in curve] == [3, 4], "after the VAE's two epochs"
    assert [m.value for m in curve] == pytest.approx(result.losses[:, result.updates.index("q_1"), chosen].tolist())
    assert curve[0].timestamp < curve[1].timestamp

    path = download(tracker, run, "model/model.safetensors")
    model = load_file(path)
    assert torch.equal(model.pop("test.iwae"), result.test_iwae)
    assert torch.equal(model.pop("test.elbo"), result.test_elbo)
    shown = model.pop("shown.images")
    assert len(shown) and torch.equal(shown, result.test_images[: len(shown)])
    assert model.pop("shown.val_elbo").tolist() == result.history_elbo[:, chosen].tolist()
    assert model.keys() == result.models[chosen].keys()
    assert all(torch.equal(value, result.models[chosen][name]) for name, value in model.items())
    with safe_open(path, framework="pt") as file:
        about = file.metadata()
    assert RunSpec.of(json.loads(about["spec"])) == spec and about["restart"] == str(chosen)
    assert len(tracker.client.list_artifacts(run.info.run_id)) == 1


def trainable(spec: RunSpec) -> int:
    """Number of scalar parameters that a training step changes."""
    updates = spec.method_class(spec, (1, 28, 28), 1).updates()
    return sum({id(p): p.numel() for update in updates for p in update.parameters}.values())


def pictures(tracker: Tracker, parent) -> dict[str, bytes]:
    return {name: Path(download(tracker, parent, name)).read_bytes() for name in ("reconstructions.png", "samples.png")}


def test_a_cell_shows_the_pictures_of_its_best_run_by_validation(results, database):
    tracker = Tracker(database, "pictures")

    def record(seed: int, val_iwae: float, shade: int) -> dict[str, bytes]:
        made_up = {name: torch.full_like(getattr(results[0], name), shade) for name in ("reconstructions", "samples")}
        spec = results[0].spec.model_copy(update={"seed": seed})
        nonlocal tracker
        result = replace(results[0], spec=spec, val_iwae=torch.full((2,), val_iwae), **made_up)
        tracker.record(result)
        tracker.show(result)
        (parent,) = tracker.client.search_runs([tracker.experiment_id], "tags.cell_key != ''")
        return pictures(tracker, parent)

    first = record(0, -5.0, 10)
    assert all(picture.startswith(b"\x89PNG") for picture in first.values())
    assert record(1, -6.0, 20) == first
    better = record(2, -4.0, 30)
    assert all(better[name] != first[name] for name in first)
    tracker = Tracker(database, "pictures")  # as in a resumed sweep
    assert record(3, -4.5, 40) == better


def test_a_cell_has_the_images_of_its_shown_run_once(results, database, monkeypatch):
    tracker = Tracker(database, "images")
    tracker.record(results[1])
    (parent,) = tracker.client.search_runs([tracker.experiment_id], "tags.cell_key != ''")
    path = Path(download(tracker, parent, IMAGES))
    images = load_file(path)
    assert images["test_images"].dtype == torch.uint8
    assert torch.equal(images["test_images"], results[1].test_images)
    assert torch.equal(images["reconstructions"], results[1].reconstructions[1])
    assert torch.equal(images["samples"], results[1].samples)
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"run_key": results[1].spec.key, "restart": str(results[1].chosen)}

    written = []
    monkeypatch.setattr(LocalArtifactRepository, "log_artifacts", lambda *arguments: written.append(arguments))
    Tracker(database, "images").record(results[1])
    Tracker(database, "images").show(results[1])
    monkeypatch.undo()
    assert not written, "the same pictures were written again"
    seed_1 = results[1].spec.model_copy(update={"seed": 1})
    better = replace(results[1], spec=seed_1, val_iwae=results[1].val_iwae + 1)
    tracker.record(better)
    tracker.show(better)
    with safe_open(download(tracker, parent, IMAGES), framework="pt") as file:
        assert file.metadata()["run_key"] == seed_1.key
    assert len(tracker.client.list_artifacts(parent.info.run_id)) == 3


def test_the_order_of_a_method_without_order_is_recorded_as_none(results, database):
    tracker = Tracker(database, "no order")
    tracker.record(results[0])
    (run,) = children(tracker)
    assert run.data.params["order"] == "None"
    # settings that do not affect a VAE are left out
    assert run.data.params.keys().isdisjoint({"kl_max", "eps_max", "stage_learning_rate", "variant"})
    assert run.data.tags["starts_from"] == "scratch"


def test_a_variant_is_a_cell_of_its_own(results, database):
    tracker = Tracker(database, "variant")
    plain = results[1]
    other = plain.spec.model_copy(update={"variant": "kl 20", "kl_max": 20.0})
    for result in (plain, replace(plain, spec=other)):
        tracker.record(result)
    names = {run.info.run_name: run for run in children(tracker)}
    assert names.keys() == {"spots d3 RME(2) seed 0", "spots d3 RME(2), kl 20 seed 0"}
    found = {run.data.params.get("variant"): run for run in names.values()}
    assert found.keys() == {None, "kl 20"}
    parents = tracker.client.search_runs([tracker.experiment_id], "tags.cell_key != ''")
    by_name = {parent.info.run_name: parent for parent in parents}
    assert by_name.keys() == {"spots d3 RME(2)", "spots d3 RME(2), kl 20"}
    assert by_name["spots d3 RME(2), kl 20"].data.params["variant"] == "kl 20"
    for run in names.values():
        assert run.data.tags["mlflow.parentRunId"] == by_name[run.data.tags["cell"]].info.run_id


def test_a_run_without_training_is_recorded(untrained, database):
    """It has no curves and no times of its own; if recording is interrupted and repeated, each score has one point."""
    tracker = Tracker(database, "untrained")
    assert untrained.losses.numel() == 0 and len(untrained.finished_at) == 0
    tracker.record(untrained)
    (run,) = children(tracker)
    tracker.client.update_run(run.info.run_id, "RUNNING")  # as if interrupted before its end
    tracker.record(untrained)
    (run,) = children(tracker)
    assert run.info.status == "FINISHED" and run.info.run_name == "spots d3 SVI(10) seed 0"
    assert run.data.metrics["test/iwae"] == pytest.approx(untrained.test_iwae.mean().item())
    assert not any(name.startswith("train/") for name in run.data.metrics)
    assert len(tracker.client.get_metric_history(run.info.run_id, "test/iwae")) == 1
    tags = {"starts_from": "vae", "kept_epoch": "0", "updates": "0"}
    assert tags.items() <= run.data.tags.items()
    assert run.data.params["options.svi_rate"] and "stage_epochs" not in run.data.params


def test_recording_twice_changes_nothing(results, database):
    tracker = Tracker(database, "twice")
    tracker.record(results[0])
    before = children(tracker)[0].to_dictionary()
    Tracker(database, "twice").record(results[0])
    (run,) = children(tracker)
    assert run.to_dictionary() == before
    assert tracker.recorded() == {results[0].spec.key}


@pytest.mark.parametrize("writes", range(11))
def test_an_interrupted_recording_is_completed(results, database, monkeypatch, writes):
    """The driver is killed after each possible number of writes."""
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

    for name in ("log_batch", "log_inputs", "create_run", "set_tag", "set_terminated"):
        monkeypatch.setattr(tracker.client, name, kill(getattr(tracker.client, name)))
    for name in ("log_artifact", "log_artifacts"):
        monkeypatch.setattr(LocalArtifactRepository, name, kill(getattr(LocalArtifactRepository, name)))
    with pytest.raises(Killed):
        tracker.record(results[1])
    monkeypatch.undo()

    fresh = Tracker(database, f"cut {writes}")
    assert fresh.recorded() == set()
    fresh.record(results[1])
    (run,) = children(fresh)
    assert run.info.status == "FINISHED"
    assert len(fresh.client.get_metric_history(run.info.run_id, "train/loss_q_0")) == 2  # each point once
    assert len(run.inputs.dataset_inputs) == 1
    (parent,) = cells(fresh)
    assert parent.info.status == "FINISHED" and parent.data.params["kl_max"] == "5.0"
    assert len(parent.inputs.dataset_inputs) == 1


def test_a_failed_run_that_ends_well_later_is_finished_without_its_old_reason(results, database):
    tracker = Tracker(database, "failure")
    spec = results[0].spec
    tracker.record_failure(spec, Failure("loss is NaN", "Traceback: in the loss"))
    (run,) = children(tracker)
    assert (run.info.status, run.data.tags["failure"]) == ("FAILED", "loss is NaN")
    assert "loss is NaN" in run.data.tags[NOTE]
    assert Path(download(tracker, run, "traceback.txt")).read_text() == "Traceback: in the loss"
    assert tracker.recorded() == set()
    tracker.record(results[0])
    (run,) = children(tracker)
    assert run.info.status == "FINISHED" and "failure" not in run.data.tags
    assert NOTE not in run.data.tags
    artifacts = {artifact.path for artifact in tracker.client.list_artifacts(run.info.run_id)}
    assert "traceback.txt" not in artifacts and "model" in artifacts
    tracker.record_failure(spec, Failure("too late"))
    assert children(tracker)[0].info.status == "FINISHED"


def test_parent_runs_have_the_cell_s_statistics(results, database):
    """They equal those of `analysis`, with made-up scores of six seeds."""
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
    with closing(sqlite3.connect(database.removeprefix("sqlite:///"))) as file:
        counted = {table for (table,) in file.execute("SELECT DISTINCT tbl FROM sqlite_stat1")}
    assert {"runs", "tags", "params", "latest_metrics"} <= counted, "sqlite has statistics for sorting runs quickly"
    nested = [run.data.tags["mlflow.parentRunId"] for run in children(tracker)]
    assert sorted(set(nested)) == sorted(parent.info.run_id for parent in parents)


def test_each_variant_has_statistics_of_its_own(results, database):
    tracker = Tracker(database, "variants' cells")
    result = results[1]
    for variant, mean in ((None, 10.0), ("kl 20", 20.0), ("kl 50", 30.0)):
        for seed in range(6):
            values = {"seed": seed, "variant": variant, "kl_max": mean}
            spec = result.spec.model_copy(update=values)
            tracker.record(replace(result, spec=spec, test_iwae=torch.tensor([mean, mean + seed])))
    tracker.summarise_cells()
    parents = tracker.client.search_runs([tracker.experiment_id], "tags.cell_key != ''")
    found = {parent.info.run_name: parent.data.metrics for parent in parents}
    means = {name: metrics["cell/mean"] for name, metrics in found.items()}
    # a run's score is the mean of two images, a cell's the mean over seeds 0 to 5
    wanted = {"spots d3 RME(2)": 11.25, "spots d3 RME(2), kl 20": 21.25, "spots d3 RME(2), kl 50": 31.25}
    assert means == pytest.approx(wanted)
    assert [found[name]["cell/rank"] for name in wanted] == [3, 2, 1]
    assert [found[name].get("cell/p") for name in wanted] == [pytest.approx(1 / 64)] * 2 + [None]


def test_sqlite_finds_a_run_without_reading_every_run_s_tags(database):
    Tracker(database, "indexed")
    with closing(sqlite3.connect(database.removeprefix("sqlite:///"))) as file:
        query = "EXPLAIN QUERY PLAN SELECT run_uuid FROM tags WHERE key = 'run_key' AND value = 'a'"
        ((*_, how),) = file.execute(query).fetchall()
    assert how.startswith("SEARCH") and how.endswith("(key=? AND value=?)")


def test_a_plan_creates_no_database(tmp_path):
    path = tmp_path / "none.db"
    assert finished_without_creating(f"sqlite:///{path}", "x") == []
    assert not path.exists()


def test_a_plan_creates_no_experiment(database):
    assert finished_without_creating(database, "unheard of") == []
    assert Tracker(database, "another").client.get_experiment_by_name("unheard of") is None


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "nonsense://x", "sqlite:////proc/none/mlflow.db"])
def test_an_unreachable_server_is_named(uri, monkeypatch):
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


# ---------------------------------------------------------------------- what MLflow's page shows
def test_a_run_s_data_set_is_its_input(results, database):
    tracker = Tracker(database, "inputs")
    tracker.record(results[0])
    with np.load(results[0].spec.dataset) as arrays:
        train, test, shape = len(arrays["train"]), len(arrays["test"]), arrays["train"].shape[1:]
    for run in (*children(tracker), *cells(tracker)):
        (found,) = run.inputs.dataset_inputs
        assert [(tag.key, tag.value) for tag in found.tags] == [("mlflow.data.context", "training")]
        about = found.dataset
        assert (about.name, about.digest) == ("spots", data.identity(results[0].spec.dataset))
        profile = json.loads(about.profile)
        parts = [profile[f"{part}_images"] for part in ("training", "validation", "test")]
        assert parts == [train - round(train / 10), round(train / 10), test] and profile["num_rows"] == train + test
        (pixels,) = json.loads(json.loads(about.schema)["mlflow_tensorspec"]["features"])
        assert pixels["tensor-spec"] == {"dtype": "uint8", "shape": [-1, 1, *shape[:2]]}
        assert get_source(found).load() == results[0].spec.dataset


def timed(result, seed: int, start: float, seconds: float):
    """The same result, trained at another time: s since 1970."""
    epochs = len(result.finished_at)
    ends = start + torch.linspace(seconds / epochs, seconds, epochs, dtype=torch.float64)
    spec = result.spec.model_copy(update={"seed": seed})
    return replace(result, spec=spec, finished_at=ends, train_s=seconds)


def test_a_cell_lasts_as_long_as_its_runs_and_fails_if_all_of_them_do(results, database):
    tracker = Tracker(database, "times")
    spec = results[0].spec
    tracker.record_failure(spec.model_copy(update={"batch_size": 7}), Failure("NaN"))
    tracker.record(timed(results[0], 0, 1000.0, 60.0))
    tracker.record(timed(results[0], 1, 1030.0, 90.0))
    tracker.record_failure(spec.model_copy(update={"seed": 2}), Failure("NaN"))
    (fine,) = (cell for cell in cells(tracker) if cell.data.params["batch_size"] == "11")
    assert (fine.info.start_time, fine.info.end_time) == (1_000_000, 1_060_000)
    tracker.summarise_cells()
    found = {cell.data.params["batch_size"]: cell for cell in cells(tracker)}
    fine, failed = found["11"], found["7"]
    assert (failed.info.status, fine.info.status) == ("FAILED", "FINISHED")
    assert fine.info.start_time == 1_000_000
    assert fine.info.end_time == max(run.info.end_time for run in children(tracker) if run.data.tags["cell"])
    # the failed run ends well: so does its cell, also before it is summarised
    tracker.record(replace(timed(results[0], 0, 2000.0, 60.0), spec=spec.model_copy(update={"batch_size": 7})))
    assert {cell.info.status for cell in cells(tracker)} == {"FINISHED"}
    before = {cell.info.run_id: cell.to_dictionary() for cell in cells(tracker)}
    tracker.summarise_cells()
    tracker.summarise_cells()
    now = {cell.info.run_id: cell.to_dictionary()["info"] for cell in cells(tracker)}
    assert now == {key: cell["info"] for key, cell in before.items()}


def test_a_stage_s_steps_go_on_from_its_vae_and_its_curves_do_not(results, database):
    """Also if an earlier version recorded the run, without saying where its steps begin."""
    tracker = Tracker(database, "steps")
    for result in results:
        tracker.record(result)
    by_method = {run.data.params["method"]: run for run in children(tracker)}

    def steps(run, name: str) -> list[int]:
        return [metric.step for metric in tracker.client.get_metric_history(run.info.run_id, name)]

    assert (steps(by_method["vae"], "train/val_elbo"), steps(by_method["rme"], "train/val_elbo")) == ([1, 2], [3, 4])
    assert (steps(by_method["vae"], "test/iwae"), steps(by_method["rme"], "test/iwae")) == ([2], [4])
    found = curves(database, "steps", metrics=["val_elbo"])
    for result in results:
        mine = found[found["run_key"] == result.spec.key]
        assert mine["epoch"].tolist() == [1, 2]
        assert mine["value"].tolist() == result.history_elbo[:, result.chosen].tolist()
    earlier = tracker.client.create_run(tracker.experiment_id, tags={
        name: value for name, value in by_method["rme"].data.tags.items()
        if name not in ("epochs_before", "mlflow.parentRunId")
    } | {"run_key": "earlier"})  # fmt: skip
    points = [Metric("train/val_elbo", value, 0, epoch) for epoch, value in ((1, -9.0), (2, -8.0))]
    params = [Param(name, value) for name, value in by_method["rme"].data.params.items() if name != "seed"]
    tracker.client.log_batch(earlier.info.run_id, points, [*params, Param("seed", "7")])
    tracker.client.set_terminated(earlier.info.run_id)
    again = curves(database, "steps", {"seed": "7"}, metrics=["val_elbo"])
    assert again[["epoch", "value"]].values.tolist() == [[1, -9], [2, -8]]


def searches(text: str) -> list[str]:
    """What a description says to type into the search box."""
    return [part for part in re.findall("`([^`]+)`", text) if "=" in part]


def test_an_experiment_s_description_has_searches_that_find_its_own_runs(results, database):
    tracker = Tracker(database, "its own")
    named = results[1].spec.model_copy(update={"variant": "kl '20'", "kl_max": 20.0})
    for result in (*results, replace(results[1], spec=named)):
        tracker.record(result)
    early = tracker.client.get_experiment(tracker.experiment_id).tags[NOTE]
    assert early, "described by its first run"
    tracker.record_failure(named.model_copy(update={"seed": 1}), Failure("NaN"))
    tracker.summarise_cells()
    experiment = tracker.client.get_experiment(tracker.experiment_id)
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    asked = searches(experiment.tags[NOTE])
    assert len(asked) == 6
    for search in asked:
        assert tracker.client.search_runs([tracker.experiment_id], search), search
    links = re.findall(r"\[[^]]+\]\(#/experiments/(\d+)/runs\?([^)]+)\)", experiment.tags[NOTE])
    assert len(links) == 3 and {number for number, _ in links} == {tracker.experiment_id}
    recorded = [*children(tracker), *cells(tracker)]
    kinds = ("metrics", "params", "tags")
    columns = {f"{kind}.`{name}`" for kind in kinds for run in recorded for name in getattr(run.data, kind)}
    for _, query in links:
        words = parse_qs(query)
        assert words["workflowType"] == ["machine_learning"]
        view = json.loads(experiment.tags[f"mlflow.sharedViewState.{words['viewStateShareKey'][0]}"])
        # the format of MLflow 3.17's own views
        assert isinstance(view["name"], str) and view["createdAt"] == view["updatedAt"] == experiment.creation_time
        state = json.loads(view["state"])
        order = [f"{state['orderByKey']} {'ASC' if state['orderByAsc'] else 'DESC'}"]
        assert tracker.client.search_runs([tracker.experiment_id], state["searchFilter"], order_by=order), view["name"]
        shown = {name for name in state["selectedColumns"] if not name.startswith("attributes.")}
        assert shown - {"metrics.`cell/p`", "metrics.`cell/sd`"} <= columns  # of cells with more seeds
    tracker.summarise_cells()
    assert tracker.client.get_experiment(tracker.experiment_id).tags == experiment.tags


def test_a_user_s_description_and_views_are_kept(results, database):
    tracker = Tracker(database, "users")
    tracker.record(results[0])
    tracker.summarise_cells()
    number, client = tracker.experiment_id, tracker.client
    ours = client.get_experiment(number).tags[NOTE]
    client.set_experiment_tag(number, NOTE, f"Before.\n\n{ours}\nAfter.")
    client.set_experiment_tag(number, "mlflow.experimentKind", "finetuning")
    view = json.loads(client.get_experiment(number).tags["mlflow.sharedViewState.rme-cells"])
    changed = json.dumps(view | {"updatedAt": view["createdAt"] + 5, "state": "{}"})
    client.set_experiment_tag(number, "mlflow.sharedViewState.rme-cells", changed)
    tracker.record(results[1])
    tracker.summarise_cells()
    tags = client.get_experiment(number).tags
    assert tags[NOTE].startswith("Before.\n\n") and tags[NOTE].endswith("\nAfter.")
    assert "RME(2)" in tags[NOTE] and "RME(2)" not in ours, "the program's part is of all cells now"
    assert tags["mlflow.experimentKind"] == "finetuning"
    assert tags["mlflow.sharedViewState.rme-cells"] == changed
    client.set_experiment_tag(number, NOTE, "Mine alone.")
    tracker.summarise_cells()
    assert client.get_experiment(number).tags[NOTE] == "Mine alone."


def test_an_earlier_version_s_experiment_is_described_anew(results, database):
    client = Tracker(database, "elsewhere").client
    number = client.create_experiment("early", tags={NOTE: EARLIER})
    tracker = Tracker(database, "early")
    assert client.get_experiment(number).tags == {NOTE: EARLIER}, "a command that only reads does not write"
    tracker.summarise_cells()
    tracker.record(results[1])
    tracker.summarise_cells()
    tags = client.get_experiment(number).tags
    assert "mnist" not in tags[NOTE] and "spots" in tags[NOTE]
    assert tags["mlflow.experimentKind"] == "custom_model_development"


def test_a_cell_s_description_names_its_best_run_and_how_to_load_it(results, database):
    tracker = Tracker(database, "best")
    for seed, score in enumerate((-7.0, -3.0, -5.0)):
        spec = results[0].spec.model_copy(update={"seed": seed})
        tracker.record(replace(results[0], spec=spec, val_iwae=torch.full((2,), score)))
    tracker.record_failure(results[0].spec.model_copy(update={"seed": 3}), Failure("NaN"))
    tracker.summarise_cells()
    (cell,) = cells(tracker)
    by_seed = {run.data.params["seed"]: run.info.run_id for run in children(tracker)}
    (source,) = re.findall(r'rme\.load\("([^"]+)"\)', cell.data.tags[NOTE])
    assert source == f"runs:/{by_seed['1']}"
    assert model_file(source, database).spec.seed == 1
    assert "-3.00" in cell.data.tags[NOTE] and by_seed["3"] in cell.data.tags[NOTE]


def test_pictures_are_enlarged_below_their_title(results, database):
    """Each test image is found in the picture, each of its pixels thrice as wide and high."""
    tracker = Tracker(database, "labelled")
    tracker.record(results[0])
    (cell,) = cells(tracker)
    with Image.open(download(tracker, cell, "reconstructions.png")) as picture:
        found = np.asarray(picture.convert("L"))
    originals, reconstructions = results[0].reconstructions.numpy()
    wanted = [np.kron(images[0, 0], np.ones((3, 3), np.uint8)) for images in (originals, reconstructions)]
    windows = np.lib.stride_tricks.sliding_window_view(found, (1, 84))[:, :, 0]
    places = []
    for image in wanted:
        rows = np.argwhere((windows == image[0]).all(-1))
        places.append([at for at in rows if np.array_equal(found[at[0] : at[0] + 84, at[1] : at[1] + 84], image)])
    ((top, left),), ((below, same),) = places
    assert left == same and below >= top + 84
    assert (found[:top] < 128).any(), "a title"
    assert (found[top : top + 84, :left] < 128).any() and (found[below : below + 84, :left] < 128).any(), (
        "names of rows"
    )
