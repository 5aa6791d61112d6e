"""bench.pythae_likelihood: pythae's `get_nll`, written out, is our IWAE after the changes that the command makes."""

from __future__ import annotations

import importlib.util
import json
import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bench import models, peers, pythae_likelihood
from bench.harness import DifferentError
from rme import noise
from rme.engine import member_parameters
from rme.model import Model
from rme.model_file import ModelFile
from rme.untrained import random_images, untrained

needs_pythae = pytest.mark.skipif(
    importlib.util.find_spec("pythae") is None, reason=f"pythae is not installed: {peers.INSTALL}"
)

DIM, VARIANCE, SAMPLES = 3, 0.04, 20

Array = NDArray[np.float64]


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return random_images(3, (1, 28, 28))


@pytest.fixture(scope="module")
def model(images: torch.Tensor) -> Model:
    """Untrained, but with a pixel mean, a variance, and latents that the decoder does not ignore."""
    spec = models.spec("vae", dataset="digits", dim=DIM, seed=5)
    method = untrained([spec], (1, 28, 28))
    method.pixel_mean.copy_(random_images(1, (1, 28, 28), seed=1).double() / 255)
    method.decoder.logvar.fill_(math.log(VARIANCE))
    for layer in method.decoder.mean.modules():
        if isinstance(getattr(layer, "weight", None), torch.Tensor):
            layer.weight.mul_(1.7)
    return Model(ModelFile(spec, 0, member_parameters(method, 0)))


# ---------------------------------------------------------------------- the formula, without pythae
class WrittenOut:
    """The arithmetic of pythae 0.1.2's `VAE.get_nll` for `reconstruction_loss="mse"`, in numpy, for a given noise.

    Its networks are ours, for images in units of `size`: they get size * x, and their output is divided by size.
    """

    def __init__(self, model: Model, size: float = 1.0) -> None:
        self.model, self.size = model, size

    def __call__(self, x: Array, eps: Array) -> float:
        """From centred images (n, C, H, W) and N(0, 1) noise (K, n, p): the mean over the images."""
        pixel_mean = self.model.method.pixel_mean[0].double().numpy()
        q = self.model.encode((self.size * x + pixel_mean).clip(0, 1))  # which float32 rounding may exceed
        log_p = []
        for i in range(len(x)):
            mu, log_var = q.mean[i].double().numpy(), 2 * q.stddev[i].double().log().numpy()
            z = mu + np.exp(0.5 * log_var) * eps[:, i]
            recon_x = (self.model.decode(z, clamp=False).double().numpy() - pixel_mean) / self.size
            log_q_z_given_x = -0.5 * (log_var + (z - mu) ** 2 / np.exp(log_var)).sum(-1)
            log_p_z = -0.5 * (z**2).sum(-1)
            log_p_x_given_z = -0.5 * ((recon_x - x[i]) ** 2).sum((1, 2, 3)) - 784 / 2 * np.log(2 * np.pi)
            weights = log_p_x_given_z + log_p_z - log_q_z_given_x
            log_p.append(np.logaddexp.reduce(weights) - np.log(len(weights)))
        return float(np.mean(log_p))


def noise_of_scores(model: Model, count: int, seed: int) -> Array:
    """The noise of `log_likelihood`, (K, n, p)."""
    eps = torch.empty(SAMPLES, count, DIM).normal_(generator=noise.generator(seed, 0, noise.EVALUATE))
    return eps.double().numpy()


def test_get_nll_is_our_iwae_at_variance_one(model: Model, images: torch.Tensor) -> None:
    one = pythae_likelihood.of_variance(model, 1.0)
    x = pythae_likelihood.centred(model, images).double().numpy()
    written_out = WrittenOut(model)(x, noise_of_scores(model, len(images), seed=8))
    assert one.log_likelihood(images, k=SAMPLES, seed=8).mean().item() == pytest.approx(written_out, abs=1e-3)
    assert abs(model.log_likelihood(images, k=SAMPLES, seed=8).mean().item() - written_out) > 100
    assert model.variance == pytest.approx(VARIANCE), "the model itself is unchanged"


def test_get_nll_in_units_of_s_is_our_iwae_less_a_constant(model: Model, images: torch.Tensor) -> None:
    s = math.sqrt(VARIANCE)
    x = pythae_likelihood.centred(model, images).double().numpy() / s
    written_out = WrittenOut(model, size=s)(x, noise_of_scores(model, len(images), seed=8))
    ours = model.log_likelihood(images, k=SAMPLES, seed=8).mean().item()
    assert ours == pytest.approx(written_out - 784 * math.log(s), abs=5e-3)


def test_pythae_gets_the_pixels_less_their_mean(model: Model, images: torch.Tensor) -> None:
    expected = images.numpy() / 255 - model.method.pixel_mean[0].numpy()
    assert pythae_likelihood.centred(model, images).numpy() == pytest.approx(expected, abs=1e-6)


