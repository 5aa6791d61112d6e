"""The file of one model: written and read alike, and refused with a reason where it is not this version's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from rme import model_file
from rme.checkpoint import CorruptFile
from rme.engine import member_parameters
from rme.model_file import ModelFile, ModelFileError, as_method, named, stack_models, unnamed


@pytest.fixture
def written(small, tmp_path) -> tuple[ModelFile, Path]:
    engine = small.engine(small.spec("rme", 2, variant="kl 5"))
    scores = torch.arange(4, dtype=torch.float64)
    file = ModelFile(engine.spec, 1, member_parameters(engine.method, 0), scores, -scores)
    file.write(tmp_path / model_file.NAME)
    return file, tmp_path / model_file.NAME


def rewritten(path: Path, **about: str | None) -> Path:
    """The file with other metadata; None: without it."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() | about
    save_file(load_file(path), path, {name: text for name, text in metadata.items() if text is not None})
    return path


def test_a_model_is_read_as_it_was_written(written, small):
    file, path = written
    found = ModelFile.read(path)
    assert (found.spec, found.spec.variant, found.restart) == (file.spec, "kl 5", 1)
    assert torch.equal(found.test_iwae, file.test_iwae) and torch.equal(found.test_elbo, file.test_elbo)
    assert found.parameters.keys() == file.parameters.keys()
    z = torch.ones(1, 1, 3)
    assert torch.equal(found.method.decoder.mean(z), as_method(file.spec, file.parameters).decoder.mean(z))


def test_a_file_without_a_version_is_read_and_one_of_another_is_not(written):
    file, path = written
    assert ModelFile.read(rewritten(path, version=None)).spec == file.spec
    with pytest.raises(ModelFileError, match=f"version 99.*version {model_file.VERSION}"):
        ModelFile.read(rewritten(path, version="99"))


@pytest.mark.parametrize("about", [{"spec": None}, {"spec": "{}"}, {"spec": "not JSON"}, {"restart": "first"}])
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
