"""Exported files, run by torch.export and onnxruntime alone, return the model's numbers for any number of images."""

from __future__ import annotations

import json
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from rme import methods
from rme.distributions import DiagonalGaussian
from rme.export import ExportError, export
from rme.methods.vae import VAE
from rme.model import Model
from rme.model_file import ModelFile
from rme.untrained import untrained
from tests.rme.test_plain_modules import DIM, array_posterior, density, model_of, own_method, pixels

SMALL = (1, 8, 8)
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


def check_encoder(model, run, shape) -> None:
    """`run` takes inputs by name, numpy, and returns outputs by name; compared with the model's own posterior."""
    for count in (1, 2, 7):
        images = pixels(count, shape)
        q = array_posterior(model, images)
        generator = torch.Generator().manual_seed(count)
        z, eps = (torch.randn(count, DIM, generator=generator) for _ in range(2))
        inputs = {"images": (images / 255).numpy()}
        if hasattr(q, "push"):
            found = run(inputs | {"eps": eps.numpy()})
            expected = q.push(q.base.rsample(eps.unsqueeze(0)))
            torch.testing.assert_close(found["z"], expected[0][0], **TOLERANCE)
            torch.testing.assert_close(found["log_q"], expected[1][0], **TOLERANCE)
        else:
            torch.testing.assert_close(density(run(inputs), z), q.log_prob(z.unsqueeze(0))[0], rtol=1e-5, atol=1e-4)


def check_decoder(model, run) -> None:
    for count in (1, 2, 7):
        z = torch.randn(count, DIM, generator=torch.Generator().manual_seed(count))
        expected = model.decoder(z.unsqueeze(0))[0] + model.pixel_mean[0]
        torch.testing.assert_close(run({"z": z.numpy()})["images"], expected, **TOLERANCE)


def onnx_run(file):
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(names, map(torch.as_tensor, session.run(None, inputs)), strict=True))


def torch_run(file):
    program = torch.export.load(file).module()
    return lambda inputs: program(*map(torch.as_tensor, inputs.values()))


# ---------------------------------------------------------------------- numbers
STRUCTURES = [
    ("vae", None, "conv"), ("vae", None, "fc"), ("me", 2, "conv"), ("rme", 2, "conv"), ("iaf", 1, "conv"),
    ("hf", 1, "conv"), ("vlae", 1, "fc"),
]  # fmt: skip
"""One of each structure; `test_plain_modules.py` has every method."""


@pytest.mark.long(seconds=10)
@pytest.mark.parametrize(("method", "order", "decoder"), STRUCTURES)
def test_torch_programs_return_the_model_s_numbers(tmp_path, method, order, decoder):
    model = model_of(method, order, decoder, SMALL)
    encoder, made, about = export(model, tmp_path, "torch")
    assert [path.name for path in (encoder, made, about)] == ["encoder.pt2", "decoder.pt2", "about.json"]
    check_encoder(model, torch_run(encoder), SMALL)
    check_decoder(model, torch_run(made))


@pytest.mark.long(seconds=12)
@pytest.mark.parametrize(
    ("method", "order", "shape"),
    [
        ("vae", None, (1, 28, 28)),
        ("rme", 2, SMALL),
        pytest.param("iaf", 2, SMALL, marks=pytest.mark.slow),
        pytest.param("hf", 2, SMALL, marks=pytest.mark.slow),
    ],
)
def test_onnx_files_return_the_model_s_numbers(tmp_path, method, order, shape):
    model = model_of(method, order, shape=shape)
    encoder, decoder, _ = export(model, tmp_path / "new" / "folder", "onnx")
    check_encoder(model, onnx_run(encoder), shape)
    check_decoder(model, onnx_run(decoder))
    for file in (encoder, decoder):
        content = onnx.load(file)
        onnx.checker.check_model(content, full_check=True)
        # nothing of this machine, and only the parameters of the part itself
        assert not any(node.metadata_props for node in content.graph.node)
    own = sum(p.numel() for p in model.decoder.mean.parameters()) + model.pixel_mean.numel()
    stored = sum(onnx.numpy_helper.to_array(each).size for each in onnx.load(decoder).graph.initializer)
    assert own <= stored < own + 50


