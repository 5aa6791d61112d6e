"""A training step meets the conditions of a CUDA graph, shown without a GPU; and, with a GPU, the graph itself."""

from __future__ import annotations

import gc
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rme import methods
from rme.cuda_graph import WARM_UP, Graphed
from rme.engine import Engine

aten = torch.ops.aten


class NoHostSynchronisation(TorchDispatchMode):
    """Raises if an operation would synchronise with a GPU: to read a value, or for a size that depends on values."""

    WAITING = (aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.equal, aten._linalg_check_errors)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        masks = function.overloadpacket in (aten.index, aten.index_put_) and any(
            t is not None and t.dtype is torch.bool for t in args[1]
        )
        if masks or function.overloadpacket in self.WAITING:
            raise AssertionError(f"{function} waits for the device")
        return function(*args, **(kwargs or {}))


def all_methods() -> list[tuple[str, int | None, str]]:
    return [
        (name, min(kind.orders) if kind.orders else None, kind.decoders[0])
        for name, kind in methods.registry().items()
        if kind.trains
    ]


@pytest.fixture(params=all_methods(), ids=lambda m: m[0])
def engines(request, small) -> list[Engine]:
    """Two engines of the same members, at the same point of their training."""
    method, order, decoder = request.param
    spec = small.spec(method=method, order=order, decoder=decoder, restarts=2)
    return [small.engine(spec) for _ in range(2)]


def test_a_synchronisation_is_detected() -> None:
    with pytest.raises(AssertionError, match="waits"), NoHostSynchronisation():
        torch.ones(1).item()
    with pytest.raises(AssertionError, match="waits"), NoHostSynchronisation():
        _ = torch.ones(3)[torch.tensor([True, False, True])]


def test_a_step_never_waits_for_the_device(engines) -> None:
    engine = engines[0]
    with NoHostSynchronisation():
        engine.train_step(engine.train_index[:, :8])


