"""Measures how time and memory grow with an array's members, RME's order, the latent dimension and the data set.

Times are of a training step divided by the members, in ms, compared with the smallest case of each series. Memory is
the increase to its peak: on a CPU of resident memory in a fresh process, on a GPU of torch's allocations. The hours of
`--grid paper` by data set, on one and on several such devices, are estimated from a step of each method.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from bench import models
from bench.child import Child
from bench.harness import (
    Row,
    Settings,
    Timer,
    compare,
    parse,
    prepare,
    print_columns,
    print_table,
    timed,
    write_json,
)  # fmt: skip
from bench.steps import EngineStep
from bench.table import hours_table, memory_table
from rme import evaluate, noise

DIMS = (10, 20, 50, 100)
DATASETS = ("mnist", "cifar10", "celeba")
"""One of each of Tables 1-3; OMNIGLOT has MNIST's network, SVHN has CIFAR10's."""
SEEDS_PER_TRIAL = 2
"""A sweep's default."""


# ---------------------------------------------------------------------- time
def rows(settings: Settings) -> Iterator[Row]:
    """The time comparisons of all series: members, orders, dims, data sets."""
    base = {"dataset": settings.dataset, "dim": settings.dim}
    for method, order in settings.methods:
        label = models.spec(method, order, **base).method_label
        sizes = sorted({1, *settings.members})
        yield from _series(settings, {f"{label}, {n} together": (models.spec(method, order, **base), n) for n in sizes})
    orders = (None, 2, 5) if settings.quick else (None, 2, 3, 4, 5)
    of_order = [models.spec("vae" if o is None else "rme", o, **base) for o in orders]
    yield from _series(settings, {run.method_label: (run, 1) for run in of_order})
    for method, order in settings.methods:
        dims = (DIMS[0], DIMS[-1]) if settings.quick else DIMS
        of_dim = [models.spec(method, order, dataset=settings.dataset, dim=dim) for dim in dims]
        yield from _series(settings, {f"{run.method_label}, dim {run.dim}": (run, 1) for run in of_dim})
        if not settings.quick:
            of_set = [models.spec(method, order, dataset=name, dim=settings.dim) for name in DATASETS]
            yield from _series(settings, {f"{run.method_label}, {run.dataset}": (run, 1) for run in of_set})


def _series(settings: Settings, series: dict[str, tuple[Any, int]]) -> list[Row]:
    """Compare each case of a series with the first; name -> (run, members)."""

    def timer(run: Any, members: int) -> Timer:
        step = timed(EngineStep(run, models.image_shape(run), settings.device, members), settings.device)
        return lambda: step() / members

    timers = {name: timer(*one) for name, one in series.items()}
    (first, base), *others = timers.items()
    found = compare(first, base, dict(others), rounds=settings.rounds)
    # exchanged, so that the ratio is a case's time divided by the first's
    return [Row(r.rival, r.name, r.rival_median_ms, r.median_ms, 1 / r.ratio, r.spread, None) for r in found]


# ---------------------------------------------------------------------- memory
def memory(settings: Settings) -> Iterator[dict[str, Any]]:
    """Peak memory in MiB of training and of IWAE scoring, for each case of all series."""
    base = {"dataset": settings.dataset, "dim": settings.dim}
    cases: list[tuple[dict[str, Any], int]] = []
    for method, order in settings.methods:
        kind = {"method": method, "order": order}
        cases += [({**kind, **base}, n) for n in sorted({1, *settings.members})]
        if not settings.quick:
            cases += [({**kind, **base, "dim": dim}, 1) for dim in DIMS]
            cases += [({**kind, **base, "dataset": name}, 1) for name in DATASETS]
    if not settings.quick:
        cases += [({"method": "rme", "order": o, **base}, 1) for o in (2, 3, 4, 5)]
        cases.append(({"method": "rme", "order": 5, "dataset": "celeba", "dim": 100}, 6))
    seen = []
    for values, members in cases:
        if (values, members) in seen:
            continue
        seen.append((values, members))
        arguments = {**values, "members": members}
        if settings.device.type == "cpu":
            with Child("bench.growth", "peak_memory", arguments) as child:
                training, iwae = child.first
        else:
            training, iwae = _cuda_peaks(settings.device, **arguments)
        label = models.spec(**values).method_label
        name = f"{label}, {values['dataset']}, dim {values['dim']}, {members} together"
        yield {"name": name, "training_mib": training, "iwae_mib": iwae}


def peak_memory(**arguments: Any) -> Callable[[], tuple[float, float]]:
    """A function that measures by how many MiB training, then scoring, increases a fresh process's resident memory."""

    def work() -> tuple[float, float]:
        before = _resident("VmRSS")
        train, score = _work(torch.device("cpu"), **arguments)
        train()
        training = _resident("VmHWM") - before
        score()
        return training, _resident("VmHWM") - before

    return work


def _cuda_peaks(device: torch.device, **arguments: Any) -> tuple[float, float]:
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(device)
    peaks = []
    for part in _work(device, **arguments):
        torch.cuda.reset_peak_memory_stats(device)
        part()
        peaks.append((torch.cuda.max_memory_allocated(device) - before) / 2**20)
    return peaks[0], peaks[1]


def _work(device: torch.device, members: int, **arguments: Any) -> tuple[Callable[[], Any], Callable[[], Any]]:
    run = models.spec(**arguments)
    step = EngineStep(run, models.image_shape(run), device, members)

    def train() -> None:
        for _ in range(3):
            step()

    def score() -> None:
        generators = [noise.generator(i, 0, noise.EVALUATE, device) for i in range(members)]
        index = step.index[:, : evaluate.BLOCK]
        evaluate.scores(step.engine.method, step.engine.pixels, index, samples=run.iwae_samples, generators=generators)

    return train, score


def _resident(what: str) -> float:
    """Resident memory in MiB from /proc/self/status: VmRSS (now) or VmHWM (peak). NaN on systems without this file."""
    # not getrusage, whose peak includes that of the parent process
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return float("nan")
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(what))


# ---------------------------------------------------------------------- the paper's grid
def paper_hours(device: torch.device) -> dict[str, float] | None:
    """Hours of `--grid paper` on one device by data set; None if the sweep's packages are not installed."""
    try:
        from tune.cost import hours as estimate
        from tune.plan.grid import load
        from tune.plan.trials import trials, with_parents
    except ModuleNotFoundError as error:
        print(f"no hours of the paper's grid: {error}", file=sys.stderr)
        return None
    by_cell = estimate.hours([t.runs for t in trials(with_parents(load("paper").runs), SEEDS_PER_TRIAL)], device)
    total: dict[str, float] = {}
    for (dataset, _), hours in by_cell.items():
        total[dataset] = total.get(dataset, 0.0) + hours
    return total


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    settings, path = parse(
        __doc__, methods="vae,rme:5", members="1,2,4,8", dim=50, quick_methods="vae", quick_members="1,2", argv=argv
    )
    prepare(settings.device)
    # memory first, so that a GPU's peaks are of one model at a time
    peaks = list(memory(settings))
    found = list(rows(settings))
    print_table(f"A member's training step, {settings.dataset}, dim {settings.dim}", found)
    hours = None if settings.quick else paper_hours(settings.device)
    print_columns("", *memory_table(peaks))
    if hours is not None:
        print_columns("", *hours_table(hours))
    if path is not None:
        write_json(path, settings.device, found, memory=peaks, paper_hours=hours)


if __name__ == "__main__":
    main()
