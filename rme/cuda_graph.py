"""Runs repeated GPU work, such as a training step, as a CUDA graph: captured once, then replayed as one launch."""

from __future__ import annotations

import gc
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from rme.device import is_lost
from rme.errors import first_line
from rme.memory import is_out_of_memory

T = TypeVar("T")

log = logging.getLogger(__name__)

WARM_UP = 3
"""Calls before the capture, in which the fastest kernels are chosen and libraries allocate their workspaces."""


class Graphed(Generic[T]):
    """`work`, replayed as a CUDA graph after `WARM_UP` ordinary calls with an input of the same shape.

    If the capture fails, a warning is logged once and all calls stay ordinary. The next call overwrites the returned
    tensors. Raises what `work` raises, and during capture an error that means out of memory or a lost GPU.

    Args:
        work: from a tensor on the device to a result; all else that it reads or changes must stay at its address.
        generators: all generators that it draws from, on the device.
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
            return self._without_graph(x)
        graph, static_x, result = self.graphs[shape]
        static_x.copy_(x)
        graph.replay()
        return result

    def _side(self, device: torch.device) -> torch.cuda.Stream:
        """The stream of this object's warm-ups and captures; torch reuses freed memory and workspaces per stream.

        Other `Graphed` objects must not share it: destroying a graph frees the workspaces of its stream.
        """
        if self._stream is None:
            self._stream = torch.cuda.Stream(device)
        return self._stream

    def _without_graph(self, x: Tensor) -> T:
        """An ordinary call, on the stream of the later capture."""
        here, side = torch.cuda.current_stream(x.device), self._side(x.device)
        side.wait_stream(here)
        with torch.cuda.stream(side):
            result = self.work(x)
        here.wait_stream(side)
        return result

    def _capture(self, x: Tensor) -> None:
        graph = torch.cuda.CUDAGraph()
        static_x = x.clone()
        # graphs of full batches and of an epoch's last one share a memory pool: they never run at the same time
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        side = self._side(x.device)
        torch.cuda.synchronize(x.device)
        try:
            with _restored_on_failure(x.device, self._pool, self.generators), _no_garbage_collection():
                # without this, each replay would repeat the random numbers of the capture
                for generator in self.generators:
                    graph.register_generator_state(generator)
                with torch.cuda.graph(graph, pool=self._pool, stream=side):
                    result = self.work(static_x)
        except Exception as error:
            self._pool = None
            # the first error is the reason; later ones only say that the capture was interrupted
            first = error
            while isinstance(first.__context__, Exception):
                first = first.__context__
            if is_out_of_memory(first) or is_lost(first):
                raise first from None
            self.possible = False
            reason = first_line(first)
            log.warning("continuing without a CUDA graph, because the work cannot be captured: %s", reason)
            return
        self.graphs[x.shape] = graph, static_x, result


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Disable garbage collection: collecting a graph while another is captured would invalidate the capture."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def _restored_on_failure(device: torch.device, pool: Any, generators: Sequence[torch.Generator]) -> Iterator[None]:
    """If the capture fails, restore what torch does not: the current stream, the generators and the allocator."""
    here = torch.cuda.current_stream(device)
    drawn_from = [torch.cuda.default_generators[here.device_index], *generators]
    states = [generator.clone_state() for generator in drawn_from]
    try:
        yield
    except Exception:
        torch.cuda.set_stream(here)
        # torch never releases the states that the capture registered, and drawing from them would raise
        for generator, state in zip(drawn_from, states, strict=True):
            generator.graphsafe_set_state(state)
        # without this the allocator may treat the capture as still running; raises if torch has already ended it
        with suppress(RuntimeError):
            torch._C._cuda_endAllocateToPool(here.device_index, pool)
            torch._C._cuda_releasePool(here.device_index, pool)
        raise
