"""Both gaps and IWAE by K, against a model with known posterior and log p(x); and for every method's posterior."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

from rme import methods
from rme.distributions import DiagonalGaussian, FullGaussian
from rme.inference_gaps import Family, gaps, iwae_by_samples, optimise
from rme.noise import Noise
from tests.oracles.linear_gaussian import SHAPE, LinearMethod

MEMBERS, IMAGES, DIM = 2, 3, 3


def noise(seed: int = 50, members: int = MEMBERS) -> Noise:
    return Noise([torch.Generator().manual_seed(seed + i) for i in range(members)], torch.float64)


def images(members: int = MEMBERS, count: int = IMAGES):
    return torch.rand(members, count, *SHAPE, generator=torch.Generator().manual_seed(7), dtype=torch.float64) - 0.5


def best_diagonal(posterior: MultivariateNormal) -> MultivariateNormal:
    """The diagonal Gaussian of least KL(q || posterior): the same mean, and the diagonal of the precision."""
    return MultivariateNormal(posterior.mean, torch.diag_embed(1 / posterior.precision_matrix.diagonal(0, -2, -1)))


def test_gaps_of_a_diagonal_gaussian_are_known(tiny) -> None:
    """The encoder's mean and variances are wrong, and the true posterior is not diagonal."""
    method = LinearMethod(tiny.spec(dim=DIM), MEMBERS, orthogonal=False, shift=0.6, widen=-0.5)
    x = images()
    found = gaps(method, x, noise(), samples=4000, steps=200)
    for b in range(MEMBERS):
        posterior = method.decoder.posterior(b, x[b])
        approximation = kl_divergence(best_diagonal(posterior), posterior)
        q = method.posterior(x, noise())
        wrong = MultivariateNormal(q.mu[b], torch.diag_embed(q.logvar[b].exp()))
        amortisation = kl_divergence(wrong, posterior) - approximation
        evidence = method.decoder.log_evidence(b, x[b])
        assert (approximation > 0.02).all() and (amortisation > 0.5).all(), "this test needs gaps to measure"
        error = found.log_p_error[b] + found.best_elbo_error[b] + found.elbo_error[b]
        assert (error < 0.15).all()
        assert ((found.log_p[b] - evidence).abs() < 5 * found.log_p_error[b] + 1e-3).all()
        assert ((found.approximation[b] - approximation).abs() < 4 * error + 0.01).all()
        assert ((found.amortisation[b] - amortisation).abs() < 4 * error + 0.01).all()
    assert (found.gain.abs() < 0.3).all(), "converged, up to noise"


def test_no_gap_where_the_encoder_is_exact(tiny) -> None:
    method = LinearMethod(tiny.spec(dim=DIM), MEMBERS, orthogonal=True)
    found = gaps(method, images(), noise(), samples=50, steps=20)
    # every importance weight is p(x), so there is no Monte-Carlo error
    torch.testing.assert_close(
        found.approximation, torch.zeros(MEMBERS, IMAGES, dtype=torch.float64), atol=0.02, rtol=0
    )
    assert (found.amortisation.abs() < 0.02).all()


def test_a_full_gaussian_finds_the_posterior(tiny) -> None:
    method = LinearMethod(tiny.spec(dim=DIM), MEMBERS, orthogonal=False)
    x = images()
    start = FullGaussian(
        torch.full((MEMBERS, IMAGES, DIM), 0.3, dtype=torch.float64),
        2 * torch.eye(DIM, dtype=torch.float64).expand(MEMBERS, IMAGES, DIM, DIM),
    )
    best, _ = optimise(method.decoder, x, start, noise(), steps=300)
    for b in range(MEMBERS):
        exact = method.decoder.posterior(b, x[b])
        precision = best.precision_cholesky[b] @ best.precision_cholesky[b].mT
        kl = kl_divergence(MultivariateNormal(best.mu[b], precision_matrix=precision), exact)
        assert (kl < 1e-3).all()


