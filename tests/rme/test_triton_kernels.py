"""The Triton kernels against torch's convolutions: on a GPU, or without one in Triton's interpreter on the CPU."""

from __future__ import annotations

import importlib.util

import pytest
import torch
import torch.nn.functional as F

from rme import kernels

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
MEMBERS, IMAGES = 2, 3

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")


@pytest.fixture(autouse=True)
def interpreted(monkeypatch) -> None:
    """The same setting as when conftest imported Triton."""
    if DEVICE == "cpu":
        monkeypatch.setenv("TRITON_INTERPRET", "1")


@pytest.fixture(autouse=True)
def no_tf32():
    backends = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = False
    yield
    for backend, was in zip(backends, before, strict=True):
        backend.allow_tf32 = was


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE).requires_grad_()


def check(kernel, plain, *arguments: torch.Tensor) -> None:
    """Values, gradients and second derivatives against torch's, member by member in float64."""
    found = kernel(*arguments)
    exact = [a.detach().double().requires_grad_() for a in arguments]
    wanted = torch.stack([plain(*own) for own in zip(*exact, strict=True)])
    torch.testing.assert_close(found, wanted.float(), rtol=1e-5, atol=3e-5)
    ours = torch.autograd.grad(found.square().sum(), arguments, create_graph=True)
    theirs = torch.autograd.grad(wanted.square().sum(), exact, create_graph=True)
    twice = torch.autograd.grad(ours[0].square().sum(), arguments[:2])
    twice_wanted = torch.autograd.grad(theirs[0].square().sum(), exact[:2])
    for a, b in zip([*ours, *twice], [*theirs, *twice_wanted], strict=True):
        torch.testing.assert_close(a, b.float(), rtol=1e-4, atol=1e-5 * b.abs().max().item())


@pytest.mark.parametrize(("inputs", "outputs", "side"), [(1, 32, 10), (3, 33, 7), (3, 5, 6)])
def test_a_convolution(inputs: int, outputs: int, side: int) -> None:
    arguments = (
        normal(MEMBERS, IMAGES, inputs, side, side + 2, seed=0), normal(MEMBERS, outputs, inputs, 4, 4, seed=1),
        normal(MEMBERS, outputs, seed=2),
    )  # fmt: skip
    check(kernels.in_triton, lambda x, w, b: F.conv2d(x, w, b, 2, 1), *arguments)


@pytest.mark.parametrize(
    ("inputs", "outputs", "side", "extra"), [(16, 32, 3, 1), (8, 1, 5, 0), (3, 35, 4, 0), (3, 35, 4, 1)]
)
def test_a_transposed_convolution(inputs: int, outputs: int, side: int, extra: int) -> None:
    arguments = (
        normal(MEMBERS, IMAGES, inputs, side, side + 1, seed=0), normal(MEMBERS, inputs, outputs, 4, 4, seed=1),
        normal(MEMBERS, outputs, seed=2),
    )  # fmt: skip
    check(
        lambda x, w, b: kernels.transposed_in_triton(x, w, b, extra),
        lambda x, w, b: F.conv_transpose2d(x, w, b, 2, 1, extra), *arguments,
    )  # fmt: skip


def test_any_strides() -> None:
    x = normal(MEMBERS, IMAGES, 6, 5, 4, seed=0).detach().transpose(-1, -2)
    weight, bias = normal(MEMBERS, 3, 6, 4, 4, seed=1), normal(MEMBERS, 3, seed=2)
    for images in (x, x.transpose(0, 1).contiguous().transpose(0, 1), x.movedim(2, -1).contiguous().movedim(-1, 2)):
        found = kernels.in_triton(images, weight, bias)
        torch.testing.assert_close(found, kernels.one_by_one(x, weight, bias), rtol=1e-5, atol=1e-5)


def test_float64_is_refused() -> None:
    x = torch.zeros(1, 1, 1, 4, 4, dtype=torch.float64)
    with pytest.raises(TypeError, match="float32"):
        kernels.in_triton(x, torch.zeros(1, 1, 1, 4, 4), torch.zeros(1, 1))
