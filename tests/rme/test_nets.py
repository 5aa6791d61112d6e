"""The networks against Tables 1-3 written in torch.nn, one model at a time."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from bench.plain import DECODERS, ENCODERS, BaseBoundedRegressor, copy_member, fc_decoder, weighted
from rme import nets, noise

SHAPES = [(1, 28, 28), (3, 32, 32), (3, 64, 64)]
DIMS = [10, 20, 50, 100]
MEMBERS, IMAGES = 3, 4

# layer by layer, from the tables: (outputs, inputs, kernel area)
ENCODER_TABLE = {
    (1, 28, 28): [(32, 1, 16), (32, 32, 16), (64, 32, 16), (256, 576, 1)],
    (3, 32, 32): [(32, 3, 16), (32, 32, 16), (64, 32, 16), (512, 1024, 1)],
    (3, 64, 64): [(32, 3, 16), (32, 32, 16), (64, 32, 16), (64, 64, 16), (512, 1024, 1)],
}
DECODER_TABLE = {
    (1, 28, 28): [(576, 256, 1), (32, 64, 16), (32, 32, 16), (1, 32, 16)],
    (3, 32, 32): [(1024, 512, 1), (32, 64, 16), (32, 32, 16), (3, 32, 16)],
    (3, 64, 64): [(1024, 512, 1), (64, 64, 16), (32, 64, 16), (32, 32, 16), (3, 32, 16)],
}
HIDDEN = {(1, 28, 28): 256, (3, 32, 32): 512, (3, 64, 64): 512}


def numbers(table: list[tuple[int, int, int]]) -> list[int]:
    return [outputs * inputs * area + outputs for outputs, inputs, area in table]


def counts(module: nn.Module) -> list[int]:
    """Weights and biases of each layer, of one member."""
    return [(layer.weight[0].numel() + layer.bias[0].numel()) for layer in weighted(module)]


def filled(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module in float64, initialised with different weights for every member."""
    module = module.double()
    nets.initialise(module, [noise.generator(seed, r, noise.INIT) for r in range(MEMBERS)])
    return module


