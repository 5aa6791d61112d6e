"""A model without a member axis: the numbers of its run, whatever the images' layout, and what it decodes."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from bench.plain import ConvDecoder, copy_member
from rme import evaluate, inference_gaps, methods, noise
from rme.fitting import train_runs
from rme.images import ImagesError
from rme.model import Model
from rme.noise import Noise
from rme.result import Result
from tests.tiny import blobs

Make = Callable[..., Result]

METHODS = [
    pytest.param(method.name, min(method.orders) if method.orders else None, method.decoders[-1], id=method.name)
    for method in methods.registry().values()
]


@pytest.fixture(scope="module")
def make(small) -> Make:
    """A result of a method on images of 8x8, each trained once."""
    known: dict[tuple[str, int | None, str], Result] = {}

    def of(method: str, order: int | None = None, decoder: str = "conv") -> Result:
        key = (method, order, decoder)
        if key not in known:
            spec = small.spec(method, order, decoder=decoder, seed=3, restarts=2, epochs=1)
            parents = [small.models(spec.parent, small.images)] if spec.parent else None
            result = train_runs([spec], small.images, torch.device("cpu"), parents)[spec.key]
            assert isinstance(result, Result)
            known[key] = result
        return known[key]

    return of


# ---------------------------------------------------------------------- scores
@pytest.mark.parametrize(("method", "order", "decoder"), METHODS)
def test_the_scores_are_those_that_were_recorded(make: Make, small, tmp_path, method, order, decoder) -> None:
    result = make(method, order, decoder)
    result.model.save(tmp_path / "model.safetensors")
    k = result.spec.iwae_samples
    for model in (result.model, Model.read(tmp_path / "model.safetensors")):
        assert torch.equal(model.log_likelihood(small.images.test, k=k), result.test_iwae)
        assert torch.equal(model.elbo(small.images.test, k=k), result.test_elbo)
        assert torch.equal(model.test_iwae, result.test_iwae) and model.restart == result.chosen


def test_another_seed_gives_other_numbers_and_the_same_seed_the_same(make: Make, small) -> None:
    model, images = make("vae").model, small.images.test
    own, other = (model.log_likelihood(images, k=3, seed=seed) for seed in (3, 4))
    assert torch.equal(own, model.log_likelihood(images, k=3))  # the spec's seed is 3
    assert not torch.equal(own, other) and torch.equal(other, model.log_likelihood(images, k=3, seed=4))


def test_any_layout_type_and_number_of_images_gives_the_same(make: Make) -> None:
    model = make("vae").model
    pixels = blobs(2 * evaluate.BLOCK + 3, (1, 8, 8), 5)
    wanted = model.log_likelihood(pixels, k=2)
    assert wanted.shape == (len(pixels),) and wanted.dtype == torch.float64
    array = pixels.numpy()
    for same in (array, array[:, 0], array.transpose(0, 2, 3, 1), array / 255.0, (array / 255).astype(np.float32)):
        torch.testing.assert_close(model.log_likelihood(same, k=2), wanted, rtol=1e-6, atol=1e-6)
    # the first block does not depend on how many follow
    assert torch.equal(model.log_likelihood(pixels[: evaluate.BLOCK], k=2), wanted[: evaluate.BLOCK])


def test_users_images_are_never_changed(make: Make) -> None:
    images = torch.rand(3, 1, 8, 8)
    before = images.clone()
    make("vae").model.log_likelihood(images, k=2)
    assert torch.equal(images, before)


def test_the_log_likelihood_is_eq_1_of_the_plain_density(make: Make, small) -> None:
    """Against torch.distributions and a plain decoder, at the posterior's own draws."""
    model, x = make("rme", 2).model, small.images.test.double() / 255
    q, k = model.encode(small.images.test), 3000
    z = q.sample(k, seed=1)
    mean = model.decode(z, clamp=False).double()
    scale = math.sqrt(model.variance)
    log_p = Normal(mean, scale).log_prob(x).sum((2, 3, 4)) + Normal(0, 1).log_prob(z.double()).sum(-1)
    log_w = log_p - q.log_prob(z)
    wanted = log_w.logsumexp(0) - math.log(k)
    error = torch.exp(log_w - wanted).std(0) / math.sqrt(k)
    difference = (model.log_likelihood(small.images.test, k=k, seed=2) - wanted).abs()
    assert (difference < 6 * math.sqrt(2) * error + 1e-6).all(), (difference, error)


