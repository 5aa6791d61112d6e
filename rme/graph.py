"""Work on a GPU, such as a training step, as one CUDA graph: recorded once, then launched whole."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

log = logging.getLogger(__name__)

WARM_UP = 3
"""Calls before one is captured: in them kernels are chosen, and optimisers allocate what they keep."""


class Graphed(Generic[T]):
    """`work`, launched as a CUDA graph once it has been done `WARM_UP` times on an input of the same shape.

    The first times, and all of them where capture is impossible, which is logged once, go launch by launch. What is
    returned is overwritten by the next call.

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

    def _aside(self, x: Tensor) -> T:
        """Once on a stream of its own, as a capture will make it."""
        here, side = torch.cuda.current_stream(x.device), torch.cuda.Stream(x.device)
        side.wait_stream(here)
        with torch.cuda.stream(side):
            result = self.work(x)
        here.wait_stream(side)
        return result

    def _capture(self, x: Tensor) -> None:
        graph = torch.cuda.CUDAGraph()
        static_x = x.clone()
        streams = [generator.clone_state() for generator in self.generators]
        # without this, a replay would draw the numbers of the capture again
        for generator in self.generators:
            graph.register_generator_state(generator)
        torch.cuda.synchronize(x.device)
        try:
            with torch.cuda.graph(graph):
                result = self.work(static_x)
        except Exception as error:
            self.possible = False
            # a capture that broke off never releases the states it registered, and they would refuse to be drawn from
            for generator, stream in zip(self.generators, streams, strict=True):
                generator.graphsafe_set_state(stream)
            reason = str(error).strip().splitlines()[0]
            log.warning("what follows runs launch by launch: it cannot be captured in a CUDA graph: %s", reason)
            return
        self.graphs[x.shape] = graph, static_x, result