def normal(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---------------------------------------------------------------------- Tables 1-3
@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("shape", SHAPES)
def test_parameter_counts_are_those_of_the_tables(shape: tuple[int, int, int], dim: int) -> None:
    h = HIDDEN[shape]
    with torch.device("meta"):
        encoder, decoder = nets.Encoder(MEMBERS, dim, shape), nets.Decoder(MEMBERS, dim, shape)
    assert encoder.width == h
    assert counts(encoder) == numbers([*ENCODER_TABLE[shape], (2 * dim, h, 1)])
    assert counts(decoder.mean) == numbers([(h, dim, 1), *DECODER_TABLE[shape]])
    assert sum(p.numel() for p in encoder.parameters()) == MEMBERS * sum(counts(encoder))
    assert sum(p.numel() for p in decoder.parameters()) == MEMBERS * (sum(counts(decoder.mean)) + 1)


@pytest.mark.parametrize("shape", SHAPES)
def test_sides_from_layer_to_layer_are_those_of_the_tables(shape: tuple[int, int, int]) -> None:
    sides = {28: [14, 7, 3], 32: [16, 8, 4], 64: [32, 16, 8, 4]}[shape[1]]
    encoder, decoder = filled(nets.Encoder(MEMBERS, 2, shape)), filled(nets.Decoder(MEMBERS, 2, shape))
    found, h = [], normal(MEMBERS, 1, *shape)
    for layer in encoder.trunk:
        h = layer(h)
        if isinstance(layer, nets.Conv):
            found.append(h.shape[-1])
    assert found == sides
    found, h = [], normal(MEMBERS, 1, 2)
    for layer in decoder.mean:
        h = layer(h)
        if isinstance(layer, nets.TransposedConv):
            found.append(h.shape[-1])
    assert found == [*sides[-2::-1], shape[1]]
    assert h.shape == (MEMBERS, 1, *shape)


# ---------------------------------------------------------------------- other sizes
@pytest.mark.long(seconds=3)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_side_follows_the_tables_rule_and_the_decoder_returns_the_encoders_shape(channels: int) -> None:
    for side in range(16, 129):
        widths = [32, 32, 64, 64, 64][: 3 if side < 64 else 4 if side < 128 else 5]
        with torch.device("meta"):
            encoder, decoder = nets.Encoder(2, 3, (channels, side, side)), nets.Decoder(2, 3, (channels, side, side))
            x, h = torch.empty(2, 1, channels, side, side), torch.empty(2, 1, 3)
        trunk = [layer for layer in encoder.trunk if isinstance(layer, nets.Conv)]
        assert [layer.weight.shape[1] for layer in trunk] == widths
        assert encoder.width == (256 if side < 32 else 512)
        assert encoder(x).mu.shape == (2, 1, 3)
        assert decoder(h).shape == x.shape
        mirrored = [layer for layer in decoder.mean if isinstance(layer, nets.TransposedConv)]
        assert [layer.weight.shape[2] for layer in mirrored] == [*widths[-2::-1], channels]
        last = side
        for _ in widths:
            last //= 2
        assert decoder.mean[4].shape == (64, last, last)


def table_for(channels: int, side: int, p: int) -> tuple[nn.Sequential, nn.Sequential]:
    """The encoder and the decoder of 37 or 75 pixels, layer by layer as in the tables."""
    widths, sides = {37: ((32, 32, 64), (37, 18, 9, 4)), 75: ((32, 32, 64, 64), (75, 37, 18, 9, 4))}[side]
    down: list[nn.Module] = []
    for inputs, outputs in zip((channels, *widths), widths, strict=False):
        down += [nn.Conv2d(inputs, outputs, 4, 2, 1), nn.LeakyReLU(0.01)]
    down += [nn.Flatten(), nn.Linear(64 * 16, 512), nn.LeakyReLU(0.01), nn.Linear(512, 2 * p)]
    up = [nn.Linear(p, 512), nn.ReLU(), nn.Linear(512, 64 * 16), nn.ReLU(), nn.Unflatten(1, (64, 4, 4))]
    backwards = [*widths[::-1], channels]
    for inputs, outputs, small, large in zip(backwards, backwards[1:], sides[:0:-1], sides[-2::-1], strict=False):
        up += [nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, output_padding=large % 2), nn.ReLU()]
        assert large == 2 * small + large % 2
    return nn.Sequential(*down), nn.Sequential(*up[:-1])


@pytest.mark.parametrize(("channels", "side"), [(3, 37), (1, 75)])
def test_odd_sides_equal_the_rule_in_torch_nn(channels: int, side: int) -> None:
    shape = (channels, side, side)
    encoder, decoder = filled(nets.Encoder(MEMBERS, 5, shape)), filled(nets.Decoder(MEMBERS, 5, shape))
    whole = nets.Network(*encoder.trunk, *encoder.head)
    check_against_plain(whole, by_member, normal(MEMBERS, 2, *shape), lambda: table_for(channels, side, 5)[0])
    for run in (by_member, batched):
        check_against_plain(decoder.mean, run, normal(MEMBERS, 2, 5), lambda: table_for(channels, side, 5)[1])


# ---------------------------------------------------------------------- the arithmetic
def batched(network: nets.Network, x: Tensor) -> Tensor:
    """What `Network.forward` does on a GPU: one kernel for all members."""
    return nn.Sequential.forward(network, x)


def by_member(network: nets.Network, x: Tensor) -> Tensor:
    """What `Network.forward` does on a CPU."""
    return network(x)


def check_against_plain(network: nets.Network, run, x: Tensor, build) -> None:
    """Every member's outputs, and gradients by weights and input, against a torch.nn twin."""
    x = x.clone().requires_grad_()
    out = run(network, x)
    cotangent = normal(*out.shape, seed=3)
    parameters = list(network.parameters())
    gradients = torch.autograd.grad((out * cotangent).sum(), [x, *parameters])
    for i in range(MEMBERS):
        twin = build().double()
        copy_member(network, i, twin)
        own = x[i].detach().requires_grad_()
        wanted = twin(own)
        torch.testing.assert_close(out[i], wanted, rtol=1e-12, atol=1e-12)
        twins = torch.autograd.grad((wanted * cotangent[i]).sum(), [own, *twin.parameters()])
        for found, expected in zip(gradients, twins, strict=True):
            scale = expected.abs().max().item()
            assert scale > 0
            torch.testing.assert_close(found[i], expected, rtol=1e-12, atol=1e-12 * max(1, scale))