def test_gaps_are_those_of_the_array(make: Make, small) -> None:
    result, images = make("vae"), small.images.test[:3]
    stream = Noise([noise.generator(3, result.chosen, noise.GAPS)])
    wanted = inference_gaps.gaps(result.method, result.method.centred(images.unsqueeze(0)), stream, samples=8)
    found = result.model.log_likelihood(images, k=8, gaps=True)
    for name in ("log_p", "elbo", "approximation", "amortisation", "log_w"):
        assert torch.equal(getattr(found, name), getattr(wanted, name)[0]), name
    assert found.log_p.shape == (3,) and found.log_w.shape == (8, 3) and found.gain == wanted.gain[0]


# ---------------------------------------------------------------------- posteriors
@pytest.mark.parametrize(("method", "order", "decoder"), METHODS)
def test_posteriors_of_every_method_have_the_moments_of_their_draws(make: Make, small, method, order, decoder) -> None:
    q = make(method, order, decoder).model.encode(small.images.test)
    draws = q.sample(4000)
    n, p = len(small.images.test), 3
    assert q.mean.shape == q.stddev.shape == (n, p) and draws.shape == (4000, n, p) and len(q) == n
    # an estimated mean, of a flow, has an error of its own of the same size
    assert ((draws.mean(0) - q.mean).abs() < 6 * math.sqrt(2) * q.stddev / math.sqrt(4000)).all()
    torch.testing.assert_close(draws.std(0), q.stddev, rtol=0.1, atol=0)
    torch.testing.assert_close(q.log_prob(draws[:2])[0], q.log_prob(draws[0]))
    assert torch.equal(q.sample(2, seed=1), q.sample(2, seed=1))


def test_a_vae_s_density_is_torch_s_normal(make: Make, small) -> None:
    q = make("vae").model.encode(small.images.test)
    z = torch.randn(5, len(q), 3)
    torch.testing.assert_close(q.log_prob(z), Normal(q.mean, q.stddev).log_prob(z).sum(-1), rtol=1e-5, atol=1e-5)


