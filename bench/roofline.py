"""How close training steps come to the device's peak: its fastest float32 matrix product and its memory bandwidth.

The peak is measured here, interleaved with the steps; on a GPU the product runs in TF32. A step's roofline is the
longer of two times at the peak: of its FLOPs and of its memory traffic (bench.flops).
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch

from bench import flops, models
from bench.harness import Row, Settings, compare, main, print_columns, timed
from bench.steps import EngineStep
from rme import nets
from rme.config import RunSpec


@dataclass(frozen=True)
class Peak:
    """The device's peak: float32 operations per second (TF32 on CUDA) and bytes per second."""

    operations: float
    bandwidth: float

    def seconds(self, cost: flops.Cost) -> float:
        """Seconds at the peak: the roofline."""
        return max(cost.flops / self.operations, cost.bytes / self.bandwidth)


def peak_meter(device: torch.device) -> Callable[[], Peak]:
    """A function that measures the current peak."""
    side, entries = (8192, 2**28) if device.type == "cuda" else (1024, 2**26)
    a, b, product = (torch.rand(side, side, device=device) for _ in range(3))
    source = torch.rand(entries, device=device)
    target = torch.empty_like(source)

    def multiply() -> None:
        before, torch.backends.cuda.matmul.allow_tf32 = torch.backends.cuda.matmul.allow_tf32, True
        torch.mm(a, b, out=product)
        torch.backends.cuda.matmul.allow_tf32 = before

    multiplying, copying = timed(multiply, device), timed(lambda: target.copy_(source), device)
    return lambda: Peak(2 * side**3 / multiplying(), 2 * source.nbytes / copying())


def measured_peak(device: torch.device, *, quick: bool = False) -> Peak:
    """The median of a few measurements."""
    meter = peak_meter(device)
    meter()
    found = [meter() for _ in range(3 if quick else 9)]
    return Peak(statistics.median(p.operations for p in found), statistics.median(p.bandwidth for p in found))


def step_seconds_at(peak: Peak, run: RunSpec, shape: nets.ImageShape) -> float | None:
    """Seconds of a member's training step at the peak; None if `bench.flops` has no cost of the method."""
    cost = flops.step_cost(run, shape)
    return None if cost is None else peak.seconds(cost)


def roofline_row(run: RunSpec, members: int, settings: Settings, meter: Callable[[], Peak]) -> Row | None:
    """A training step against its roofline, in ms per member's step; None if `bench.flops` lacks the method."""
    cost = flops.step_cost(run, settings.image_shape)
    if cost is None:
        return None
    step = timed(EngineStep(run, settings.image_shape, settings.device, members), settings.device)
    name = f"{run.method_label} step" + (f", {members} together" if members > 1 else "")
    (row,) = compare(
        name, lambda: step() / members, {"its roofline": lambda: meter().seconds(cost)}, rounds=settings.rounds
    )
    return replace(row, roofline=row.ratio)


def rows(settings: Settings) -> Iterator[Row]:
    """For each method and array size a row; at the end prints the peak and what each step needs."""
    meter = peak_meter(settings.device)
    meter()
    details = []
    for method, order in settings.methods:
        run = models.spec(method, order, dataset=settings.dataset, dim=settings.dim)
        for members in settings.members:
            row = roofline_row(run, members, settings, meter)
            if row is None:
                continue
            yield row
            cost = flops.step_cost(run, settings.image_shape)
            assert cost is not None
            reached = cost.flops / row.median_ms * 1e-6
            details.append((
                row.name, f"{cost.flops / 1e9:.3g}", f"{cost.bytes / 1e6:.3g}", f"{cost.flops / cost.bytes:.0f}",
                f"{reached:.3g}",
            ))  # fmt: skip
    peak = measured_peak(settings.device, quick=settings.quick)
    title = f"Peak: {peak.operations / 1e9:.4g} GFLOP/s, {peak.bandwidth / 1e9:.3g} GB/s"
    print_columns(title, ("a member's step", "GFLOP", "MB", "FLOP/byte", "GFLOP/s reached"), details)


if __name__ == "__main__":
    main(rows, __doc__, methods="all", quick_methods="vae,sa:2,iaf:4,rme:2,rme:5")