class Recording(TorchDispatchMode):
    """Records operations and replays them as a CUDA graph does: each on the same memory as the first time."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        self.calls.append((function, args, kwargs or {}, out))  # keeps a reference, so that no memory is reused
        return out

    @torch.no_grad()
    def replay(self) -> None:
        for function, args, kwargs, out in self.calls:
            again = function(*args, **kwargs)
            for kept, value in zip(tree_leaves(out), tree_leaves(again), strict=True):
                if isinstance(kept, Tensor) and kept.data_ptr() != value.data_ptr():  # else a view, or done in place
                    kept.copy_(value)


def test_replaying_a_recorded_step_equals_training(engines) -> None:
    """The operations of one step, replayed on other images: nothing in a step may depend on Python state."""
    replayed, plain = engines
    batches = plain.train_index[:, :24].split(8, 1)
    for engine in engines:
        engine.train_step(batches[0])
    index = batches[1].clone()
    with Recording() as recording:
        losses = replayed._step(index)
    assert len(recording.calls) > 50
    plain.train_step(batches[1])
    for batch in (batches[2], batches[0]):
        index.copy_(batch)
        recording.replay()
        assert torch.equal(losses, plain.train_step(batch))
    assert int(replayed.iteration) == int(plain.iteration) == 4
    ours, theirs = replayed.state(), plain.state()
    assert [name for name in theirs if not torch.equal(ours[name], theirs[name])] == []


class FakeGenerator:
    """A generator as a capture uses it; while its state is registered, drawing outside of the capture would fail."""

    device_index = 0

    def __init__(self, position: int) -> None:
        self.position, self.registered = position, False

    def clone_state(self) -> FakeGenerator:
        return FakeGenerator(self.position)

    def graphsafe_set_state(self, other: FakeGenerator) -> None:
        self.position, self.registered = other.position, other.registered


class FailingCapture:
    """torch.cuda with a capture that fails, and leaves another current stream, registered states, an open pool."""

    def __init__(self, monkeypatch) -> None:
        self.generators, self.default = [FakeGenerator(5), FakeGenerator(7)], FakeGenerator(3)
        self.stream, self.recording, self.collects = "main", False, None
        cuda = {
            "CUDAGraph": lambda: self, "graph": self.graph, "synchronize": lambda device: None,
            "graph_pool_handle": lambda: (0, 1), "default_generators": [self.default], "Stream": lambda device: "side",
            "current_stream": lambda device: SimpleNamespace(device_index=0, name=self.stream),
            "set_stream": lambda stream: setattr(self, "stream", stream.name),
        }  # fmt: skip
        for name, value in cuda.items():
            monkeypatch.setattr(torch.cuda, name, value)
        monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", self.end, raising=False)
        monkeypatch.setattr(torch._C, "_cuda_releasePool", lambda device, pool: None, raising=False)

    def register_generator_state(self, generator: FakeGenerator) -> None:
        generator.registered = True

    @contextmanager
    def graph(self, graph, pool, stream):
        self.default.registered = self.recording = True
        self.stream, self.collects = stream, gc.isenabled()
        try:
            yield
        finally:
            raise RuntimeError("previous error during capture")

    def end(self, device: int, pool: tuple[int, int]) -> None:
        self.recording = False


def test_a_failed_capture_changes_nothing(monkeypatch, caplog) -> None:
    capture = FailingCapture(monkeypatch)

    def work(x):
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    graphed = Graphed(work, capture.generators)
    graphed._capture(torch.ones(1, 4))
    states = [(g.position, g.registered) for g in [*capture.generators, capture.default]]
    assert states == [(5, False), (7, False), (3, False)]
    assert capture.stream == "main" and not capture.recording
    assert capture.collects is False and gc.isenabled(), "collecting a graph during a capture would invalidate it"
    assert not graphed.possible and "the work cannot be captured: operation not permitted" in caplog.text


@pytest.mark.parametrize("error", [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("CUDA error: unspecified launch failure"),
])  # fmt: skip
def test_out_of_memory_or_a_lost_gpu_in_a_capture_is_raised(monkeypatch, error) -> None:
    capture = FailingCapture(monkeypatch)

    def work(x):
        raise error

    graphed = Graphed(work, capture.generators)
    with pytest.raises(type(error), match=r"Tried to allocate|launch failure"):
        graphed._capture(torch.ones(1, 4))
    assert graphed.possible and capture.stream == "main"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_training_with_a_graph_equals_training_without(tiny) -> None:
    spec = tiny.spec(method="rme", order=3, restarts=2)
    graphed, plain = (tiny.engine(spec, device="cuda") for _ in range(2))
    plain._graphed = None
    for _ in range(WARM_UP + 3):
        a, b = graphed.train_epoch(), plain.train_epoch()
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)
    assert graphed._graphed is not None and len(graphed._graphed.graphs) == 2, "full batches and an epoch's last"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_step_that_cannot_be_captured_runs_without_a_graph(caplog) -> None:
    total = torch.zeros((), device="cuda")

    def step(index):
        total.add_(index.sum().item())
        return total.clone()

    graphed = Graphed(step, [])
    index = torch.ones(1, 4, dtype=torch.int64, device="cuda")
    values = [graphed(index).item() for _ in range(WARM_UP + 3)]
    assert values == [4.0 * (i + 1) for i in range(WARM_UP + 3)]
    assert caplog.text.count("cannot be captured") == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_device_works_after_a_failed_capture() -> None:
    generator = torch.Generator("cuda").manual_seed(3)
    here = torch.cuda.current_stream()

    def step(x):
        noise = torch.randn(4, device="cuda", generator=generator)
        return x * x.sum().item() + noise

    graphed = Graphed(step, [generator])
    x = torch.ones(1, 4, device="cuda")
    values = [graphed(x).clone() for _ in range(WARM_UP + 2)]
    assert not graphed.possible and torch.cuda.current_stream() == here
    again = torch.Generator("cuda").manual_seed(3)
    for value in values:
        torch.testing.assert_close(value, 4 + torch.randn(1, 4, device="cuda", generator=again))
    torch.rand(3, device="cuda")  # the default generator's
    large = torch.empty(64 << 20, device="cuda")
    del large
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() - torch.cuda.memory_allocated() < 64 << 20, "freed memory is returned"
    fine = Graphed(lambda y: y * 2, [])
    for _ in range(WARM_UP + 2):
        assert fine(x).sum().item() == 8
    assert fine.graphs


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_graphs_work_after_another_is_destroyed() -> None:
    """Destroying a graph frees the workspaces of its stream, which no other graph may use."""
    weight = torch.randn(256, 256, device="cuda")
    x = torch.randn(64, 256, device="cuda")
    kept, gone = Graphed(lambda y: y @ weight, []), Graphed(lambda y: y @ weight.mT, [])
    for _ in range(WARM_UP + 1):
        kept(x), gone(x)
    del gone
    gc.collect()
    torch.testing.assert_close(kept(x), x @ weight)
