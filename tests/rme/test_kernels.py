"""Every implementation of a convolution against torch's, and the choice of the fastest."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from bench.plain import copy_member
from rme import kernels, nets, noise
from tests.rme.test_nets import IMAGES, MEMBERS, normal


@pytest.mark.parametrize("extra", [0, 1])
@pytest.mark.parametrize("outputs", [1, 3, 4, 5])
def test_a_transposed_convolution_equals_torchs(outputs: int, extra: int) -> None:
    layer = nets.TransposedConv(1, 6, outputs, extra).double()
    nets.initialise(layer, [noise.generator(0, 0, noise.INIT)])
    plain = nn.ConvTranspose2d(6, outputs, 4, 2, 1, output_padding=extra).double()
    copy_member(layer, 0, plain)
    x = normal(IMAGES, 6, 3, 5).requires_grad_()
    wanted = plain(x)
    (by_input,) = torch.autograd.grad(wanted.square().sum(), x, retain_graph=True)
    (by_weight,) = torch.autograd.grad(wanted.square().sum(), plain.weight)
    for found in (layer.single(x, layer.weight[0], layer.bias[0]), layer(x.unsqueeze(0))[0]):
        assert found.shape == (IMAGES, outputs, 6 + extra, 10 + extra)
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
        gradients = torch.autograd.grad(found.square().sum(), [x, layer.weight])
        torch.testing.assert_close(gradients[0], by_input, rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(gradients[1][0], by_weight, rtol=1e-11, atol=1e-11)


def without_triton(candidates: tuple[kernels.Kernel, ...]) -> list[kernels.Kernel]:
    """The kernels that run on any device; `test_triton_kernels.py` tests the others."""
    return [kernel for kernel in candidates if "triton" not in kernel.__name__]


@pytest.mark.parametrize("kernel", without_triton(kernels.CONVOLUTIONS), ids=lambda kernel: kernel.__name__)
def test_every_kernel_for_an_array_equals_torchs_convolution(kernel) -> None:
    x, weight, bias = normal(MEMBERS, IMAGES, 5, 7, 6), normal(MEMBERS, 3, 5, 4, 4), normal(MEMBERS, 3)
    assert_equal_for_each_member(kernel, lambda h, w, b: nn.functional.conv2d(h, w, b, 2, 1), x, weight, bias)


@pytest.mark.parametrize("extra", [0, 1])
@pytest.mark.parametrize("kernel", without_triton(kernels.TRANSPOSED_CONVOLUTIONS), ids=lambda kernel: kernel.__name__)
def test_every_kernel_for_an_array_equals_torchs_transposed_convolution(kernel, extra: int) -> None:
    def plain(h: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return nn.functional.conv_transpose2d(h, w, b, 2, 1, extra)

    x, weight, bias = normal(MEMBERS, IMAGES, 5, 3, 4), normal(MEMBERS, 5, 2, 4, 4), normal(MEMBERS, 2)
    assert_equal_for_each_member(lambda *a: kernel(*a, extra), plain, x, weight, bias)


def assert_equal_for_each_member(kernel, plain, *arguments: Tensor) -> None:
    """An array's kernel has the values and gradients of torch's function, member by member."""
    for argument in arguments:
        argument.requires_grad_()
    wanted = torch.stack([plain(*own) for own in zip(*arguments, strict=True)])
    found = kernel(*arguments)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    ours = torch.autograd.grad(found.square().sum(), arguments)
    for a, b in zip(ours, torch.autograd.grad(wanted.square().sum(), arguments), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("outputs", [1, 5])
def test_a_transposed_convolution_can_be_differentiated_twice(outputs: int) -> None:
    x, weight, bias = normal(1, 2, 3, 3), normal(2, outputs, 4, 4), normal(outputs)
    arguments = [a.requires_grad_() for a in (x, weight, bias)]
    assert torch.autograd.gradgradcheck(lambda *a: kernels.TransposedConvolution.apply(*a, 1).sin(), arguments)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_choice_is_kept_for_a_shape() -> None:
    x, weight, bias = (t.float().cuda() for t in (normal(2, 4, 5, 6, 6), normal(2, 3, 5, 4, 4), normal(2, 3)))
    first = kernels.fastest(kernels.CONVOLUTIONS, x, weight, bias)
    assert kernels.fastest(kernels.CONVOLUTIONS, x, weight, bias) is first in kernels.CONVOLUTIONS


def test_on_a_gpu_kernels_are_timed_once_for_each_shape_with_and_without_gradients(monkeypatch) -> None:
    """With made-up times and no computation, so that only the choice is tested."""
    timed = []

    def milliseconds(kernel: kernels.Kernel, learning: bool, x, weight, *rest) -> float:
        timed.append((kernel, learning))
        return 1.0 if kernel is (kernels.product if learning else kernels.one_by_one) else 2.0

    monkeypatch.setattr(kernels, "_milliseconds", milliseconds)
    monkeypatch.setattr(kernels, "_chosen", {})
    monkeypatch.setattr(kernels, "_excluded", set())
    capturing = False
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing)

    def tensor(*shape: int, requires_grad: bool = False) -> SimpleNamespace:
        return SimpleNamespace(
            device=torch.device("cuda"), dtype=torch.float32, shape=shape, requires_grad=requires_grad
        )

    def chosen(images: int = 4, learning: bool = True) -> kernels.Kernel:
        return kernels.fastest(kernels.CONVOLUTIONS, tensor(2, images), tensor(2, 3, requires_grad=learning), None)

    for _ in range(2):
        assert chosen() is kernels.product
    assert timed == [(kernel, True) for kernel in kernels.CONVOLUTIONS]
    assert chosen(learning=False) is kernels.one_by_one
    with torch.no_grad():
        assert chosen() is kernels.one_by_one, "as without parameters that require gradients"
    assert len(timed) == 2 * len(kernels.CONVOLUTIONS)
    capturing = True
    assert chosen(images=5) is kernels.CONVOLUTIONS[0] and chosen() is kernels.product
    capturing = False
    assert chosen(images=5) is kernels.product, "timed after the capture, not before"


def test_a_kernel_that_fails_is_excluded_and_the_others_are_compared(monkeypatch) -> None:
    monkeypatch.setattr(kernels, "_excluded", set())
    timed = []

    def milliseconds(kernel: kernels.Kernel) -> float:
        timed.append(kernel)
        if kernel is kernels.in_triton:
            raise ModuleNotFoundError("No module named 'triton'")
        if kernel is kernels.product:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return 1.0

    cpu = torch.device("cpu")
    for _ in range(2):
        times = kernels.measured(kernels.CONVOLUTIONS, torch.float32, cpu, milliseconds)
        assert list(times) == [kernels.grouped, kernels.one_by_one]
    assert timed.count(kernels.in_triton) == 1, "a kernel that cannot run is not tried again"
    assert timed.count(kernels.product) == 2, "a kernel that was out of memory may fit with another shape"
    kernels.measured(kernels.CONVOLUTIONS, torch.float64, cpu, milliseconds)
    assert timed.count(kernels.in_triton) == 2, "a kernel that fails for one dtype is tried for another"

    def loses_the_gpu(kernel: kernels.Kernel) -> float:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal memory access"):
        kernels.measured(kernels.CONVOLUTIONS, torch.bfloat16, cpu, loses_the_gpu)
    assert not any(dtype is torch.bfloat16 for _, dtype, _ in kernels._excluded), "the GPU failed, not the kernel"

    def nothing_runs(kernel: kernels.Kernel) -> float:
        raise RuntimeError(f"no {kernel.__name__}")

    for _ in range(2):
        with pytest.raises(RuntimeError, match="no grouped"):
            kernels.measured(kernels.CONVOLUTIONS, torch.float32, cpu, nothing_runs)