def test_a_mixture_moves_its_weights(tiny) -> None:
    """Two equal components, one of them moved far away: it is best to give all weight to the other."""
    method = LinearMethod(tiny.spec(dim=DIM), MEMBERS, orthogonal=True, components=2)
    x = images()
    q = method.posterior(x, noise())
    away = DiagonalGaussian(q.components.mu.clone(), q.components.logvar.clone())
    away.mu[:, 1] += 30
    q = type(q)(q.log_alpha, away)
    best, _ = optimise(method.decoder, x, q, noise(), steps=200)
    assert (best.log_alpha[:, 0].exp() > 0.99).all() or (
        best.components.mu[:, 1] - q.components.mu[:, 1]
    ).abs().max() > 25
    found = gaps(method, x, noise(), samples=50, steps=20)
    assert (found.approximation.abs() < 0.05).all()


@pytest.mark.parametrize("cls", methods.registry().values(), ids=lambda cls: cls.name)
def test_every_method_has_gaps(small, cls) -> None:
    """The family's start is the posterior itself, the optimisation raises the ELBO, and no bound is violated."""
    order = sorted(cls.orders)[1] if cls.orders else None
    decoder = "conv" if "conv" in cls.decoders else "fc"
    method = small.engine(small.spec(cls.name, order, decoder=decoder, restarts=2, precision="float64")).method
    method.decoder.logvar -= 2  # so that images are more informative about z
    x = method.centred(small.images.test[:IMAGES].expand(2, -1, -1, -1, -1))
    with torch.no_grad():
        q = method.posterior(x, noise())
        family = Family.of(q)
        z, log_q = q.sample_with_log_prob(noise(3), 5)
        again, log_q_again = family.make(family.start).sample_with_log_prob(noise(3), 5)
    torch.testing.assert_close(again, z)
    torch.testing.assert_close(log_q_again, log_q)
    found = gaps(method, x, noise(), samples=40, steps=15)
    assert found.log_p.shape == found.gain.expand(IMAGES, 2).T.shape == (2, IMAGES)
    error = found.log_p_error + found.best_elbo_error
    assert (found.approximation >= -4 * error).all() and (found.log_p_error < 1).all()
    assert found.amortisation.mean() > 0, "an untrained encoder is not optimal"
    assert not any(p.grad is not None for p in method.parameters())


def test_the_second_start_avoids_a_local_optimum(tiny) -> None:
    """The encoder is at 4, near a local optimum, from which no slope leads to the true posterior at -1."""
    method = LinearMethod(tiny.spec(dim=1), 1, orthogonal=True)
    decoder, turn = method.decoder, 1.5

    class Folded(type(decoder)):
        """The decoder mirrored for z > turn, which gives p(x, z) a second, lower mode."""

        def log_prob(self, x, z):
            return super().log_prob(x, self.fold(z))

        def forward(self, z):
            return super().forward(self.fold(z))

        def fold(self, z):
            return torch.where(z > turn, 0.3 * (2 * turn - z), z)

    decoder.__class__ = Folded
    decoder.logvar.fill_(-6.0)
    z = torch.full((1, IMAGES, 1), -1.0, dtype=torch.float64)
    x = decoder(z)
    method.posterior = lambda x, noise: DiagonalGaussian(0 * z + 4, 0 * z - 4)
    found = gaps(method, x, noise(members=1), samples=400)
    grid = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    log_joint = decoder.log_prob(x, grid.view(1, -1, 1, 1).expand(-1, -1, IMAGES, -1))[0, :, 0]
    log_joint = log_joint - 0.5 * grid.square() - 0.5 * math.log(2 * math.pi)
    exact = torch.logsumexp(log_joint, 0).item() + math.log(16 / 4000)
    alone, _ = optimise(decoder, x, method.posterior(x, noise()), noise(members=1))
    assert (alone.mu > turn).all(), "starting from the encoder alone ends in the local optimum"
    assert ((found.log_p - exact).abs() < 0.1).all() and (found.approximation < 0.3).all()