@pytest.mark.parametrize("run", [by_member, batched])
@pytest.mark.parametrize("shape", SHAPES)
def test_encoder_equals_the_table_in_torch_nn(shape: tuple[int, int, int], run) -> None:
    encoder = filled(nets.Encoder(MEMBERS, 5, shape))
    whole = nets.Network(*encoder.trunk, *encoder.head)
    x = normal(MEMBERS, IMAGES, *shape)
    check_against_plain(whole, run, x, lambda: ENCODERS[shape](5))
    q = encoder(x)
    torch.testing.assert_close(torch.cat([q.mu, q.logvar], -1), run(whole, x), rtol=1e-12, atol=1e-12)
    assert q.mu.shape == q.logvar.shape == (MEMBERS, IMAGES, 5)


@pytest.mark.parametrize("run", [by_member, batched])
@pytest.mark.parametrize("shape", SHAPES)
def test_conv_decoder_equals_the_table_in_torch_nn(shape: tuple[int, int, int], run) -> None:
    decoder = filled(nets.Decoder(MEMBERS, 5, shape))
    check_against_plain(decoder.mean, run, normal(MEMBERS, IMAGES, 5), lambda: DECODERS[shape](5))


@pytest.mark.parametrize("run", [by_member, batched])
def test_fc_decoder_equals_torch_nn(run) -> None:
    decoder = filled(nets.Decoder(MEMBERS, 5, (1, 28, 28), "fc"))
    width = nets.fc_decoder_width(5, (1, 28, 28))
    check_against_plain(decoder.mean, run, normal(MEMBERS, IMAGES, 5), lambda: fc_decoder(5, (1, 28, 28), width))


@pytest.mark.parametrize("members", [1, 2])
def test_cpu_and_gpu_forward_of_a_network_agree(members: int) -> None:
    """Also for one member, which is a special case."""
    decoder = nets.Decoder(members, 3, (3, 32, 32)).double()
    nets.initialise(decoder, [noise.generator(0, r, noise.INIT) for r in range(members)])
    z = normal(members, IMAGES, 3)
    torch.testing.assert_close(decoder.mean(z), batched(decoder.mean, z), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_encoders_as_one_array_equal_each_alone(shape) -> None:
    encoders = [nets.Encoder(MEMBERS, 5, shape).double() for _ in range(4)]
    for i, encoder in enumerate(encoders):
        nets.initialise(encoder, [noise.generator(m, i, noise.INIT) for m in range(MEMBERS)])
    x = normal(MEMBERS, IMAGES, *shape)
    found = nets.as_one_array(encoders, x)
    for k, encoder in enumerate(encoders):
        alone = encoder(x)
        torch.testing.assert_close(found.mu[:, k], alone.mu, rtol=1e-11, atol=1e-12)
        torch.testing.assert_close(found.logvar[:, k], alone.logvar, rtol=1e-11, atol=1e-12)


# ---------------------------------------------------------------------- initialisation
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("layer", "plain"), [
    (lambda: nets.Linear(2, 7, 5), lambda: nn.Linear(7, 5)),
    (lambda: nets.Conv(2, 3, 6), lambda: nn.Conv2d(3, 6, 4)),
    (lambda: nets.TransposedConv(2, 6, 3), lambda: nn.ConvTranspose2d(6, 3, 4)),
])  # fmt: skip
def test_initialisation_is_torchs_own(layer, plain, dtype: torch.dtype) -> None:
    array = layer().to(dtype)
    nets.initialise(array, [noise.generator(9, r, noise.INIT) for r in range(2)])
    with torch.random.fork_rng():
        for i in range(2):
            torch.random.set_rng_state(noise.generator(9, i, noise.INIT).get_state())
            twin = plain().to(dtype)
            torch.random.set_rng_state(noise.generator(9, i, noise.INIT).get_state())
            twin.reset_parameters()
            assert torch.equal(array.weight[i], twin.weight)
            assert torch.equal(array.bias[i], twin.bias)
    assert not torch.equal(array.weight[0], array.weight[1])


