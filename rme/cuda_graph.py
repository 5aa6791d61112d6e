"""Work on a GPU, such as a training step, as one CUDA graph: recorded once, then launched whole."""

from __future__ import annotations

import gc
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from rme.memory import is_out_of_memory

T = TypeVar("T")

log = logging.getLogger(__name__)

WARM_UP = 3
"""Calls before one is captured: in them kernels are chosen, and libraries allocate what they keep."""


class Graphed(Generic[T]):
    """`work`, launched as a CUDA graph once it has been done `WARM_UP` times on an input of the same shape.

    The first times, and all of them where capture is impossible, which is logged once, go launch by launch. What is
    returned is overwritten by the next call. Raises what the work raises, and what says that memory is used up, also
    where that happens in a capture.

    Args:
        work: from a tensor on the device to a result; everything else that it reads or changes stays in place.
        generators: all that it draws from, on the device.
    """

    def __init__(self, work: Callable[[Tensor], T], generators: Sequence[torch.Generator]) -> None:
        self.work = work
        self.generators = list(generators)
        self.calls: Counter[torch.Size] = Counter()
        self.graphs: dict[torch.Size, tuple[torch.cuda.CUDAGraph, Tensor, T]] = {}
        self.possible = True
        self._stream: torch.cuda.Stream | None = None
        self._pool: Any = None

    def __call__(self, x: Tensor) -> T:
        shape = x.shape
        if shape not in self.graphs and self.possible and self.calls[shape] >= WARM_UP:
            self._capture(x)
        if shape not in self.graphs:
            self.calls[shape] += 1
            return self._aside(x)
        graph, static_x, result = self.graphs[shape]
        static_x.copy_(x)
        graph.replay()
        return result

    def _side(self, device: torch.device) -> torch.cuda.Stream:
        """The one stream of all warm-ups and captures, since torch keeps freed memory and workspaces by stream.

        No other graph has it: destroying one frees the workspaces of its stream.
        """
        if self._stream is None:
            self._stream = torch.cuda.Stream(device)
        return self._stream

    def _aside(self, x: Tensor) -> T:
        """Once on the stream that a capture will have."""
        here, side = torch.cuda.current_stream(x.device), self._side(x.device)
        side.wait_stream(here)
        with torch.cuda.stream(side):
            result = self.work(x)
        here.wait_stream(side)
        return result

    def _capture(self, x: Tensor) -> None:
        graph = torch.cuda.CUDAGraph()
        static_x = x.clone()
        # an epoch's last batch shares its memory with the whole ones: they never run at the same time
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        side = self._side(x.device)
        torch.cuda.synchronize(x.device)
        try:
            with _undone_if_broken(x.device, self._pool, self.generators), _no_garbage_collection():
                # without this, a replay would draw the numbers of the capture again
                for generator in self.generators:
                    graph.register_generator_state(generator)
                with torch.cuda.graph(graph, pool=self._pool, stream=side):
                    result = self.work(static_x)
        except Exception as error:
            self._pool = None
            # the first error says why; those after it only that the capture was broken off
            first = error
            while isinstance(first.__context__, Exception):
                first = first.__context__
            if is_out_of_memory(first):
                raise first from None
            self.possible = False
            reason = str(first).strip().splitlines()[0]
            log.warning("what follows runs launch by launch: it cannot be captured in a CUDA graph: %s", reason)
            return
        self.graphs[x.shape] = graph, static_x, result


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """A graph that is collected while another is captured invalidates the capture."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def _undone_if_broken(device: torch.device, pool: Any, generators: Sequence[torch.Generator]) -> Iterator[None]:
    """After a capture that broke off, puts right what torch leaves: the stream, the generators, the allocator."""
    here = torch.cuda.current_stream(device)
    drawn_from = [torch.cuda.default_generators[here.device_index], *generators]
    states = [generator.clone_state() for generator in drawn_from]
    try:
        yield
    except Exception:
        torch.cuda.set_stream(here)
        # states that the capture registered are never released, and would refuse to be drawn from
        for generator, state in zip(drawn_from, states, strict=True):
            generator.graphsafe_set_state(state)
        # where torch did not get so far itself: else the allocator takes it that the capture goes on
        with suppress(RuntimeError):
            torch._C._cuda_endAllocateToPool(here.device_index, pool)
            torch._C._cuda_releasePool(here.device_index, pool)
        raise
