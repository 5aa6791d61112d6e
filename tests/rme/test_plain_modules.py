"""Plain modules compute what the arrays compute, and what networks written in torch compute."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bench import plain
from rme import methods, nets, plain_modules
from rme.config import RunSpec
from rme.distributions import DiagonalGaussian
from rme.methods.vae import VAE
from rme.noise import Noise
from rme.plain_modules import NoPlainModule
from rme.untrained import untrained

DIM = 4
CASES = [
    pytest.param(method.name, min(method.orders) if method.orders else None, decoder, id=f"{method.name}-{decoder}")
    for method in methods.registry().values()
    for decoder in method.decoders
]
AT_TEST_TIME = ("sa", "svi")
"""Methods whose inference draws noise."""


def model_of(method: str = "vae", order: int | None = None, decoder: str = "conv", shape=(1, 28, 28)):
    """An untrained model with a pixel mean and a variance that are not trivial."""
    spec = RunSpec(method=method, order=order, dataset="digits", dim=DIM, decoder=decoder)
    model = untrained([spec], shape)
    generator = torch.Generator().manual_seed(1)
    model.pixel_mean.copy_(torch.rand(model.pixel_mean.shape, generator=generator))
    model.decoder.logvar.fill_(-1.5)
    return model


def pixels(count: int, shape=(1, 28, 28)):
    return torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))


def array_posterior(model, images):
    """The posterior that the model itself computes, of uint8 images."""
    return model.posterior(model.centred(images.unsqueeze(0)), Noise([torch.Generator().manual_seed(0)]))


@pytest.mark.parametrize(("method", "order", "decoder"), [c for c in CASES if c.values[0] not in AT_TEST_TIME])
def test_the_encoder_returns_the_model_s_posterior(method, order, decoder):
    model, images = model_of(method, order, decoder), pixels(3)
    encoder = plain_modules.encoder(plain_modules.with_plain_networks(model))
    q = array_posterior(model, images)
    eps = torch.randn(3, DIM, generator=torch.Generator().manual_seed(3))
    found = encoder(images / 255, eps) if len(encoder.inputs) == 2 else encoder(images / 255)
    assert list(found) == [port.name for port in encoder.outputs]
    for port in encoder.outputs:
        assert found[port.name].shape == (3, *port.shape[1:])
    if "z" in found:  # the density by inverting the flows, which the encoder does not do
        torch.testing.assert_close(found["log_q"], q.log_prob(found["z"].unsqueeze(0))[0], rtol=1e-4, atol=1e-4)
        base = q.base.mu + torch.exp(0.5 * q.base.logvar) * eps
        torch.testing.assert_close(found["z"], q.push(base)[0][0], rtol=1e-5, atol=1e-5)
        return
    z = torch.randn(3, DIM, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(density(found, z), q.log_prob(z.unsqueeze(0))[0], rtol=1e-5, atol=1e-4)


def density(found: dict[str, torch.Tensor], z: torch.Tensor) -> torch.Tensor:
    """log q(z|x) by torch.distributions, from an encoder's outputs alone."""
    of = torch.distributions
    if "precision_cholesky" in found:
        precision = found["precision_cholesky"] @ found["precision_cholesky"].mT
        return of.MultivariateNormal(found["mean"], precision_matrix=precision).log_prob(z)
    if "weights" in found:
        torch.testing.assert_close(found["weights"].sum(1), torch.ones(len(z)))
        components = of.Independent(of.Normal(found["means"], found["stddevs"]), 1)
        return of.MixtureSameFamily(of.Categorical(found["weights"]), components).log_prob(z)
    return of.Independent(of.Normal(found["mean"], found["stddev"]), 1).log_prob(z)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 64, 64)], ids=str)
def test_both_are_the_networks_of_the_tables(shape):
    model = model_of(shape=shape)
    encoder = plain.ENCODERS[shape](DIM)
    decoder = plain.DECODERS[shape](DIM)
    plain.copy_member(nn.Sequential(model.encoder.trunk, model.encoder.head), 0, encoder)
    plain.copy_member(model.decoder.mean, 0, decoder)
    plain_model = plain_modules.with_plain_networks(model)
    images = pixels(2, shape) / 255
    with torch.no_grad():
        found = plain_modules.encoder(plain_model)(images)
        mu, logvar = encoder(images - model.pixel_mean[0]).chunk(2, dim=1)
        torch.testing.assert_close(found["mean"], mu, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found["stddev"], logvar.exp().sqrt(), rtol=1e-5, atol=1e-6)
        means = plain_modules.Decoder(plain_model)(mu)["images"]
        torch.testing.assert_close(means, decoder(mu) + model.pixel_mean[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("decoder", ["conv", "fc"])
def test_the_decoder_returns_the_mean_in_units_of_pixels(decoder):
    model = model_of(decoder=decoder)
    z = torch.randn(5, DIM, generator=torch.Generator().manual_seed(5))
    found = plain_modules.Decoder(plain_modules.with_plain_networks(model, "decoder"))(z)["images"]
    torch.testing.assert_close(found, model.decoder(z.unsqueeze(0))[0] + model.pixel_mean[0], rtol=1e-5, atol=1e-6)
    assert plain_modules.variance(model) == pytest.approx(0.22313016, rel=1e-6)  # exp(-1.5)


@pytest.mark.parametrize("method", AT_TEST_TIME)
def test_inference_that_draws_noise_has_no_encoder_but_a_decoder(method):
    model = model_of(method, min(methods.get(method).orders))
    with pytest.raises(NoPlainModule, match="random draws at inference"):
        plain_modules.encoder(plain_modules.with_plain_networks(model))
    assert plain_modules.Decoder(plain_modules.with_plain_networks(model))(torch.zeros(2, DIM))["images"].shape[0] == 2


class Own(VAE):
    """A user's method: the variance of each latent doubled."""

    def posterior(self, x, noise):
        q = self.encoder(x)
        return DiagonalGaussian(q.mu, q.logvar + torch.log(torch.tensor(2.0)))


class Scaled(DiagonalGaussian):
    """A posterior of a user's own, which computes something else from the same fields."""


class Unknown(VAE):
    def posterior(self, x, noise):
        q = self.encoder(x)
        return Scaled(q.mu, q.logvar)


class Sigmoid(VAE):
    """With a layer that is not of `rme.nets`."""

    def __init__(self, *arguments) -> None:
        super().__init__(*arguments)
        self.encoder.head = nets.Network(*self.encoder.head, nn.Sigmoid())


def own_method(kind: type[VAE]) -> VAE:
    made = kind(model_of().spec, (1, 28, 28), 1)
    nets.initialise(made, [torch.Generator().manual_seed(0)])
    return made


def test_a_method_of_one_s_own_is_its_own_code_between_the_networks():
    model, images = own_method(Own), pixels(2)
    found = plain_modules.encoder(plain_modules.with_plain_networks(model))(images / 255)
    with torch.no_grad():
        stddev = torch.exp(0.5 * model.encoder(model.centred(images.unsqueeze(0))).logvar[0])
    torch.testing.assert_close(found["stddev"], stddev * 2**0.5, rtol=1e-5, atol=1e-6)


def test_an_unknown_posterior_and_an_unknown_layer_are_refused_by_name():
    with pytest.raises(NoPlainModule, match="Scaled"):
        plain_modules.encoder(plain_modules.with_plain_networks(own_method(Unknown)))
    with pytest.raises(NoPlainModule, match="Sigmoid"):
        plain_modules.with_plain_networks(own_method(Sigmoid))
    plain_modules.with_plain_networks(own_method(Sigmoid), "decoder")