def test_a_members_weights_do_not_depend_on_the_array_it_is_in() -> None:
    generators = [noise.generator(9, r, noise.INIT) for r in range(3)]
    three, one = nets.Decoder(3, 4, (1, 28, 28)), nets.Decoder(1, 4, (1, 28, 28))
    nets.initialise(three, generators)
    nets.initialise(one, [noise.generator(9, 2, noise.INIT)])
    for whole, alone in zip(three.parameters(), one.parameters(), strict=True):
        assert torch.equal(whole[2], alone[0])


# ---------------------------------------------------------------------- the fully connected decoder
@pytest.mark.parametrize("dim", [10, 50])
@pytest.mark.parametrize("shape", SHAPES)
def test_fc_width_gives_the_nearest_number_of_parameters(shape: tuple[int, int, int], dim: int) -> None:
    target = sum(numbers([(HIDDEN[shape], dim, 1), *DECODER_TABLE[shape]]))
    with torch.device("meta"):
        distance = {
            width: abs(sum(p.numel() for p in fc_decoder(dim, shape, width).parameters()) - target)
            for width in range(1, 400)
        }
        best = min(distance, key=distance.__getitem__)
        assert best < 399
        assert nets.fc_decoder_width(dim, shape) == best
        decoder = nets.Decoder(MEMBERS, dim, shape, "fc")
    assert abs(sum(counts(decoder.mean)) - target) == distance[best]


# ---------------------------------------------------------------------- the rest
def test_bounded_regressor_equals_its_formula_and_stays_within_its_bounds() -> None:
    regressor = filled(nets.BoundedRegressor(MEMBERS, (1, 28, 28), 0.001, 0.1))
    x = normal(MEMBERS, 50, 1, 28, 28)
    found = regressor(x)
    for i in range(MEMBERS):
        twin = BaseBoundedRegressor((1, 28, 28), 0.001, 0.1, 10).double()
        copy_member(regressor, i, twin)
        assert twin.layers[1].weight.shape == (10, 784)
        torch.testing.assert_close(found[i], twin(x[i]), rtol=1e-12, atol=0)
    assert found.shape == (MEMBERS, 50)
    assert (found > 0.001).all() and (found < 0.1).all() and found.std() > 1e-4
    last = regressor.mlp[-1]
    with torch.no_grad():
        last.weight.zero_()
        for bias, limit in ((-50.0, 0.001), (0.0, 0.0505), (50.0, 0.1)):
            last.bias.fill_(bias)
            assert regressor(x[:, :1]).squeeze().tolist() == pytest.approx([limit] * MEMBERS, rel=1e-12)


@pytest.mark.parametrize("kind", ["conv", "fc"])
@pytest.mark.parametrize("samples", [0, 6])
def test_likelihood_is_torchs_normal(kind: str, samples: int) -> None:
    decoder = filled(nets.Decoder(MEMBERS, 4, (1, 28, 28), kind))
    with torch.no_grad():
        decoder.logvar.copy_(torch.tensor([-3.0, 0.0, 1.0]))
    x = normal(MEMBERS, IMAGES, 1, 28, 28)
    z = normal(MEMBERS, *[samples] * bool(samples), IMAGES, 4, seed=2)
    found = decoder.log_prob(x, z)
    assert found.shape == z.shape[:-1]
    for i in range(MEMBERS):
        width = nets.fc_decoder_width(4, (1, 28, 28))
        twin = (DECODERS[1, 28, 28](4) if kind == "conv" else fc_decoder(4, (1, 28, 28), width)).double()
        copy_member(decoder.mean, i, twin)
        for s in range(max(1, samples)):
            own = z[i, s] if samples else z[i]
            p = torch.distributions.Normal(twin(own), math.exp(decoder.logvar[i].item() / 2))
            wanted = p.log_prob(x[i]).sum((1, 2, 3))
            torch.testing.assert_close(found[i, s] if samples else found[i], wanted, rtol=1e-12, atol=1e-9)
