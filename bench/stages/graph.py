"""Which steps a GPU captures as CUDA graphs, what a replay costs, and whether the device works after a failed capture.

A CPU has no CUDA graphs, so there this stage has no cases.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from bench import models
from bench.harness import timed
from bench.reference import relative
from bench.stages.case import Case, Check, Number
from bench.stages.named import named
from rme import cuda_graph
from rme.cuda_graph import WARM_UP, Graphed
from tune.cost.measure import EngineStep

METHODS: tuple[tuple[str, int | None], ...] = (
    ("vae", None), ("rme", 3), ("sa", 2), ("iaf", 2), ("hf", 2), ("me", 2), ("bvi-er1", 2), ("bvi-er2", 2), ("vlae", 1),
)  # fmt: skip

MEMBERS = 6
"""Of the captured arrays."""

REPLAYED = (1, 6, 24)
"""Members of the arrays of VAEs whose replay is timed."""

MATRICES = (768, 50, 50)
"""VLAE's precision matrices at dim 50: 6 members of 128 images."""

LINEAR_ALGEBRA = 1e-5
"""Largest relative error of a captured decomposition or solution in float32; on a CPU the largest was 2e-7."""

FREED = 256 << 20
"""Bytes that are allocated and freed after a failed capture."""


def cases(device: torch.device) -> Iterator[Case]:
    """Steps, the device after a failed capture, replays, then single operations."""
    if device.type != "cuda":
        return
    for method, order in METHODS:
        run = models.spec(method, order)
        yield named(f"{run.method_label}, {MEMBERS} members", partial(step_is_captured, run, device))
    yield named("the device after a failed capture", partial(after_failed_capture, device))
    for members in REPLAYED:
        yield named(f"replay of a VAE's step, {members} members", partial(replay, members, device))
    for name, work in OPERATIONS.items():
        yield named(f"{name} of {MATRICES}", partial(operation, work, device))


# ---------------------------------------------------------------------- steps
def step_is_captured(run: Any, device: torch.device) -> list[Check | Number]:
    """Whether an array's step is captured, and the memory that the process reserves for it."""
    gc.collect()  # an engine and its graph refer to each other
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved(device)
    step = _warm(run, MEMBERS, device)
    torch.cuda.synchronize(device)
    reserved = (torch.cuda.memory_reserved(device) - before) / 2**20
    return [
        Check("steps that are not captured", float(not _is_captured(step)), 0.0),
        Number("memory reserved", reserved, "MiB"),
    ]


def _warm(run: Any, members: int, device: torch.device) -> EngineStep:
    step = EngineStep(run, models.image_shape(run), device, members)
    for _ in range(WARM_UP + 1):
        step()
    return step


def _is_captured(step: EngineStep) -> bool:
    graphed = step.engine._graphed
    return graphed is not None and bool(graphed.graphs)


def replay(members: int, device: torch.device) -> list[Check | Number]:
    """The time of a step, of its launch alone, and how many fills set the generators before it.

    Raises RuntimeError if the step is not captured.
    """
    step = _warm(models.spec("vae"), members, device)
    if not _is_captured(step):
        raise RuntimeError("the step was not captured as a CUDA graph")
    seconds = timed(step, device)()
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        step()
    fills = sum(event.count for event in profiled.key_averages() if event.key == "aten::fill_")
    return [
        Number("step", seconds * 1e3, "ms"),
        Number("a member's step", seconds * 1e3 / members, "ms"),
        Number("its launch on the CPU", launch_seconds(step, device) * 1e3, "ms"),
        Number("fills of generators' seeds and offsets", fills, "launches"),
    ]


def launch_seconds(work: Callable[[], object], device: torch.device, repeats: int = 20) -> float:
    """Seconds that the CPU takes to launch `work`, while the device is idle; the shortest of `repeats`."""
    times = []
    for _ in range(repeats):
        torch.cuda.synchronize(device)
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


# ---------------------------------------------------------------------- a failed capture
@contextmanager
def _without_warning() -> Iterator[None]:
    """Suppresses the warning of a capture that fails on purpose."""
    before, cuda_graph.log.disabled = cuda_graph.log.disabled, True
    try:
        yield
    finally:
        cuda_graph.log.disabled = before


def after_failed_capture(device: torch.device) -> list[Check | Number]:
    """Fails a capture by `item()`, then checks streams, generators, allocator and the next capture."""
    generator, again = (torch.Generator(device).manual_seed(3) for _ in range(2))
    here = torch.cuda.current_stream(device)

    def work(x: Tensor) -> Tensor:
        return x * x.sum().item() + torch.randn(4, device=device, generator=generator)

    graphed = Graphed(work, [generator])
    x = torch.ones(1, 4, device=device)
    with _without_warning():
        values = torch.stack([graphed(x).clone() for _ in range(WARM_UP + 2)])
    expected = torch.stack([4 + torch.randn(1, 4, device=device, generator=again) for _ in values])
    failed, stream = not graphed.possible, torch.cuda.current_stream(device)
    torch.rand(3, device=device)  # by the default generator; raises if the capture still holds it
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved(device)
    large = torch.empty(FREED, dtype=torch.uint8, device=device)
    del large
    torch.cuda.empty_cache()
    kept = max(0, torch.cuda.memory_reserved(device) - before)
    doubled = Graphed(lambda y: y * 2, [])
    results = [doubled(x).sum().item() for _ in range(WARM_UP + 2)]
    return [
        Check("captures with item() that did not fail", float(not failed), 0.0),
        Check("current streams that were replaced", float(stream != here), 0.0),
        Check("results and draws of the calls, against ordinary ones", (values - expected).abs().max().item(), 1e-6),
        Check("freed memory that is not returned, MiB", kept / 2**20, 0.0),
        Check("later captures that failed", float(not doubled.graphs), 0.0),
        Check("the later graph's results, against ordinary ones", max(abs(r - 8) for r in results), 0.0),
    ]


# ---------------------------------------------------------------------- operations
def _cholesky(a: Tensor) -> Tensor:
    return torch.linalg.cholesky_ex(a).L


def _triangular(a: Tensor) -> Tensor:
    return torch.linalg.solve_triangular(a.tril(), torch.ones_like(a[..., :1]), upper=False)


def _solve(a: Tensor) -> Tensor:
    return torch.cholesky_solve(torch.ones_like(a[..., :1]), a.tril())


OPERATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "cholesky_ex": _cholesky, "solve_triangular": _triangular, "cholesky_solve": _solve,
}  # fmt: skip
"""VLAE uses the first two; of cholesky_solve only some releases of torch can be captured."""


def operation(work: Callable[[Tensor], Tensor], device: torch.device) -> list[Check | Number]:
    """Whether an operation on matrices (n, p, p) is captured, its result, and its time."""
    exact = positive_definite(MATRICES)
    a = exact.to(device, torch.float32)
    graphed = Graphed(work, [])
    for _ in range(WARM_UP + 1):
        found = graphed(a)
    return [
        Number("captured", float(bool(graphed.graphs)), "of 1"),
        Check("result against float64, relative", relative(found.cpu().double(), work(exact)), LINEAR_ALGEBRA),
        Number("time", timed(lambda: graphed(a), device)() * 1e3, "ms"),
    ]


def positive_definite(shape: tuple[int, int, int]) -> Tensor:
    """Random symmetric matrices (n, p, p) in float64 on the CPU, as VLAE's W'W / s^2 + I."""
    w = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return w.mT @ w + torch.eye(shape[-1], dtype=torch.float64)
