"""ME: its loss and all gradients against torch.distributions on plain modules, its start, its density."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from bench.plain import ConvDecoder, ConvEncoder, copy_member
from rme import nets, noise
from rme.noise import Noise
from rme.step import Step
from tests.oracles.densities import assert_draws_follow_the_density

SHAPE = (1, 28, 28)


def test_loss_and_gradients_are_those_of_the_formula(tiny) -> None:
    """-ELBO(Q) = -mean sum_k alpha_k (log p(x, z_k) - log Q(z_k|x)), every parameter's gradient, for two members."""
    engine = tiny.engine(tiny.spec("me", 3, precision="float64", restarts=2, seed=3))
    method, pixels = engine.method, tiny.images.train[:6]
    method.requires_grad_(True)
    step = Step(method.centred(pixels.expand(2, -1, -1, -1, -1)), engine.noise, 0)
    loss = method.loss(step)
    names, parameters = zip(*method.named_parameters(), strict=True)
    gradients = dict(zip(names, torch.autograd.grad(loss.sum(), parameters), strict=True))
    for i in range(2):
        encoders = nn.ModuleList(ConvEncoder(3, SHAPE) for _ in range(3)).double()
        weights = nn.Sequential(nn.Flatten(), nn.Linear(784, 10), nn.ReLU(), nn.Linear(10, 3)).double()
        decoder = ConvDecoder(3, SHAPE).double()
        for theirs, own in [*zip(method.components, encoders, strict=True), (method.weights, weights)]:
            copy_member(theirs, i, own)
        copy_member(method.decoder, i, decoder)
        decoder.logvar.data.copy_(method.decoder.logvar[i])

        x = pixels.double() / 255 - method.pixel_mean[i]
        stream = noise.generator(3, i, noise.TRAIN)
        eps = torch.empty(3, 6, 3, dtype=torch.float64).normal_(generator=stream)
        bases = [encoder(x).base_dist for encoder in encoders]
        normal = Normal(torch.stack([q.loc for q in bases], 1), torch.stack([q.scale for q in bases], 1))
        mixture = MixtureSameFamily(Categorical(logits=weights(x)), Independent(normal, 1))
        elbo = torch.zeros(6, dtype=torch.float64)
        for k, q in enumerate(bases):
            z = q.loc + q.scale * eps[k]
            joint = decoder(z).log_prob(x) + Normal(0, 1).log_prob(z).sum(-1)
            elbo = elbo + torch.softmax(weights(x), -1)[:, k] * (joint - mixture.log_prob(z))
        plain = -elbo.mean()
        torch.testing.assert_close(loss[i], plain, rtol=1e-11, atol=0)

        pairs = [
            ("components.1.head.0", encoders[1].layers[-1]), ("components.2.trunk.0", encoders[2].layers[0]),
            ("components.0.trunk.7", encoders[0].layers[7]), ("weights.1", weights[1]), ("weights.3", weights[3]),
            ("decoder.mean.0", decoder.layers[0]), ("decoder.mean.9", decoder.layers[9]),
        ]  # fmt: skip
        for name, layer in pairs:
            wanted = torch.autograd.grad(plain, [layer.weight, layer.bias], retain_graph=True)
            for what, value in zip(("weight", "bias"), wanted, strict=True):
                found = gradients[f"{name}.{what}"][i]
                assert value.norm() > 0
                assert (found - value).norm() <= 1e-9 * value.norm(), name
        (by_logvar,) = torch.autograd.grad(plain, decoder.logvar)
        torch.testing.assert_close(gradients["decoder.logvar"][i], by_logvar, rtol=1e-9, atol=0)


def test_component_0_and_the_decoder_are_the_vaes_and_the_others_are_random(tiny) -> None:
    engine = tiny.engine(tiny.spec("me", 3, precision="float64", restarts=2))
    vae = tiny.models(engine.spec.parent, tiny.images)
    for i in range(2):
        own = {name: value[i] for name, value in engine.method.state_dict().items()}
        for name, value in vae[i].items():
            if name.startswith("encoder."):
                first, *others = (own[name.replace("encoder", f"components.{k}")] for k in range(3))
                assert torch.equal(first, value)
                assert not any(torch.isclose(other, value).all() for other in others)
                assert not torch.isclose(*others).all()
            if name.startswith("decoder."):
                assert torch.equal(own[name], value)


class Squares(nn.Module):
    """p(x|z) = N(1; z^2, 0.3^2): for any image, the posterior has a mode near 1 and one near -1."""

    def log_prob(self, x: Tensor, z: Tensor) -> Tensor:
        return Normal(z.squeeze(-1).square(), 0.3).log_prob(torch.ones(()))


def test_components_find_both_modes_of_the_posterior(small) -> None:
    """Starting narrow and on either side of zero; starting on the same side, both may end in one mode."""
    method = small.engine(small.spec("me", 2, dim=1, precision="float64")).method
    method.decoder = Squares()
    for component, centre in zip(method.components, (0.2, -0.2), strict=True):
        component.head[0].bias.copy_(torch.tensor([[centre, -2.0]]))
    method.requires_grad_(True)
    x = method.centred(small.images.train[:8].unsqueeze(0))
    stream = Noise([torch.Generator().manual_seed(0)], torch.float64)
    (update,) = method.updates()
    adam = torch.optim.Adam(update.parameters, lr=1e-2)
    for t in range(150):
        adam.zero_grad()
        update.loss(Step(x, stream, t)).sum().backward()
        adam.step()
    with torch.no_grad():
        q = method.posterior(x, stream)
    centres = q.components.mu.squeeze(-1).sort(1).values
    assert (centres[:, 0] < -0.7).all() and (centres[:, 1] > 0.7).all()
    assert (q.log_alpha.exp() > 0.2).all()
    assert (q.components.logvar < -3).all()


def test_draws_follow_the_density(tiny) -> None:
    engine = tiny.engine(tiny.spec("me", 3, dim=2, precision="float64"))
    last: nets.Linear = engine.method.weights[-1]
    last.bias += torch.tensor([0.0, 1.0, -0.5])
    for k, component in enumerate(engine.method.components):
        component.head[0].bias[:, :2] += 2.0 * k - 2.0
    with torch.no_grad():
        q = engine.method.posterior(engine.method.centred(tiny.images.test[:2].unsqueeze(0)), engine.noise)
    assert_draws_follow_the_density(q, (1, 2))
    torch.testing.assert_close(q.log_alpha.exp().sum(1), torch.ones(1, 2, dtype=torch.float64))