def test_a_mixture_s_density_is_torch_s_mixture(make: Make, small) -> None:
    q = make("me", 2).model.encode(small.images.test)
    (block,) = q.blocks
    parts = block.components
    normal = Normal(parts.mu[0].transpose(0, 1), (0.5 * parts.logvar[0].transpose(0, 1)).exp())
    wanted = MixtureSameFamily(Categorical(logits=block.log_alpha[0].T), Independent(normal, 1))
    z = torch.randn(5, len(q), 3)
    torch.testing.assert_close(q.log_prob(z), wanted.log_prob(z), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(q.mean, wanted.mean)
    torch.testing.assert_close(q.stddev, wanted.variance.sqrt())


@pytest.mark.parametrize("shape", [(4, 3), (12, 2), (2, 2, 12, 3)])
def test_points_of_another_shape_are_refused(make: Make, small, shape) -> None:
    with pytest.raises(ValueError, match=r"expected \(12, 3\) or \(n, 12, 3\)"):
        make("vae").model.encode(small.images.test).log_prob(torch.zeros(shape))


# ---------------------------------------------------------------------- pictures
def test_decoding_is_the_plain_network_plus_the_mean_image(tiny) -> None:
    spec = tiny.spec(epochs=1, seed=3)
    result = train_runs([spec], tiny.images, torch.device("cpu"))[spec.key]
    assert isinstance(result, Result)
    model, plain = result.model, ConvDecoder(3, (1, 28, 28))
    copy_member(model.method.decoder.mean, 0, plain)
    z = torch.randn(5, 3)
    with torch.no_grad():
        wanted = plain.layers(z) + model.parameters["pixel_mean"]
    torch.testing.assert_close(model.decode(z, clamp=False), wanted, rtol=1e-5, atol=1e-5)
    assert torch.equal(model.decode(z.numpy()), model.decode(z, clamp=False).clamp(0, 1))
    assert torch.equal(model.decode(z.expand(2, 5, 3))[1], model.decode(z))


def test_an_interpolation_runs_between_the_images_own_means(make: Make, small) -> None:
    model = make("vae").model
    a, b = small.images.test[:2], small.images.test[2:4]
    line = model.interpolate(a, b, 5)
    assert line.shape == (2, 5, 1, 8, 8)
    first, last = model.encode(a).mean, model.encode(b).mean
    for i, mean in ((0, first), (-1, last), (2, (first + last) / 2)):
        torch.testing.assert_close(line[:, i], model.decode(mean))


def test_pictures_are_images_and_repeat_with_their_seed(make: Make, small) -> None:
    model = make("rme", 2).model
    for draw in (lambda seed: model.sample(4, seed=seed), lambda seed: model.reconstruct(small.images.test[:4], seed)):
        first = draw(1)
        assert first.shape == (4, 1, 8, 8) and first.min() >= 0 and first.max() <= 1
        assert torch.equal(first, draw(1)) and not torch.equal(first, draw(2))


# ---------------------------------------------------------------------- refusals, restarts, summaries
@pytest.mark.parametrize(("images", "said"), [
    (torch.zeros(2, 1, 9, 9), r"\(2, 1, 9, 9\) does not fit images of shape \(1, 8, 8\)"),
    (torch.zeros(8, 8), r"add an axis: images\[None\]"),
    (torch.zeros(0, 8, 8), "0 images"),
    (torch.full((1, 8, 8), math.nan), "1 of 1 images have pixels that are NaN"),
])  # fmt: skip
def test_images_that_do_not_fit_are_refused(make: Make, images, said) -> None:
    model = make("vae").model
    for use in (model.encode, model.elbo, model.log_likelihood, model.reconstruct):
        with pytest.raises(ImagesError, match=said):
            use(images)


def test_impossible_numbers_are_refused(make: Make, small) -> None:
    model, images = make("vae").model, small.images.test
    for use, said in [
        (lambda: model.log_likelihood(images, k=0), "k=0"),
        (lambda: model.log_likelihood(images, k=1, gaps=True), "k=1"),
        (lambda: model.log_likelihood(images, k=1.5), "k=1.5: expected a whole number, 1 or more"),
        (lambda: model.elbo(images, seed=-1), "seed=-1"),
        (lambda: model.encode(images).sample(0), "n=0"),
        (lambda: model.decode(torch.zeros(0, 3)), "no latents"),
        (lambda: model.sample(0), "n=0"),
        (lambda: model.interpolate(images, images, 1), "n=1"),
        (lambda: model.interpolate(images[:2], images[:1]), "a has 2 images, b has 1"),
        (lambda: model.decode(torch.zeros(2, 4)), r"\(2, 4\).*has 3 latents"),
        (lambda: Model.of(make("vae"), restart=2), "restart=2: valid values are 0 to 1"),
        (lambda: model.to("cude"), "cude"),
    ]:
        with pytest.raises(ValueError, match=said):
            use()


def test_another_restart_is_that_restart_s_model(make: Make, small) -> None:
    result = make("vae")
    other = Model.of(result, restart=1 - result.chosen)
    assert other.restart == 1 - result.chosen and len(other.test_iwae) == 0
    wanted = result.models[1 - result.chosen]
    assert all(torch.equal(value[0], wanted[name]) for name, value in other.method.state_dict().items())
    assert not torch.equal(other.log_likelihood(small.images.test), result.model.log_likelihood(small.images.test))


def test_a_summary_has_its_scores_and_size(make: Make) -> None:
    result = make("vae")
    shown = repr(result.model)
    count = sum(value.numel() for name, value in result.models[0].items() if name != "pixel_mean")
    assert f"{count:,} parameters" in shown and f"test IWAE {result.test_iwae.mean():.2f}" in shown
    assert result.spec.run_name in shown and len(shown.splitlines()) <= 4


def test_parameters_are_a_copy_and_save_writes_those_of_the_model(make: Make, tmp_path) -> None:
    result = make("vae")
    model, before = result.model, result.models[result.chosen]["decoder.logvar"].clone()
    model.parameters["decoder.logvar"].zero_()
    assert result.models[result.chosen]["decoder.logvar"] == before == model.method.decoder.logvar[0]
    model.method.decoder.logvar.fill_(0.5)
    model.save(tmp_path / "model.safetensors")
    assert Model.read(tmp_path / "model.safetensors").parameters["decoder.logvar"] == 0.5


def test_points_may_be_numpy_s(make: Make, small) -> None:
    q = make("vae").model.encode(small.images.test)
    z = q.sample(2)
    assert torch.equal(q.log_prob(z.numpy()), q.log_prob(z))