# ---------------------------------------------------------------------- what is written beside
def test_what_is_written_beside_says_how_to_use_the_files(tmp_path):
    model = model_of("iaf", 1, shape=SMALL)
    file = ModelFile(model.spec, 0, {name: value[0] for name, value in model.state_dict().items()})
    written = export(Model(file), tmp_path, "torch")
    about = json.loads((tmp_path / "about.json").read_text())
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in written)
    assert about["key"] == model.spec.key and about["spec"]["method"] == "iaf"
    assert about["decoder_variance"] == pytest.approx(np.exp(-1.5), rel=1e-6)
    encoder, decoder = about["parts"]["encoder"], about["parts"]["decoder"]
    assert [(port["name"], port["shape"]) for port in encoder["inputs"]] == [
        ("images", ["N", *SMALL]), ("eps", ["N", DIM]),
    ]  # fmt: skip
    assert [(port["name"], port["shape"]) for port in encoder["outputs"]] == [("z", ["N", DIM]), ("log_q", ["N"])]
    assert [port["shape"] for port in decoder["inputs"] + decoder["outputs"]] == [["N", DIM], ["N", *SMALL]]
    inside = {"about.json": ""}
    program = torch.export.load(tmp_path / encoder["file"], extra_files=inside)
    assert json.loads(inside["about.json"]) == about
    # the parameters of the encoder alone
    own = [*model.encoder.parameters(), *model.mades.parameters(), model.pixel_mean]
    assert sum(value.numel() for value in program.state_dict.values()) == sum(value.numel() for value in own)


# ---------------------------------------------------------------------- refusals
@pytest.mark.parametrize("method", ["sa", "svi"])
def test_inference_by_gradients_is_refused_and_its_decoder_exported(tmp_path, method):
    model = model_of(method, min(methods.get(method).orders), shape=SMALL)
    with pytest.raises(ExportError, match=r"random draws.*--only decoder") as error:
        export(model, tmp_path, "torch")
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())
    decoder, about = export(model, tmp_path, "torch", parts=["decoder"])
    check_decoder(model, torch_run(decoder))
    assert list(json.loads(about.read_text())["parts"]) == ["decoder"]


def test_onnx_has_no_cholesky_factor_and_the_error_says_what_works(tmp_path):
    with pytest.raises(ExportError, match=r"cholesky.*--format torch") as error:
        export(model_of("vlae", 1, "fc", SMALL), tmp_path, "onnx")
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


def test_a_missing_package_is_named_with_what_installs_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # as if not installed
    with pytest.raises(ExportError, match=r"onnxruntime: pip install 'rme\[export\]'"):
        export(model_of(shape=SMALL), tmp_path, "onnx")


@pytest.mark.parametrize(
    ("format", "parts", "named"),
    [("tflite", ["decoder"], "tflite"), ("torch", ["prior"], "prior"), ("torch", [], "none")],
)
def test_unknown_formats_and_parts_are_refused(tmp_path, format, parts, named):
    with pytest.raises(ExportError, match=named):
        export(model_of(shape=SMALL), tmp_path, format, parts)


def test_an_array_of_several_models_is_refused(tmp_path):
    spec = model_of(shape=SMALL).spec
    with pytest.raises(ExportError, match="2 models"):
        export(untrained([spec, spec], SMALL), tmp_path, "torch")


class OtherAlone(VAE):
    """A method that treats a single image differently, which a traced program does not."""

    def posterior(self, x, noise):
        q = self.encoder(x)
        return DiagonalGaussian(q.mu + 1, q.logvar) if x.shape[1] == 1 else q


class ByValue(VAE):
    """A method whose code branches on its images' values, which cannot be traced."""

    def posterior(self, x, noise):
        q = self.encoder(x)
        return q if x.sum() > 0 else DiagonalGaussian(-q.mu, q.logvar)


@pytest.mark.parametrize(("kind", "named"), [(OtherAlone, "another mean"), (ByValue, "torch.export")])
def test_a_program_that_differs_from_the_model_is_never_written(tmp_path, kind, named):
    with pytest.raises(ExportError, match=named) as error:
        export(own_method(kind), tmp_path, "torch")
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())
