"""Models of recorded runs by every way to name them, and one line for each that cannot be loaded."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import rme
from analysis.recorded_model import ModelError, model_file
from rme import RunSpec
from rme.timing import Timing, TimingSpec
from tests.databases import blank_database
from tests.sweeping import SMALL
from tests.tiny import write_npz
from tune.record.tracking import Span, Tracker
from tune.store.failure import Failure

SEEDS = {"good": 0, "better": 1, "early": 2, "damaged": 3, "newer": 4, "absent": 5, "gone": 6}


@pytest.fixture(scope="module")
def tracker(tmp_path_factory):
    return Tracker(blank_database(tmp_path_factory.mktemp("mlflow") / "mlflow.db"), "spots")


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    path = write_npz(tmp_path_factory.mktemp("data") / "spots.npz")
    return rme.fit(RunSpec.of({"method": "vae", "dataset": str(path), **SMALL, "epochs": 1}))


@pytest.fixture(scope="module")
def ids(tracker, result) -> dict[str, str]:
    """The MLflow ids of runs with a model that can or cannot be read, by `SEEDS`, and of other runs."""
    client = tracker.client
    found = {}
    for name, seed in SEEDS.items():
        spec = result.spec.model_copy(update={"seed": seed})
        tracker.record(replace(result, spec=spec, val_iwae=result.val_iwae + float(name == "better")))
        run = tracker._find("run_key", spec.key)
        found[name] = run.info.run_id
        folder = Path(run.info.artifact_uri.removeprefix("file://"))
        path = folder / "model" / "model.safetensors"
        if name == "early":
            path.rename(folder / path.name)
        if name in ("early", "gone"):
            shutil.rmtree(folder / "model")
        if name == "damaged":
            path.write_bytes(path.read_bytes()[:-10])
        if name == "newer":
            rewrite(path, version="99")
        if name == "absent":
            rewrite(path, version="1", spec=json.dumps({**spec.model_dump(mode="json"), "method": "of-a-friend"}))
    timed = TimingSpec.of({"method": "vae", "dataset": result.spec.dataset, "dim": 3})
    tracker.record_timing(Timing(timed, torch.ones(5), torch.ones(5), {"device": "none", "torch": "2"}))
    found["timing"] = tracker._find("run_key", timed.key).info.run_id
    for name, dim in (("failed", 7), ("unfinished", 8)):
        spec = result.spec.model_copy(update={"dim": dim})
        found[name] = tracker._child(spec, Span.now()).info.run_id
        if name == "failed":
            tracker.record_failure(spec, Failure("loss is NaN", ""))
    found["foreign"] = client.create_run(tracker.experiment_id, run_name="of another program").info.run_id
    found["cell"] = client.get_run(found["good"]).data.tags["mlflow.parentRunId"]
    found["empty cell"] = client.get_run(found["failed"]).data.tags["mlflow.parentRunId"]
    return found


def rewrite(path: Path, **about: str) -> None:
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        known = file.metadata()
    save_file(tensors, path, {**known, **about})


def refusal(source: str, uri: str | None) -> str:
    with pytest.raises(ModelError) as raised:
        model_file(source, uri)
    text = str(raised.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("form", ["{}", "runs:/{}", "runs:/{}/model", "runs:/{}/model/model.safetensors"])
def test_every_form_of_a_run_gives_its_model(tracker, result, ids, form):
    file = model_file(form.format(ids["better"]), tracker.uri)
    assert file.spec == result.spec.model_copy(update={"seed": 1}) and file.restart == result.chosen
    wanted = result.models[result.chosen]
    assert file.parameters.keys() == wanted.keys()
    assert all(torch.equal(value, wanted[name]) for name, value in file.parameters.items())
    assert torch.equal(file.test_iwae, result.test_iwae)


def test_a_run_that_an_earlier_version_recorded(tracker, ids, result):
    for source in (ids["early"], f"runs:/{ids['early']}/model.safetensors"):
        assert model_file(source, tracker.uri).spec.seed == SEEDS["early"]


def test_the_tracking_uri_is_the_environment_s(tracker, ids, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracker.uri)
    assert model_file(ids["good"]).spec.seed == SEEDS["good"]


def test_a_registered_model_by_version_and_alias(tracker, ids):
    client = tracker.client
    client.create_registered_model("spots")
    for name in ("good", "better"):
        source = f"{client.get_run(ids[name]).info.artifact_uri}/model"
        client.create_model_version("spots", source, ids[name])
    client.set_registered_model_alias("spots", "champion", "2")
    seeds = [model_file(uri, tracker.uri).spec.seed for uri in ("models:/spots/1", "models:/spots@champion")]
    assert seeds == [SEEDS["good"], SEEDS["better"]]
    assert "models:/spots/7: " in (text := refusal("models:/spots/7", tracker.uri)) and tracker.uri in text
    assert "champignon" in refusal("models:/spots@champignon", tracker.uri)
    assert "nowhere" in refusal("models:/nowhere/1", tracker.uri)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("damaged", ["spots d3 VAE seed 3", "damaged"]),
        ("newer", ["99"]),
        ("absent", ["'of-a-friend' is not installed"]),
        ("gone", ["spots d3 VAE seed 6", "no model.safetensors was recorded"]),
        ("timing", ["is a timing"]),
        ("failed", ["spots d7 VAE seed 0", "failed", "loss is NaN"]),
        ("unfinished", ["spots d8 VAE seed 0", "unfinished"]),
        ("foreign", ["of another program", "not a run of a sweep"]),
        ("empty cell", ["summary of a cell", "none of its runs"]),
    ],
)
def test_what_has_no_model_is_refused_with_the_reason(tracker, ids, name, words):
    text = refusal(ids[name], tracker.uri)
    assert f"runs:/{ids[name]}" in text and all(word in text for word in words), text


def test_a_cell_s_summary_names_its_best_run(tracker, ids):
    text = refusal(f"runs:/{ids['cell']}", tracker.uri)
    assert text.endswith(f"runs:/{ids['better']}")


def test_an_unknown_run_is_named_with_the_store(tracker):
    assert refusal("runs:/" + "0" * 32, tracker.uri) == f"runs:/{'0' * 32}: no run {'0' * 32} in {tracker.uri}"


def test_a_missing_database_is_not_created(tmp_path):
    path = tmp_path / "none.db"
    assert str(path) in refusal("0" * 32, f"sqlite:///{path}") and not path.exists()
    path.write_text("no database")
    assert "not an MLflow database" in refusal("0" * 32, f"sqlite:///{path}")


def test_a_server_that_does_not_answer():
    assert "http://127.0.0.1:9: the server does not answer" in refusal("0" * 32, "http://127.0.0.1:9")


@pytest.mark.parametrize("source", ["runs:/", "runs:/12", "models:/spots", "runs:/" + "0" * 32 + "/other", "x/y"])
def test_other_sources_are_refused_with_the_valid_ones(source):
    text = refusal(source, "sqlite:///none.db")
    assert text.startswith(f"{source}: ") and "models:/NAME/VERSION" in text
