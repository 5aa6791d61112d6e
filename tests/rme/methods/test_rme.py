"""RME against the supplement's pseudocode (section 4) in plain torch.nn, with one torch.optim.Adam for each part."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from bench.plain import RecMixVAE, copy_member, pseudocode_step
from rme import noise
from rme.engine import Engine

SHAPE = (1, 28, 28)
RESTARTS = 2


def spread_components(engine: Engine) -> None:
    """Shift component m's mean by m in every latent, so that its KL to the previous mixture is 0.6 to 6 nats."""
    for m, component in enumerate(engine.method.components):
        component.head[0].bias[:, : engine.spec.dim] += m


def literal(engine: Engine, i: int) -> RecMixVAE:
    """Member i as the supplement's class, drawing from the start of that member's training stream."""
    spec = engine.spec
    stream = noise.generator(spec.seed, i, noise.TRAIN)

    def draw(shape: tuple[int, ...]) -> Tensor:
        return torch.empty(shape, dtype=torch.float64).normal_(generator=stream)

    model = RecMixVAE(spec.dim, SHAPE, spec.order, spec.eps_min, spec.eps_max, draw).double()
    for theirs, own in engine_parts(engine, model):
        copy_member(theirs, i, own)
    model.decoder.logvar.data.copy_(engine.method.decoder.logvar[i])
    return model


def engine_parts(engine: Engine, model: RecMixVAE) -> list[tuple[nn.Module, nn.Module]]:
    method = engine.method
    theirs = [*method.components, *method.impacts, method.decoder]
    return list(zip(theirs, model.parts(), strict=True))


def assert_same(engine: Engine, i: int, model: RecMixVAE, before: dict[str, Tensor]) -> None:
    """Parameters equal to 1e-10, and their changes to 1e-7, so that a small learning rate cannot hide an error."""
    twin = literal(engine, i)  # member i's current weights, under the plain model's names
    current = dict(twin.named_parameters())
    for name, expected in model.named_parameters():
        found = current[name].detach()
        scale = expected.detach().norm()
        assert (found - expected).norm() <= 1e-10 * scale, name
        change, wanted = found - before[name], expected.detach() - before[name]
        assert wanted.norm() > 0, f"{name} did not change"
        assert (change - wanted).norm() <= 1e-7 * wanted.norm(), name


@pytest.mark.parametrize(("order", "kl_max", "expected"), [
    (2, 500.0, {True}),
    (2, 0.0, {False}),
    (5, 500.0, {True}),
    (5, 4.0, {True, False}),
])  # fmt: skip
def test_steps_equal_the_pseudocode(tiny, order: int, kl_max: float, expected: set[bool]) -> None:
    spec = tiny.spec("rme", order, precision="float64", restarts=RESTARTS, kl_max=kl_max, seed=3)
    engine = tiny.engine(spec)
    spread_components(engine)
    models = [literal(engine, i) for i in range(RESTARTS)]
    before = [{n: p.detach().clone() for n, p in model.named_parameters()} for model in models]
    adams = [{part: torch.optim.Adam(part.parameters(), lr=1e-3) for part in model.parts()} for model in models]
    index = torch.randperm(40, generator=torch.Generator().manual_seed(1))[:16].view(2, 8)

    active: set[bool] = set()
    for batch in index:
        engine.train_step(batch.expand(RESTARTS, -1))
        for i, (model, adam) in enumerate(zip(models, adams, strict=True)):
            x = tiny.images.train[batch].double() / 255 - engine.method.pixel_mean[i]
            _, kls = pseudocode_step(model, adam, x, kl_max)
            active |= {bool(kl < kl_max) for kl in kls}
        for i, model in enumerate(models):
            assert_same(engine, i, model, before[i])
    assert active == expected, "this test needs the KL bound active or inactive as parametrised"


def test_losses_are_those_of_the_pseudocode_before_each_update(tiny) -> None:
    spec = tiny.spec("rme", 3, precision="float64", kl_max=50.0)
    engine = tiny.engine(spec)
    model = literal(engine, 0)
    batch = torch.arange(10)
    losses = engine.train_step(batch.unsqueeze(0))[:, 0]
    x = tiny.images.train[batch].double() / 255 - engine.method.pixel_mean[0]
    recorded = []
    adam = {part: torch.optim.Adam(part.parameters(), lr=1e-3) for part in model.parts()}
    forward = model.forward

    def recording(x: Tensor, k: int, loss_type: str):
        elbo, kl = forward(x, k, loss_type)
        recorded.append(-elbo.item() + (0.0 if kl is None else max(0.0, 50.0 - kl.item())))
        return elbo, kl

    model.forward = recording
    pseudocode_step(model, adam, x, 50.0)
    assert [u.name for u in engine.updates] == ["q_0", "q_1", "eps_1", "q_2", "eps_2", "decoder"]
    torch.testing.assert_close(losses, torch.tensor(recorded, dtype=torch.float64), rtol=1e-11, atol=0)


def test_the_posterior_is_the_pseudocodes_mixture(tiny) -> None:
    engine = tiny.engine(tiny.spec("rme", 4, precision="float64", restarts=2))
    engine.train_epoch()
    for i in range(2):
        model = literal(engine, i)
        pixels = tiny.images.test[:6]
        plain = model.encoder_upto_kth(pixels.double() / 255 - engine.method.pixel_mean[i], 3)
        q = engine.method.posterior(engine.method.centred(pixels.expand(2, -1, -1, -1, -1)), engine.noise)
        z = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(i))
        alphas = q.log_alpha[i].exp().T
        torch.testing.assert_close(alphas, plain.mixture_distribution.probs.detach(), rtol=1e-12, atol=0)
        torch.testing.assert_close(
            q.log_prob(z.expand(2, -1, -1))[i], plain.log_prob(z).detach(), rtol=1e-11, atol=1e-11
        )
        assert (alphas[:, 1:] < engine.spec.eps_max).all() and (alphas[:, 1:] > 0).all()