def test_log_likelihood_from_the_prior(model: Model, images: torch.Tensor) -> None:
    found = pythae_likelihood.prior_log_likelihood(model, images, count=50, seed=2)
    z = torch.empty(50, DIM).normal_(generator=noise.generator(2, 0, noise.DRAWS))
    means = model.decode(z, clamp=False).double()
    log_p = torch.distributions.Normal(means.unsqueeze(1), math.sqrt(VARIANCE)).log_prob(images.double() / 255)
    expected = np.logaddexp.reduce(log_p.sum((2, 3, 4)).numpy()) - math.log(50)
    assert found.numpy() == pytest.approx(expected, abs=0.02), "distances by products, in float32"


def test_the_difference_and_its_standard_error() -> None:
    found = pythae_likelihood.score("a", "b", [1.0, 2.0, 6.0], [2.0, 5.0, 8.0])
    assert (found.ours, found.pythae, found.difference) == pytest.approx((3, 5, 2))
    assert found.error == pytest.approx(1 / math.sqrt(3)), "differences 1, 3 and 2 have a standard deviation of 1"


def test_a_data_set_whose_shape_pythae_has_no_network_for(tmp_path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 16, 16), dtype=np.uint8)
    np.savez(tmp_path / "own.npz", train=pixels, test=pixels)
    with pytest.raises(SystemExit, match=r"own\.npz: its images are \(1, 16, 16\); valid shapes are \(1, 28, 28\)"):
        pythae_likelihood.main(["--dataset", str(tmp_path / "own.npz")])


def test_a_folder_that_does_not_exist(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        pythae_likelihood.main(["--json", str(tmp_path / "missing" / "file.json")])
    assert f"the folder {tmp_path / 'missing'} does not exist" in capsys.readouterr().err


def test_without_pythae_it_says_what_to_install(without_pythae: None) -> None:
    with pytest.raises(SystemExit, match=r"pip install .*pythae"):
        pythae_likelihood.main([])


# ---------------------------------------------------------------------- with pythae
@needs_pythae
def test_both_compute_the_same_from_the_same_noise(model: Model, images: torch.Tensor) -> None:
    found = list(pythae_likelihood.same(model, images, SAMPLES))
    assert [line.entries for line in found] == [9, 9, 2352, 9, 2352, 2352, 3, 3]
    assert all(line.difference <= 1e-5 + 1e-6 * line.largest for line in found[:6])


@needs_pythae
@pytest.mark.parametrize(
    ("network", "message"), [("encoder", r"mean of q\(z\|x\)"), ("decoder", "predict")], ids=["encoder", "decoder"]
)
def test_a_different_weight_is_detected(
    model: Model, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch, network: str, message: str
) -> None:
    made = peers.pythae_models().peer

    def changed(method):
        found = made(method)
        with torch.no_grad():
            getattr(found, network).layers[0].weight.mul_(1.1)
        return found

    monkeypatch.setattr(peers.pythae_models(), "peer", changed)
    with pytest.raises(DifferentError, match=message):
        list(pythae_likelihood.same(model, images, SAMPLES))


@needs_pythae
def test_networks_in_other_units(model: Model, images: torch.Tensor) -> None:
    peer = peers.pythae_models().peer(model.method)
    scaled = peers.pythae_models().in_units(peer, 0.2)
    x = pythae_likelihood.centred(model, images)
    z = torch.empty(3, DIM).normal_(generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(scaled.encoder(x / 0.2).embedding, peer.encoder(x).embedding)
        torch.testing.assert_close(scaled.decoder(z).reconstruction, peer.decoder(z).reconstruction / 0.2)


@needs_pythae
@pytest.mark.parametrize(
    ("n_samples", "batch_size", "expected"),
    [(1, 100, 100), (100, 100, 100), (150, 100, 100), (300, 100, 300), (250, 40, 240), (3, 5, 5)],
)
def test_how_many_draws_get_nll_uses(
    model: Model, images: torch.Tensor, n_samples: int, batch_size: int, expected: int
) -> None:
    peer = peers.pythae_models().peer(model.method).eval()
    decoded: list[int] = []
    peer.decoder.register_forward_pre_hook(lambda _, arguments: decoded.append(len(arguments[0])))
    pythae_likelihood.get_nll(peer, pythae_likelihood.centred(model, images[:1]), n_samples, batch_size)
    assert sum(decoded) == pythae_likelihood.draws(n_samples, batch_size) == expected


@needs_pythae
@pytest.mark.long(seconds=10)
def test_the_command(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pythae_likelihood, "PRIOR_DRAWS", 50)
    monkeypatch.setattr(pythae_likelihood, "SAME_SAMPLES", 5)
    file = tmp_path / "likelihood.json"
    options = "--quick --epochs 1 --dim 2 --images 2 --seeds 2 --device cpu --json"
    pythae_likelihood.main([*options.split(), str(file)])
    content = json.loads(file.read_text())
    assert content["pythae"] and content["images"] == 2 and content["samples"] == 100
    own, at_one, in_units = content["scores"][:3]
    assert own["pythae"] == at_one["pythae"] and own["ours"] == in_units["ours"]
    assert at_one["difference"] == pytest.approx(0, abs=1), "K = 100 draws of a VAE that hardly uses its latents"