def test_an_array_has_the_gaps_of_its_members(small) -> None:
    spec = small.spec("vae", restarts=2, precision="float64")
    method = small.engine(spec).method
    alone = spec.method_class(spec, (1, 8, 8), 1).double().requires_grad_(False)
    alone.load_state_dict({name: value[1:] for name, value in method.state_dict().items()})
    pixels = small.images.test[:IMAGES]
    both = gaps(method, method.centred(pixels.expand(2, -1, -1, -1, -1)), noise(60), samples=20, steps=20)
    one = gaps(alone, alone.centred(pixels.unsqueeze(0)), noise(61, 1), samples=20, steps=20)
    for name in ("log_p", "best_elbo", "elbo", "gain"):
        torch.testing.assert_close(getattr(both, name)[1:], getattr(one, name))


def test_an_unknown_posterior_is_refused() -> None:
    class Other:
        pass

    with pytest.raises(TypeError, match=r"no family is known .* Other; known classes are DiagonalGaussian"):
        Family.of(Other())  # type: ignore[arg-type]


# ---------------------------------------------------------------------- IWAE as K grows
def test_iwae_of_two_samples_is_the_integral(tiny) -> None:
    """E log((w1 + w2) / 2) with one latent, by Gauss-Hermite quadrature over both draws."""
    method = LinearMethod(tiny.spec(dim=1), 1, orthogonal=True, shift=0.3, widen=0.5)
    x = images(1, 1)
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    with torch.no_grad():
        q = method.posterior(x, noise())
        z = q.unsqueeze(1).rsample(torch.as_tensor(nodes).view(1, -1, 1, 1))
        log_w = (method.decoder.log_prob(x, z) - 0.5 * z.square().sum(-1) - 0.5 * math.log(2 * math.pi))[0, :, 0]
        log_w = (log_w - q.log_prob(z)[0, :, 0]).numpy()
    weights = weights / weights.sum()
    exact = [weights @ log_w, weights @ (np.logaddexp.outer(log_w, log_w) - math.log(2)) @ weights]
    draws = gaps(method, x, noise(members=1), samples=20_000, steps=1).log_w
    found, error = iwae_by_samples(draws, [1, 2])
    for k in range(2):
        assert error[k].item() < 0.02
        assert abs(found[k].item() - exact[k]) < 4 * error[k].item()
    assert exact[1] - exact[0] > 5 * error.max().item()


def test_iwae_grows_from_the_elbo_to_log_p(tiny) -> None:
    method = LinearMethod(tiny.spec(dim=DIM), MEMBERS, orthogonal=False, shift=0.3, widen=0.3)
    x = images()
    log_w = gaps(method, x, noise(), samples=4096, steps=1).log_w
    counts = [4**i for i in range(7)]
    found, _ = iwae_by_samples(log_w, counts)
    torch.testing.assert_close(found[0], log_w.mean(1))
    # each group consists of four of the previous size, so by Jensen it holds for these draws, not only in expectation
    assert (found.diff(dim=0) >= 0).all()
    for b in range(MEMBERS):
        torch.testing.assert_close(found[-1, b], method.decoder.log_evidence(b, x[b]), atol=0.2, rtol=0)
        assert (found[0, b] < method.decoder.log_evidence(b, x[b])).all()


def test_iwae_by_samples_uses_each_draw_once() -> None:
    log_w = torch.log(torch.tensor([1.0, 3.0, 2.0, 6.0, 100.0])).view(1, 5, 1)
    found, error = iwae_by_samples(log_w, [1, 2, 5])
    assert found[1].item() == pytest.approx(0.5 * (math.log(2) + math.log(4)))
    assert error[1].item() == pytest.approx(np.std([math.log(2), math.log(4)], ddof=1) / math.sqrt(2))
    assert found[2].item() == pytest.approx(math.log(112 / 5)) and error[2].isnan().all()
    with pytest.raises(ValueError, match=r"K=6: valid values are 1\.\.5"):
        iwae_by_samples(log_w, [6])
