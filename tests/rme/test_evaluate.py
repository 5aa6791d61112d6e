"""Scores on the linear-Gaussian model, whose log p(x) is known; independent of the array and the memory."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

from rme import evaluate
from rme.noise import Noise
from tests.oracles.linear_gaussian import LinearMethod
from tests.rme.test_objective import streams


def known(tiny, orthogonal: bool, **how) -> tuple[LinearMethod, Tensor, Tensor]:
    """Two members with different decoders, the indices of their images (2, n), and log p(x) of each, (2, n)."""
    method = LinearMethod(tiny.spec(dim=3, precision="float64"), 2, orthogonal, **how)
    index = torch.stack([torch.arange(30), torch.arange(5, 35)])
    method.pixel_mean.copy_(torch.rand(method.pixel_mean.shape, generator=torch.Generator().manual_seed(9)))
    x = tiny.images.train[index].double() / 255 - method.pixel_mean.unsqueeze(1)
    return method, index, torch.stack([method.decoder.log_evidence(i, x[i]) for i in range(2)])


def test_elbo_and_iwae_rise_to_log_p_of_x(tiny) -> None:
    """ELBO <= IWAE_1 <= IWAE_5 <= ... <= log p(x), with a q(z|x) that is wrong in its mean, variance and shape."""
    method, index, log_p = known(tiny, orthogonal=False, shift=0.7, widen=0.3)
    repeats, fewer = 12, 4
    means, errors = [], []
    elbos = []
    for samples in (1, 5, 50, 500):
        values = []
        for r in range(repeats if samples < 500 else fewer):
            own = [torch.Generator().manual_seed(1000 * samples + 2 * r + i) for i in range(2)]
            found = evaluate.scores(method, tiny.images.train, index, samples=samples, generators=own)
            values.append(found.iwae - log_p)
            elbos.append(found.elbo - log_p)
        gap = torch.stack(values)
        means.append(gap.mean().item())
        errors.append(gap.std().item() / math.sqrt(gap.numel()))
    for lower, higher, a, b in zip(means, means[1:], errors, errors[1:], strict=False):
        assert higher - lower > 4 * math.hypot(a, b), (means, errors)
    assert means[-1] <= 4 * errors[-1]
    assert abs(means[-1]) < 0.02 * abs(means[0]), "500 draws are close to log p(x)"

    # IWAE_1 and the ELBO have the known expectation log p(x) - KL(q || p(z|x))
    x = method.centred(tiny.images.train[index])
    q = method.posterior(x, Noise(streams(1), torch.float64))
    own = [MultivariateNormal(q.mu[i], torch.diag_embed(q.logvar[i].exp())) for i in range(2)]
    kl = torch.stack([kl_divergence(own[i], method.decoder.posterior(i, x[i])) for i in range(2)]).mean().item()
    assert abs(means[0] + kl) < 4 * errors[0]
    last = torch.stack(elbos[-fewer:])  # of 500 draws each
    assert abs(last.mean().item() + kl) < 4 * last.std().item() / math.sqrt(last.numel())


@pytest.mark.parametrize("samples", [1, 7])
@pytest.mark.parametrize("components", [0, 1, 4])
def test_with_the_true_posterior_every_draw_scores_log_p_of_x(tiny, components: int, samples: int) -> None:
    """Also as a mixture of equal components, with any weights."""
    method, index, log_p = known(tiny, orthogonal=True, components=components)
    found = evaluate.scores(method, tiny.images.train, index, samples=samples, generators=streams(2))
    torch.testing.assert_close(found.iwae, log_p, rtol=1e-11, atol=1e-8)
    torch.testing.assert_close(found.elbo, log_p, rtol=1e-11, atol=1e-8)


def test_scores_do_not_depend_on_the_available_memory(tiny, monkeypatch) -> None:
    method, index, _ = known(tiny, orthogonal=False, shift=0.4)
    many = index.repeat(1, 3)  # 90 images: more than one block of noise
    assert many.shape[1] > evaluate.BLOCK
    found = {}
    for size in (1, 200, 10**9):
        monkeypatch.setattr(evaluate, "images_at_once", lambda method, size=size: size)
        found[size] = evaluate.scores(method, tiny.images.train, many, samples=7, generators=streams(2))
    for size in (1, 200):
        torch.testing.assert_close(found[size].iwae, found[10**9].iwae, rtol=1e-10, atol=0)
        torch.testing.assert_close(found[size].elbo, found[10**9].elbo, rtol=1e-10, atol=0)


@pytest.mark.parametrize(("free", "held", "used", "chunk"), [
    (400, 0, 0, 64),  # a quarter of the free memory, rounded down to a power of two
    (400, 300, 172, 128),  # memory that torch has reserved but does not use is free too
    (100, 30, 30, 16),
    (3, 0, 0, 1),
    (2**40, 0, 0, evaluate.GPU_CHUNK_BYTES),
])  # fmt: skip
def test_on_a_gpu_a_pass_uses_a_quarter_of_the_free_memory(monkeypatch, free, held, used, chunk) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 2**41))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: held)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: used)
    assert evaluate._gpu_chunk_bytes(torch.device("cuda")) == chunk


def test_scores_of_a_member_are_the_same_alone_and_in_an_array(tiny) -> None:
    engine = tiny.engine([tiny.spec(seed=s, precision="float64") for s in (1, 2)])
    pixels, index = tiny.images.test, torch.arange(12).expand(2, -1)
    both = evaluate.scores(engine.method, pixels, index, samples=6, generators=streams(2))
    for i in range(2):
        alone = tiny.engine(tiny.spec(seed=1 + i, precision="float64"))
        own = evaluate.scores(alone.method, pixels, index[:1], samples=6, generators=[streams(2)[i]])
        torch.testing.assert_close(own.iwae[0], both.iwae[i], rtol=1e-12, atol=0)
        torch.testing.assert_close(own.elbo[0], both.elbo[i], rtol=1e-12, atol=0)
        assert not torch.allclose(both.iwae[0], both.iwae[1])


def test_pictures_are_the_decoders_means_as_pixels(tiny) -> None:
    """Also if they are below 0 or above 1."""
    method = LinearMethod(tiny.spec(dim=3, precision="float64"), 1, orthogonal=False, shift=0.4)
    method.pixel_mean.copy_(torch.rand(method.pixel_mean.shape, generator=torch.Generator().manual_seed(9)))
    pixels = tiny.images.test[:5]
    x = pixels.double() / 255 - method.pixel_mean
    noise = Noise(streams(1), torch.float64)
    drawn = method.posterior(x.unsqueeze(0), noise).sample(noise, 1)[:, 0]
    prior = Noise(streams(1), torch.float64).normal((1, 7, 3))

    def as_pixels(z: Tensor) -> np.ndarray:
        means = (method.decoder(z)[0] + method.pixel_mean[0]).numpy()
        assert means.min() < -0.1 and means.max() > 1.1
        return np.rint(255 * np.clip(means, 0, 1)).astype(np.uint8)

    above, below = evaluate.reconstructions(method, pixels, streams(1)[0])
    assert torch.equal(above, pixels)
    np.testing.assert_array_equal(below.numpy(), as_pixels(drawn))
    np.testing.assert_array_equal(evaluate.prior_samples(method, 7, streams(1)[0]).numpy(), as_pixels(prior))
