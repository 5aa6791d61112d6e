"""IAF: MADE's autoregressive order and context, the flow against autograd's Jacobian, density against draws."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from rme import nets
from rme.distributions import DiagonalGaussian, PushForward
from rme.methods.iaf import Gate
from rme.noise import Noise
from tests.oracles.densities import assert_draws_follow_the_density

B, N, WIDTH = 2, 3, 4


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def made(dim: int, seed: int = 0, scale: float = 3.0, **settings) -> nets.MADE:
    """A MADE with weights larger than by initialisation, so that every dependence is strong."""
    net = nets.MADE(B, dim, WIDTH, hidden=40, **settings).double().requires_grad_(False)
    nets.initialise(net, [torch.Generator().manual_seed(seed + i) for i in range(B)])
    for parameter in net.parameters():
        parameter.mul_(scale)
    return net


def flow(dim: int, flows: int, images: int = N, scale: float = 3.0) -> PushForward:
    context = normal(B, images, WIDTH, seed=5)
    base = DiagonalGaussian(0.5 * normal(B, images, dim, seed=6), 0.5 * normal(B, images, dim, seed=7))
    return PushForward(
        base, [Gate(made(dim, seed=10 * t, scale=scale, backwards=t % 2 == 1), context) for t in range(flows)]
    )


# ---------------------------------------------------------------------- MADE
@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("which", [0, 1])
def test_made_depends_only_on_earlier_latents(backwards: bool, which: int) -> None:
    dim, context = 5, normal(B, N, WIDTH, seed=5)
    net = made(dim, backwards=backwards)
    jacobian = torch.autograd.functional.jacobian(lambda z: net(z, context)[which], normal(B, N, dim))
    for b in range(B):
        for n in range(N):
            own = jacobian[b, n, :, b, n]
            own = own.flip(0, 1) if backwards else own
            assert torch.equal(own, own.tril(-1)), "output i must not depend on inputs i..p"
            below = own[torch.tril_indices(dim, dim, -1).unbind()]
            assert (below.abs() > 1e-6).all(), "output i must depend on all inputs before i"
            jacobian[b, n, :, b, n] = 0
    assert (jacobian == 0).all(), "images and members are independent"


@pytest.mark.parametrize("backwards", [False, True])
def test_every_output_of_made_depends_on_the_whole_context(backwards: bool) -> None:
    net, z = made(5, backwards=backwards), normal(B, N, 5)
    jacobian = torch.autograd.functional.jacobian(lambda c: torch.cat(net(z, c), -1), normal(B, N, WIDTH, seed=5))
    for b in range(B):
        for n in range(N):
            assert (jacobian[b, n, :, b, n].abs() > 1e-6).all()


def test_made_with_samples_pairs_each_context_with_its_own_image() -> None:
    """Also with as many samples as images."""
    net, context = made(3), normal(B, N, WIDTH, seed=5)
    for samples in (2, N):
        z = normal(B, samples, N, 3)
        m, s = net(z, context)
        for i in range(samples):
            torch.testing.assert_close(torch.cat([m, s], -1)[:, i], torch.cat(net(z[:, i], context), -1))


def test_a_masked_layer_for_all_members_at_once_equals_one_by_one() -> None:
    net, z = made(3), normal(B, N, 3)
    for network, x in ((net.inputs, z), (net.outputs, normal(B, N, 40))):
        together = nn.Sequential.forward(network, x)  # as on a GPU
        torch.testing.assert_close(network(x), together, rtol=1e-12, atol=1e-12)
        layer = network[0]
        for b in range(B):
            plain = (layer.weight[b] * layer.mask) @ x[b].T + layer.bias[b].unsqueeze(1)
            torch.testing.assert_close(together[b], plain.T, rtol=1e-12, atol=1e-12)
        assert 0 < layer.mask.mean() < 1
    assert not any("mask" in name for name in net.state_dict())


# ---------------------------------------------------------------------- the flow
def test_the_gate_mixes_latent_and_mean() -> None:
    m, s, z = normal(B, N, 2), normal(B, N, 2, seed=1), normal(B, N, 2, seed=2)
    gate = Gate(lambda z, context: (m, s), torch.zeros(B, N, 1))
    g = 1 / (1 + torch.exp(-(s + 2)))
    moved, log_det = gate.forward(z)
    torch.testing.assert_close(moved, g * z + (1 - g) * m, rtol=1e-12, atol=0)
    torch.testing.assert_close(log_det, g.log().sum(-1), rtol=1e-12, atol=0)


@pytest.mark.parametrize("flows", [1, 2, 3])
def test_log_det_is_that_of_the_jacobian(flows: int) -> None:
    q, z = flow(4, flows), normal(B, N, 4)
    _, log_q = q.push(z)
    jacobian = torch.autograd.functional.jacobian(lambda z: q.push(z)[0], z)
    for b in range(B):
        for n in range(N):
            log_det = torch.linalg.slogdet(jacobian[b, n, :, b, n]).logabsdet
            torch.testing.assert_close(q.base.log_prob(z)[b, n] - log_q[b, n], log_det, rtol=1e-10, atol=1e-10)
    if flows > 1:
        assert (jacobian[0, 0, :, 0, 0].abs() > 1e-6).all(), "two opposite orders connect all latents"


@pytest.mark.parametrize("samples", [0, 2, N])
def test_the_inverse_returns_the_base_draw_and_the_log_det(samples: int) -> None:
    q = flow(4, 3)
    z0 = normal(B, *[samples] * bool(samples), N, 4)
    z, log_q = q.push(z0)
    back = z
    for gate in reversed(q.flows):
        back, _ = gate.inverse(back)
    torch.testing.assert_close(back, z0, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(q.log_prob(z), log_q, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("flows", [1, 2])
def test_draws_follow_the_density(flows: int) -> None:
    assert_draws_follow_the_density(flow(2, flows, images=2, scale=2.2), (B, 2), half=6.0)


# ---------------------------------------------------------------------- the method
def test_it_starts_near_the_vae_without_permuting_latents(tiny) -> None:
    engine = tiny.engine(tiny.spec("iaf", 2, dim=4, precision="float64"))
    (vae,) = tiny.models(engine.spec.parent, tiny.images)
    x = engine.method.centred(tiny.images.test.unsqueeze(0))
    q = engine.method.posterior(x, None)
    assert torch.equal(engine.method.encoder.head[0].bias[0], vae["encoder.head.0.bias"])
    assert torch.equal(engine.method.decoder.logvar[0], vae["decoder.logvar"])
    z0 = q.base.sample(Noise([torch.Generator().manual_seed(0)], torch.float64), 200)
    z = q.push(z0)[0]
    for i in range(4):
        assert torch.corrcoef(torch.stack([z0[..., i].flatten(), z[..., i].flatten()]))[0, 1] > 0.95


def test_the_autoregressive_order_is_reversed_from_one_flow_to_the_next(tiny) -> None:
    method = tiny.engine(tiny.spec("iaf", 4, dim=3)).method
    assert [m.order for m in method.mades] == [[0, 1, 2], [2, 1, 0]] * 2
    assert all(m.inputs[0].weight.shape == (1, 500, 3) and m.context[0].weight.shape == (1, 500, 256)
               for m in method.mades)  # fmt: skip
