"""bench.peers: pythae's models with our networks compute the same as ours, and a difference is detected."""

from __future__ import annotations

import importlib.util
import json

import pytest
import torch

from bench import harness, models, peers
from bench.harness import DifferentError
from rme.step import Step
from rme.untrained import random_images
from tune.cost.measure import array_engine

needs_pythae = pytest.mark.skipif(
    importlib.util.find_spec("pythae") is None, reason=f"pythae is not installed: {peers.INSTALL}"
)
CPU = torch.device("cpu")


def engine(method: str, order: int | None, dataset: str = "mnist"):
    run = models.spec(method, order, dataset=dataset, dim=6)
    return array_engine(run, models.image_shape(run), CPU, 2, random_images(128, models.image_shape(run)))


@needs_pythae
@pytest.mark.parametrize(
    ("method", "order", "dataset"),
    [("vae", None, "mnist"), ("vae", None, "cifar10"), ("iaf", 1, "mnist"), ("iaf", 2, "mnist"), ("iaf", 4, "cifar10")],
)
def test_pythae_computes_the_same(method: str, order: int | None, dataset: str) -> None:
    array = engine(method, order, dataset)
    peers.check(array.method, array.pixels[:3], samples=10)


@needs_pythae
@pytest.mark.parametrize(
    "part", ["encoder.layers.0", "decoder.layers.0", "iaf_flow.net.0.net.0", "iaf_flow.net.1.net.2"]
)
def test_a_different_weight_is_detected(part: str) -> None:
    array = engine("iaf", 2)
    model = peers.matched(array.method)
    with torch.no_grad():
        model.get_submodule(part).weight.mul_(1.5)
    with pytest.raises(DifferentError, match="IAF"):
        peers.check_values(array.method, model, array.pixels[:3], samples=10)


@needs_pythae
def test_a_different_score_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    array = engine("vae", None)
    model = peers.matched(array.method)
    get_nll = model.get_nll
    monkeypatch.setattr(model, "get_nll", lambda *data, **settings: get_nll(*data, **settings) + 0.01)
    with pytest.raises(DifferentError, match="IWAE"):
        peers.check_values(array.method, model, array.pixels[:3], samples=10)


@needs_pythae
def test_a_different_network_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers.pythae_models(), "hidden_units", lambda method: 400)
    with pytest.raises(DifferentError, match="parameters"):
        peers.matched(engine("iaf", 1).method)


@needs_pythae
def test_pythae_trains_on_the_same_images() -> None:
    array = engine("vae", None)
    array.method.decoder.logvar.zero_()
    x = array.method.centred(array.pixels.expand(2, *array.pixels.shape))
    loss = array.method.loss(Step(x, array.noise, 0))[0].item() - 0.5 * 784 * torch.tensor(2 * torch.pi).log().item()
    epoch = peers.peer_epoch(method="vae", order=None, dataset="mnist", dim=6, batches=1, device="cpu")
    losses = [epoch() for _ in range(8)]
    assert losses[0] == pytest.approx(loss, rel=0.02), "first loss on the same images with other noise"
    assert losses[-1] < losses[0], "the loss decreases"


@needs_pythae
def test_a_method_that_pythae_lacks() -> None:
    settings, _ = harness.parse("", methods="vae,rme:2", members="1", dim=6, argv=["--device", "cpu"])
    with pytest.raises(ValueError, match=r"rme.*vae, iaf"):
        next(peers.rows(settings))


def test_without_pythae_it_says_what_to_install(without_pythae: None) -> None:
    with pytest.raises(SystemExit, match=r"pip install .*pythae"):
        peers.pythae_models()


@needs_pythae
@pytest.mark.slow
def test_the_command(tmp_path) -> None:
    file = tmp_path / "peers.json"
    argv = ["--device", "cpu", "--quick", "--rounds", "1", "--dim", "4", "--json", str(file)]
    harness.main(peers.rows, "", methods="vae", argv=argv)
    rows = json.loads(file.read_text())["rows"]
    assert {row["rival"] for row in rows} == {
        f"pythae {what}, {allocator} allocator"
        for what in ("trainer", "get_nll", "get_nll, no_grad")
        for allocator in ("same", "default")
    }
    assert all(row["ratio"] > 0 for row in rows)
