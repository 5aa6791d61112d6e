"""The file of one model: written and read alike, and refused with a reason where it is not this version's."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from rme import model_file
from rme.checkpoint import CorruptFile, digest
from rme.engine import member_parameters
from rme.model_file import ModelFile, ModelFileError, as_method, named, stack_models, unnamed


@pytest.fixture
def written(small, tmp_path) -> tuple[ModelFile, Path]:
    engine = small.engine(small.spec("rme", 2, variant="kl 5"))
    scores = torch.arange(4, dtype=torch.float64)
    file = ModelFile(
        engine.spec, 1, member_parameters(engine.method, 0), scores, -scores,
        images=small.images.test[:2], val_elbo=torch.tensor([1.0, math.nan, 3.0]), metrics={"val/elbo": 3.0},
    )  # fmt: skip
    file.write(tmp_path / model_file.NAME)
    return file, tmp_path / model_file.NAME


def rewritten(path: Path, without: tuple[str, ...] = (), **about: str | None) -> Path:
    """The file with other metadata (None: without it) and without some tensors, and with a hash of this content."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() | about
    metadata = {name: text for name, text in metadata.items() if text is not None and name != "sha256"}
    tensors = {name: value for name, value in load_file(path).items() if name not in without}
    save_file(tensors, path, metadata | {"sha256": digest(tensors, json.dumps(metadata, sort_keys=True))})
    return path


def test_a_model_is_read_as_it_was_written(written, small):
    file, path = written
    found = ModelFile.read(path)
    assert (found.spec, found.spec.variant, found.restart) == (file.spec, "kl 5", 1)
    assert torch.equal(found.test_iwae, file.test_iwae) and torch.equal(found.test_elbo, file.test_elbo)
    assert torch.equal(found.images, file.images) and found.metrics == {"val/elbo": 3.0}
    torch.testing.assert_close(found.val_elbo, file.val_elbo, rtol=0, atol=0, equal_nan=True)
    assert found.parameters.keys() == file.parameters.keys()
    z = torch.ones(1, 1, 3)
    assert torch.equal(found.method.decoder.mean(z), as_method(file.spec, file.parameters).decoder.mean(z))


def test_a_file_of_the_first_version_is_read_and_one_of_an_unknown_version_is_not(written):
    file, path = written
    old = rewritten(path, ("shown.images", "shown.val_elbo"), version=None, metrics=None)  # as they were written then
    found = ModelFile.read(old)
    assert found.spec == file.spec and found.parameters.keys() == file.parameters.keys()
    assert len(found.images) == len(found.val_elbo) == 0 and found.metrics == {}
    with pytest.raises(ModelFileError, match=r"version 99.*reads versions 1 and 2"):
        ModelFile.read(rewritten(path, version="99"))


def test_a_method_that_is_not_installed_is_named(written):
    _, path = written
    with safe_open(path, framework="pt") as read:
        values = json.loads(read.metadata()["spec"])
    with pytest.raises(ModelFileError, match=r"'mine' is not installed .*vae"):
        ModelFile.read(rewritten(path, spec=json.dumps({**values, "method": "mine"})))


def test_a_changed_byte_is_noticed(written):
    _, path = written
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # of the last tensor, which the format itself does not check
    path.write_bytes(content)
    with pytest.raises(CorruptFile, match="hash"):
        ModelFile.read(path)


def test_a_file_of_something_else_is_refused(tmp_path):
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelFileError, match=r"other.safetensors is not a model's file"):
        ModelFile.read(tmp_path / "other.safetensors")


@pytest.mark.parametrize("about", [{"spec": "{}"}, {"spec": "not JSON"}, {"restart": "first"}])
def test_a_file_of_no_run_is_refused(written, about):
    with pytest.raises(ModelFileError, match="not a model of this version"):
        ModelFile.read(rewritten(written[1], **about))


def test_a_damaged_file_and_a_missing_one_are_told_apart(written, tmp_path):
    _, path = written
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(CorruptFile, match="damaged"):
        ModelFile.read(path)
    with pytest.raises(FileNotFoundError):
        ModelFile.read(tmp_path / "none")


def test_parameters_of_another_method_make_no_model(written, small):
    file, _ = written
    wrong = ModelFile(small.spec("vae"), 0, file.parameters, file.test_iwae, file.test_elbo)
    with pytest.raises(ModelFileError, match="not a model of this version"):
        _ = wrong.method


def test_models_of_several_restarts_are_found_again_among_other_tensors():
    models = [{"a.weight": torch.full((2,), float(r)), "b": torch.tensor(r)} for r in range(3)]
    tensors = named(models) | {"val_iwae": torch.zeros(3)}
    again = unnamed(tensors, 3)
    assert [{name: value.tolist() for name, value in model.items()} for model in again] == [
        {name: value.tolist() for name, value in model.items()} for model in models
    ]
    assert stack_models(models)["a.weight"].tolist() == [[0, 0], [1, 1], [2, 2]]
