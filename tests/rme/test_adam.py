"""Adam against PyTorch's class, and with gradients of any strides."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from rme.adam import Adam, _with_strides_of
from rme.methods.base import Update

SHAPES = [(2, 4, 6), (2, 3), (2, 1, 5, 4, 4)]


def gradients(generator: torch.Generator) -> list[Tensor]:
    return [torch.randn(shape, generator=generator) for shape in SHAPES]


def test_it_equals_pytorchs_bit_for_bit_also_after_a_change_of_rate(generator) -> None:
    theirs = gradients(generator)
    ours = [p.clone() for p in theirs]
    adam, oracle = Adam(ours, 0.01), torch.optim.Adam(theirs, lr=0.01, fused=True)
    for rate in (0.01, 0.01, 0.001):
        adam.rate = oracle.param_groups[0]["lr"] = rate
        given = gradients(generator)
        for p, g in zip(theirs, given, strict=True):
            p.grad = g
        oracle.step()
        adam.step(given)
    assert all(torch.equal(p, q) for p, q in zip(ours, theirs, strict=True))
    named = {f"{i}.{name}": value for i, own in oracle.state_dict()["state"].items() for name, value in own.items()}
    state = adam.state()
    assert state.keys() == named.keys()
    assert all(torch.equal(state[name], value) and state[name].dtype == value.dtype for name, value in named.items())


def test_steps_are_counted_on_the_parameters_device_in_float32() -> None:
    """A CUDA graph needs them there, and the fused step accepts no other dtype."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        count = Adam([torch.empty(2, device="meta")], 0.01).state()["0.step"]
    finally:
        torch.set_default_dtype(default)
    assert (count.device.type, count.dtype) == ("meta", torch.float32)


def test_a_missing_gradient_is_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        Adam([torch.ones(2), torch.ones(3)], 0.01).step([torch.ones(2)])


def test_it_restores_its_state_in_place(generator) -> None:
    whole = gradients(generator)
    first = Adam(whole, 0.01)
    first.step(gradients(generator))
    halves = [p.clone() for p in whole]
    second = Adam(halves, 0.01)
    places = {name: value.data_ptr() for name, value in second.state().items()}
    second.load_state({name: value.clone() for name, value in first.state().items()})
    assert places == {name: value.data_ptr() for name, value in second.state().items()}
    given = gradients(generator)
    for adam in (first, second):
        adam.step(given)
    assert all(torch.equal(p, q) for p, q in zip(halves, whole, strict=True))


def test_a_state_of_other_parameters_is_refused_and_changes_nothing() -> None:
    adam = Adam([torch.ones(2, 3), torch.ones(4)], 0.01)
    good = {name: torch.ones_like(value) for name, value in adam.state().items()}
    with pytest.raises(KeyError, match=r"1\.exp_avg"):
        adam.load_state({name: value for name, value in good.items() if name != "1.exp_avg"})
    with pytest.raises(KeyError, match=r"2\.step: the optimiser has only 2 parameters"):
        adam.load_state({**good, "2.step": torch.zeros(())})
    with pytest.raises(RuntimeError, match=r"1\.exp_avg_sq has shape \(1,\), expected \(4,\)"):
        adam.load_state({**good, "1.exp_avg_sq": torch.zeros(1)})
    assert all((value == 0).all() for value in adam.state().values())


def test_a_gradient_gets_its_parameters_strides_also_for_axes_of_size_1() -> None:
    parameter = torch.empty(1, 32, 1, 4, 4)
    values = torch.randn(32, 1, 4, 4)
    gradient = values.contiguous(memory_format=torch.channels_last).as_strided((32, 1, 4, 4), (16, 1, 4, 1))[None]
    assert gradient.is_contiguous() and gradient.stride() != parameter.stride()
    for g in (gradient, gradient.clone(), torch.randn(1, 1, 32, 4, 4).transpose(1, 2)):
        found = _with_strides_of(parameter, g)
        assert found.stride() == parameter.stride() and torch.equal(found, g)
    assert _with_strides_of(parameter, found) is found, "no unnecessary copy"


def test_a_transposed_gradient_is_applied_in_the_right_order(small) -> None:
    """Fused Adam on a CPU reads a gradient's memory as if it had the parameter's strides."""
    g = torch.Generator().manual_seed(0)
    start, weights = torch.randn(2, 4, 6, generator=g), torch.randn(2, 4, 5, generator=g)
    parameter = nn.Parameter(start.clone(), requires_grad=False)

    def loss(step: object) -> Tensor:
        return parameter.transpose(1, 2).bmm(weights).square().sum((1, 2))

    parameter.requires_grad_(True)
    (raw,) = torch.autograd.grad(loss(None).sum(), [parameter])
    parameter.requires_grad_(False)
    assert not raw.is_contiguous(), "this test needs a gradient of other strides"

    plain = start.clone().requires_grad_()
    oracle = torch.optim.Adam([plain], lr=0.01, fused=False, foreach=False)
    engine = small.engine(small.spec())
    update, fused = Update("transposed", [parameter], loss), Adam([parameter], 0.01)
    for _ in range(5):
        found = engine._apply(update, fused, None)
        oracle.zero_grad()
        value = plain.transpose(1, 2).bmm(weights).square().sum((1, 2))
        value.sum().backward()
        oracle.step()
        torch.testing.assert_close(found, value.detach())
    torch.testing.assert_close(parameter.detach(), plain.detach(), rtol=1e-5, atol=1e-6)
    assert (parameter - start).abs().min() > 1e-3
    assert not parameter.requires_grad and parameter.grad is None


def test_a_training_does_not_import_pytorchs_compiler() -> None:
    """That takes over a second at each worker's start."""
    program = (
        "import sys; from tests.tiny import Tiny; small = Tiny(8); engine = small.engine(small.spec()); "
        "engine.train_epoch(); engine.validate(); sys.exit('torch._dynamo' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
