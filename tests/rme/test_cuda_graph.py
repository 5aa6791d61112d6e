"""What a CUDA graph needs of a training step, shown without a GPU; and the graph itself where there is one."""

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
    """Raises where a program on a GPU would wait for the device: to read a value, or for a size that depends on one."""

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


def test_the_watch_on_synchronisation_sees_one() -> None:
    with pytest.raises(AssertionError, match="waits"), NoHostSynchronisation():
        torch.ones(1).item()
    with pytest.raises(AssertionError, match="waits"), NoHostSynchronisation():
        _ = torch.ones(3)[torch.tensor([True, False, True])]


def test_a_step_never_waits_for_the_device(engines) -> None:
    engine = engines[0]
    with NoHostSynchronisation():
        engine.train_step(engine.train_index[:, :8])


class Recording(TorchDispatchMode):
    """The operations of a program, repeated as a CUDA graph does it: each on the same memory as the first time."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        self.calls.append((function, args, kwargs or {}, out))  # held, so that no memory is used twice
        return out

    @torch.no_grad()
    def replay(self) -> None:
        for function, args, kwargs, out in self.calls:
            again = function(*args, **kwargs)
            for kept, value in zip(tree_leaves(out), tree_leaves(again), strict=True):
                if isinstance(kept, Tensor) and kept.data_ptr() != value.data_ptr():  # else a view, or done in place
                    kept.copy_(value)


def test_a_step_recorded_once_and_repeated_is_a_training(engines) -> None:
    """The operations of one step, replayed on other images: nothing in a step may come from Python's state."""
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


class Stream:
    """A generator as far as a capture needs one: what has registered its state no longer draws outside of a capture."""

    device_index = 0

    def __init__(self, position: int) -> None:
        self.position, self.registered = position, False

    def clone_state(self) -> Stream:
        return Stream(self.position)

    def graphsafe_set_state(self, other: Stream) -> None:
        self.position, self.registered = other.position, other.registered


class Capture:
    """What torch leaves after a capture that broke off: a stream, the states of generators, an open memory pool."""

    def __init__(self, monkeypatch) -> None:
        self.streams, self.default = [Stream(5), Stream(7)], Stream(3)
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

    def register_generator_state(self, stream: Stream) -> None:
        stream.registered = True

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


def test_all_is_as_before_after_a_capture_that_broke_off(monkeypatch, caplog) -> None:
    capture = Capture(monkeypatch)

    def work(x):
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    graphed = Graphed(work, capture.streams)
    graphed._capture(torch.ones(1, 4))
    states = [(s.position, s.registered) for s in [*capture.streams, capture.default]]
    assert states == [(5, False), (7, False), (3, False)]
    assert capture.stream == "main" and not capture.recording
    assert capture.collects is False and gc.isenabled(), "a graph collected during a capture would break it"
    assert not graphed.possible and "cannot be captured in a CUDA graph: operation not permitted" in caplog.text


def test_memory_that_runs_out_in_a_capture_is_said(monkeypatch) -> None:
    capture = Capture(monkeypatch)

    def work(x):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    graphed = Graphed(work, capture.streams)
    with pytest.raises(torch.OutOfMemoryError, match="Tried to allocate"):
        graphed._capture(torch.ones(1, 4))
    assert graphed.possible and capture.stream == "main"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_graph_trains_as_launches_do(tiny) -> None:
    spec = tiny.spec(method="rme", order=3, restarts=2)
    graphed, plain = (tiny.engine(spec, device="cuda") for _ in range(2))
    plain._graphed = None
    for _ in range(WARM_UP + 3):
        a, b = graphed.train_epoch(), plain.train_epoch()
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)
    assert graphed._graphed is not None and len(graphed._graphed.graphs) == 2, "whole batches and an epoch's last"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_step_that_cannot_be_captured_is_made_all_the_same(caplog) -> None:
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
def test_a_device_is_whole_after_a_capture_that_broke_off() -> None:
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
    assert torch.cuda.memory_reserved() - torch.cuda.memory_allocated() < 64 << 20, "freed memory is given back"
    fine = Graphed(lambda y: y * 2, [])
    for _ in range(WARM_UP + 2):
        assert fine(x).sum().item() == 8
    assert fine.graphs


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_graphs_outlive_one_that_is_destroyed() -> None:
    """Destroying one frees the workspaces of its stream, which must not be another's."""
    weight = torch.randn(256, 256, device="cuda")
    x = torch.randn(64, 256, device="cuda")
    kept, gone = Graphed(lambda y: y @ weight, []), Graphed(lambda y: y @ weight.mT, [])
    for _ in range(WARM_UP + 1):
        kept(x), gone(x)
    del gone
    gc.collect()
    torch.testing.assert_close(kept(x), x @ weight)
