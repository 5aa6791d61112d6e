"""SVI: the finished VAE, with each image's posterior optimised by Adam."""

from __future__ import annotations

import math

import pytest
import torch

from rme import nets, objective, selection, training
from rme.config import RunSpec, SpecError
from rme.methods.svi import SVI
from rme.noise import Noise
from tests.oracles.linear_gaussian import LinearGaussian

DIM, IMAGES = 2, 4


def streams() -> Noise:
    return Noise([torch.Generator().manual_seed(7 + i) for i in range(2)], torch.float64)


def on_a_linear_decoder(order: int, orthogonal: bool = True, **options: float) -> tuple[SVI, torch.Tensor]:
    """Two members with a known best diagonal posterior, and images drawn from the model."""
    spec = RunSpec(method="svi", order=order, dataset="digits", dim=DIM, precision="float64", options=options)
    method = SVI(spec, (1, 28, 28), 2).double().requires_grad_(False)
    nets.initialise(method, [torch.Generator().manual_seed(i) for i in range(2)])
    method.decoder = decoder = LinearGaussian(2, DIM, orthogonal=orthogonal)
    g = torch.Generator().manual_seed(3)
    z = torch.randn(2, IMAGES, DIM, generator=g, dtype=torch.float64)
    return method, decoder(z) + 0.3 * torch.randn(2, IMAGES, 1, 28, 28, generator=g, dtype=torch.float64)


def test_it_finds_the_true_posterior_if_its_family_contains_it() -> None:
    """With orthogonal columns p(z|x) is a diagonal Gaussian, known in closed form."""
    method, x = on_a_linear_decoder(200)
    with torch.no_grad():
        q, start = method.posterior(x, streams()), method.encoder(x)
    for b in range(2):
        exact = method.decoder.posterior(b, x[b])
        torch.testing.assert_close(q.mu[b], exact.mean, rtol=0, atol=0.02)
        variance = exact.covariance_matrix.diagonal(dim1=-2, dim2=-1).expand(IMAGES, -1)
        torch.testing.assert_close(q.logvar[b].exp(), variance, rtol=0.05, atol=0)
        assert (start.mu[b] - exact.mean).abs().max() > 0.5, "this test needs a start far from the posterior"


def test_more_steps_come_closer_to_log_p() -> None:
    elbos = []
    for order in (10, 50, 200):
        method, x = on_a_linear_decoder(order, orthogonal=False)
        with torch.no_grad():
            z, log_q = method.posterior(x, streams()).sample_with_log_prob(streams(), 2000)
            elbos.append((objective.log_joint(method.decoder, x, z) - log_q).mean().item())
    evidence = sum(method.decoder.log_evidence(b, x[b]).mean().item() / 2 for b in range(2))
    assert elbos[0] < elbos[1] < elbos[2] + 0.05 and elbos[2] < evidence


def test_its_steps_are_adams_on_one_draw_each() -> None:
    """Written out: means in units of the encoder's standard deviations, a rate that decays along half a cosine."""
    method, x = on_a_linear_decoder(10, svi_rate=0.05)
    g = torch.Generator().manual_seed(0)
    draws = torch.randn(10, 2, 1, IMAGES, DIM, generator=g, dtype=torch.float64)

    class Given:
        drawn = 0

        def normal(self, shape):
            self.drawn += 1
            return draws[self.drawn - 1].view(tuple(shape))

    with torch.no_grad():
        start, found = method.encoder(x), method.posterior(x, Given())  # type: ignore[arg-type]
    shift, logvar = torch.zeros_like(start.mu).requires_grad_(), start.logvar.clone().requires_grad_()
    adam = torch.optim.Adam([shift, logvar])
    prior = torch.distributions.Normal(0.0, 1.0)
    for step, eps in enumerate(draws.squeeze(2)):
        adam.param_groups[0]["lr"] = 0.05 * (1 + math.cos(math.pi * step / 10)) / 2
        mu, deviation = start.mu + (start.logvar / 2).exp() * shift, (logvar / 2).exp()
        z = mu + deviation * eps
        log_q = torch.distributions.Normal(mu.detach(), deviation.detach()).log_prob(z).sum(-1)
        elbo = method.decoder.log_prob(x, z) + prior.log_prob(z).sum(-1) - log_q
        adam.zero_grad()
        (-elbo.sum()).backward()
        adam.step()
    torch.testing.assert_close(found.mu, start.mu + (start.logvar / 2).exp() * shift.detach(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.logvar, logvar.detach(), rtol=1e-9, atol=1e-9)


def test_an_images_posterior_does_not_depend_on_the_others_in_the_batch() -> None:
    """With the gradient of the batch's mean, the step would shrink with the batch size."""
    method, x = on_a_linear_decoder(10)

    class Zeros:
        def normal(self, shape):
            return torch.zeros(tuple(shape), dtype=torch.float64)

    with torch.no_grad():
        together = method.posterior(x, Zeros())  # type: ignore[arg-type]
        alone = method.posterior(x[:, 1:2], Zeros())  # type: ignore[arg-type]
    torch.testing.assert_close(together.mu[:, 1:2], alone.mu, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(together.logvar[:, 1:2], alone.logvar, rtol=1e-10, atol=1e-10)


def test_its_key_depends_on_its_rate_and_not_on_the_fields_of_a_stage() -> None:
    def spec(**fields) -> RunSpec:
        return RunSpec(**{"method": "svi", "order": 10, "dataset": "digits", "dim": 3, **fields})

    assert spec(options={"svi_rate": 0.1}).key == spec().key != spec(options={"svi_rate": 0.2}).key
    for field in ({"stage_epochs": 3}, {"stage_learning_rate": 1e-4}, {"stage_patience": 2}, {"kl_max": 3}):
        assert spec(**field).key == spec().key, field
    assert spec(epochs=3).key != spec().key, "the epochs of its VAE"
    with pytest.raises(SpecError, match=r"order=3.*Adam steps.*10, 50, 200"):
        RunSpec.of({"method": "svi", "order": 3, "dataset": "digits", "dim": 3})


def test_a_run_is_its_vae_scored_with_better_posteriors(small) -> None:
    """Nothing is trained: each restart's model is the parent's, and its ELBO is higher."""
    run = small.spec("svi", 50, restarts=2, precision="float64", seed=6, learning_rate=0.01)
    vae = training.build([run.parent], small.images, "cpu", None)
    training.train(vae)
    (parent,) = selection.results(vae).values()
    engine = training.build([run], small.images, "cpu", [parent.models])
    training.train(engine)
    (result,) = selection.results(engine).values()
    for own, theirs in zip(result.models, parent.models, strict=True):
        assert all(torch.equal(own[name], theirs[name]) for name in theirs)
    assert (result.val_elbo > parent.val_elbo + 1).all()
    assert result.losses.shape == (0, 0, 2) and result.history_elbo.shape == (0, 2)
    assert result.kept_epochs.tolist() == [0, 0] and len(result.finished_at) == 0 and result.updates == []
    assert result.train_s == 0 and result.inference_ms > parent.inference_ms


def test_its_result_is_saved_and_loaded(small, tmp_path) -> None:
    run = small.spec("svi", 10)
    engine = small.engine(run)
    training.train(engine)
    (result,) = selection.results(engine).values()
    result.save(tmp_path)
    again = type(result).load(tmp_path)
    assert torch.equal(again.test_iwae, result.test_iwae) and again.losses.shape == (0, 0, 1)
