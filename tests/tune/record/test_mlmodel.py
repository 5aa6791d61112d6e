"""A recorded model is one that MLflow's users load, score with and register, in a process that only has rme."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from mlflow.models import Model
from safetensors.torch import load_file

import rme
from rme import RunSpec
from tests import ROOT
from tests.databases import blank_database
from tests.sweeping import SMALL
from tests.tiny import write_npz
from tune.record.mlmodel import save_model
from tune.record.tracking import Tracker

SCORE = """
import json, sys
import mlflow, numpy as np
uri, run, images, k = sys.argv[1], sys.argv[2], np.load(sys.argv[3]), int(sys.argv[4])
mlflow.set_tracking_uri(uri)
model = mlflow.pyfunc.load_model(f"runs:/{run}/model")
found = {
    "own": model.predict(images, params={"k": k}),
    "example": model.predict(model.input_example, params={"k": k}),
}
version = mlflow.register_model(f"runs:/{run}/model", "spots")
found["registered"] = mlflow.pyfunc.load_model("models:/spots/1").predict(images, params={"k": k})
print(json.dumps({name: [scores.dtype.name, scores.tolist()] for name, scores in found.items()}))
"""


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    path = write_npz(tmp_path_factory.mktemp("data") / "spots.npz")
    return rme.fit(RunSpec.of({"method": "vae", "dataset": str(path), **SMALL}))


@pytest.fixture(scope="module")
def recorded(result, tmp_path_factory):
    tracker = Tracker(blank_database(tmp_path_factory.mktemp("mlflow") / "mlflow.db"), "spots")
    tracker.record(result)
    (run,) = tracker.finished()
    return tracker, run


@pytest.mark.long(seconds=8)
def test_mlflow_loads_scores_and_registers_it_elsewhere(result, recorded, tmp_path):
    """In another folder, on a machine without the data set."""
    tracker, run = recorded
    np.save(tmp_path / "images.npy", result.test_images.numpy())
    k = result.spec.iwae_samples
    data_set = Path(result.spec.dataset).rename(tmp_path / "away.npz")
    try:
        done = subprocess.run(
            [sys.executable, "-c", SCORE, tracker.uri, run.info.run_id, str(tmp_path / "images.npy"), str(k)],
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        )  # fmt: skip
    finally:
        data_set.rename(result.spec.dataset)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    wanted = result.test_iwae.tolist()
    assert found["own"] == found["registered"] == ["float64", wanted]
    kind, scores = found["example"]
    assert kind == "float64" and len(scores) == 1 and np.isfinite(scores).all()


def test_the_folder_says_what_goes_in_and_comes_out(result, tmp_path):
    tag = save_model(result, "f" * 32, tmp_path)
    names = {"MLmodel", "model.safetensors", "input_example.json"}
    assert {path.name for path in tmp_path.iterdir()} == names
    model = Model.load(tmp_path)
    (images,) = model.signature.inputs.inputs
    (scores,) = model.signature.outputs.inputs
    assert (images.type, images.shape) == (np.uint8, (-1, 1, 28, 28))
    assert (scores.type, scores.shape) == (np.float64, (-1,))
    assert {param.name: param.default for param in model.signature.params} == {"k": 100, "seed": -1}
    np.testing.assert_array_equal(model.load_input_example(str(tmp_path)), result.test_images[:1].numpy())
    (listed,) = json.loads(tag["mlflow.log-model.history"])
    assert (listed["run_id"], listed["artifact_path"], [*listed["flavors"]]) == ("f" * 32, "model", ["python_function"])


def test_written_again_it_is_the_same(result, tmp_path):
    """So recording a run again after an interruption changes nothing."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        save_model(result, "f" * 32, tmp_path / name)
    for path in (tmp_path / "a").iterdir():
        again = tmp_path / "b" / path.name
        if path.suffix == ".safetensors":  # the order of its metadata varies
            first, second = load_file(path), load_file(again)
            assert first.keys() == second.keys() and all(first[name].equal(second[name]) for name in first)
        else:
            assert path.read_bytes() == again.read_bytes(), path.name


def test_a_run_has_one_copy_of_its_model(recorded):
    tracker, run = recorded
    assert [artifact.path for artifact in tracker.client.list_artifacts(run.info.run_id)] == ["model"]
    folder = Path(run.info.artifact_uri.removeprefix("file://"))
    assert [path.name for path in folder.rglob("*.safetensors")] == ["model.safetensors"]
    about = yaml.safe_load((folder / "model" / "MLmodel").read_text())
    assert about["flavors"]["python_function"]["loader_module"] == "rme.pyfunc" and about["run_id"] == run.info.run_id
