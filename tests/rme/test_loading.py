"""`rme.load`: the same model from every place where it may lie, and one line for what is no model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import rme
from rme import LoadError, RunSpec, checkpoint
from rme.checkpoint import Checkpoints
from rme.fitting import train_runs
from rme.model_file import ModelFile
from rme.result import MARKER, Result
from rme.timing import Timing, TimingSpec
from tests.tiny import write_npz


@pytest.fixture(scope="module")
def result(small) -> Result:
    spec = small.spec(restarts=2, epochs=1)
    found = train_runs([spec], small.images, torch.device("cpu"))[spec.key]
    assert isinstance(found, Result)
    return found


@pytest.fixture
def storage(result: Result, tmp_path: Path) -> Path:
    result.save(tmp_path / "storage" / "runs" / result.spec.key)
    return tmp_path / "storage"


def test_the_model_is_the_chosen_restart_wherever_it_lies(result: Result, storage: Path, tmp_path: Path) -> None:
    folder = storage / "runs" / result.spec.key
    result.model.save(tmp_path / "model.safetensors")
    sources = [
        result, result.model, folder, str(folder), folder / MARKER, tmp_path, tmp_path / "model.safetensors"
    ]  # fmt: skip
    models = [rme.load(source, device="cpu") for source in sources]
    models += [rme.load(source, storage=storage, device="cpu") for source in (result.spec, result.spec.key)]
    for model in models:
        assert model.spec == result.spec and model.restart == result.chosen
        wanted = result.models[result.chosen]
        assert all(torch.equal(value[0], wanted[name]) for name, value in model.method.state_dict().items())
        assert torch.equal(model.test_iwae, result.test_iwae) and model.metrics == result.metrics
        assert torch.equal(model.shown, result.test_images[: len(model.shown)]) and len(model.shown)


def test_a_missing_source_says_what_would_be_one(result: Result, storage: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    other = RunSpec(**{**result.spec.model_dump(), "seed": 9})
    for source, said in [
        ("nowhere", "nowhere: not found; expected a run's folder"),
        (storage, f"is the storage of a sweep: .*storage='{storage}'"),
        (storage / "runs", "is no run's folder"),
        (other, rf"{other.run_name} has no result in .*{other.key}"),
        ("0123456789abcdef", "run 0123456789abcdef has no result in storage/runs"),
        (7, "int is no source of a model"),
        ("a" * 5000, "name too long"),
        ("f" * 32, "."),  # an MLflow run id, where MLflow has recorded nothing
    ]:
        with pytest.raises(LoadError, match=said) as error:
            rme.load(source, device="cpu")
        assert len(str(error.value).splitlines()) == 1
    assert not (tmp_path / "mlflow.db").exists()


def changed(path: Path, **about) -> Path:
    tensors, meta = checkpoint.load(path)
    checkpoint.save(path, tensors, {**meta, **about})
    return path


def test_what_is_no_model_is_refused_in_one_line(result: Result, small, storage: Path, tmp_path: Path) -> None:
    found = storage / "runs" / result.spec.key / MARKER
    pickle, truncated = tmp_path / "model.pt", tmp_path / "half.safetensors"
    torch.save({"weight": torch.zeros(2)}, pickle)
    truncated.write_bytes(found.read_bytes()[: found.stat().st_size // 2])
    flipped = tmp_path / "flipped.safetensors"
    content = bytearray(found.read_bytes())
    content[-3] ^= 1
    flipped.write_bytes(content)
    foreign = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(2)}, foreign)
    unknown = {**result.spec.model_dump(), "method": "mine"}
    engine = small.engine(small.spec())
    Checkpoints(tmp_path / "checkpoints").save(0, engine.state(), {"runs": [result.spec.key]})
    timing = TimingSpec(method="vae", dataset="digits", dim=3)
    Timing(timing, torch.ones(2), torch.ones(2), {"device": "here", "torch": "2"}).save(tmp_path / "timing")
    for source, said in [
        (pickle, "no safetensors file"),
        (truncated, "damaged"),
        (flipped, "does not match its hash"),
        (foreign, "not a model's file"),
        (next((tmp_path / "checkpoints").iterdir()), "is a checkpoint of a training"),
        (tmp_path / "timing", "is a timing, which has no model"),
        (changed(found, spec=unknown), "unknown method 'mine'"),
    ]:
        with pytest.raises(LoadError, match=said) as error:
            rme.load(source, device="cpu")
        assert len(str(error.value).splitlines()) == 1


def test_a_device_that_is_not_here_is_named(result: Result) -> None:
    with pytest.raises(ValueError, match="cuda"):
        rme.load(result, device="cuda:77")


def test_parameters_that_fit_no_method_are_refused(result: Result, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    result.model.save(path)
    file = ModelFile.read(path)
    file.parameters.pop("encoder.head.0.bias")
    file.write(path)
    with pytest.raises(LoadError, match=r"not a model of this version: .*Missing key.*encoder.head.0.bias"):
        rme.load(path, device="cpu")


def test_a_model_outlives_the_file_of_its_images(small, tmp_path: Path) -> None:
    """It is loaded, shown and saved on a machine that does not have the user's images."""
    images = write_npz(tmp_path / "spots.npz", train=20)
    spec = small.spec(dataset=str(images), epochs=1)
    key = spec.key
    rme.fit(spec, device="cpu").save(tmp_path / "run")
    images.unlink()
    model = rme.load(tmp_path / "run", device="cpu")
    model.save(tmp_path / "model.safetensors")
    again = rme.load(tmp_path / "model.safetensors", device="cpu")
    assert again.key == model.key == key and key in again._repr_html_() and "spots" in repr(again)
