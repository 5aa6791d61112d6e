"""Measures how time and memory grow with an array's members, RME's order, the latent dimension and the data set.

Times are of a training step divided by the members, in ms, compared with the smallest case of each series. Memory is
the increase to its peak: on a CPU of resident memory in a fresh process, on a GPU of torch's allocations. The hours of
`--grid paper` by data set, on one and on several such devices, are estimated from a step of each method.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
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
from rme import data, evaluate, noise
from rme.config import RunSpec
from tune.cost import hours as estimate
from tune.plan.grid import load
from tune.plan.trials import trials, with_parents

DIMS = (10, 20, 50, 100)
DATASETS = ("mnist", "cifar10", "celeba")
"""One of each of Tables 1-3; OMNIGLOT has MNIST's network, SVHN has CIFAR10's."""
SEEDS_PER_TRIAL = 2
"""A sweep's default."""


# ---------------------------------------------------------------------- time
Series = dict[str, tuple[RunSpec, int]]
"""Cases by name: a run and the members of its array. Each is compared with the first."""


def all_series(settings: Settings) -> Iterator[Series]:
    """The series of members, orders, dims and data sets."""
    base = {"dataset": settings.dataset, "dim": settings.dim}
    for method, order in settings.methods:
        run = models.spec(method, order, **base)
        yield {f"{run.method_label}, {n} together": (run, n) for n in sorted({1, *settings.members})}
    orders = (None, 2, 5) if settings.quick else (None, 2, 3, 4, 5)
    of_order = [models.spec("vae" if o is None else "rme", o, **base) for o in orders]
    yield {run.method_label: (run, 1) for run in of_order}
    for method, order in settings.methods:
        dims = (DIMS[0], DIMS[-1]) if settings.quick else DIMS
        of_dim = [models.spec(method, order, dataset=settings.dataset, dim=dim) for dim in dims]
        yield {f"{run.method_label}, dim {run.dim}": (run, 1) for run in of_dim}
        if not settings.quick:
            of_set = [models.spec(method, order, dataset=name, dim=settings.dim) for name in DATASETS]
            yield {f"{run.method_label}, {run.dataset}": (run, 1) for run in of_set}


def rows(settings: Settings) -> Iterator[Row]:
    """The time comparisons of all series."""
    for series in all_series(settings):
        yield from growth_rows(settings, series)


def growth_rows(settings: Settings, series: Series) -> list[Row]:
    """Compare each case of a series with the first, in ms per member's step; the rival is the first."""

    def timer(run: RunSpec, members: int) -> Timer:
        step = timed(EngineStep(run, models.image_shape(run), settings.device, members), settings.device)
        return lambda: step() / members

    timers = {name: timer(*one) for name, one in series.items()}
    (first, base), *others = timers.items()
    found = compare(first, base, dict(others), rounds=settings.rounds)
    return [Row(r.rival, r.name, r.rival_median_ms, r.median_ms, 1 / r.ratio, r.spread, None) for r in found]


# ---------------------------------------------------------------------- memory
@dataclass(frozen=True)
class MemoryCase:
    """An array whose memory is measured: fields of `models.spec`, and its members."""

    fields: dict[str, Any]
    members: int

    @property
    def name(self) -> str:
        label = models.spec(**self.fields).method_label
        return f"{label}, {self.fields['dataset']}, dim {self.fields['dim']}, {self.members} together"


def memory_cases(settings: Settings) -> list[MemoryCase]:
    """The cases of all series, each once."""
    base = {"dataset": settings.dataset, "dim": settings.dim}
    cases: list[MemoryCase] = []
    for method, order in settings.methods:
        kind = {"method": method, "order": order}
        cases += [MemoryCase({**kind, **base}, n) for n in sorted({1, *settings.members})]
        if not settings.quick:
            cases += [MemoryCase({**kind, **base, "dim": dim}, 1) for dim in DIMS]
            cases += [MemoryCase({**kind, **base, "dataset": name}, 1) for name in DATASETS]
    if not settings.quick:
        cases += [MemoryCase({"method": "rme", "order": o, **base}, 1) for o in (2, 3, 4, 5)]
        cases.append(MemoryCase({"method": "rme", "order": 5, "dataset": "celeba", "dim": 100}, 6))
    return list({case.name: case for case in cases}.values())


def peaks(case: MemoryCase, device: torch.device) -> tuple[float, float]:
    """Peak memory in MiB of training, and of IWAE scoring."""
    arguments = {**case.fields, "members": case.members}
    if device.type == "cuda":
        return _cuda_peaks(device, **arguments)
    with Child("bench.growth", "peak_memory", arguments) as child:
        training, iwae = child.first
    return training, iwae


def memory(settings: Settings) -> Iterator[dict[str, Any]]:
    """Name, training_mib and iwae_mib of each case."""
    for case in memory_cases(settings):
        training, iwae = peaks(case, settings.device)
        yield {"name": case.name, "training_mib": training, "iwae_mib": iwae}


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
@cache
def paper_arrays() -> dict[str, list[tuple[RunSpec, ...]]]:
    """The runs of each trial of `--grid paper`, by data set in the grid's order."""
    arrays: dict[str, list[tuple[RunSpec, ...]]] = {}
    for trial in trials(with_parents(load("paper").runs), SEEDS_PER_TRIAL):
        arrays.setdefault(trial.runs[0].dataset, []).append(trial.runs)
    return arrays


def paper_hours(device: torch.device, dataset: str) -> float:
    """Hours of the data set's part of `--grid paper` on one device."""
    return sum(estimate.hours(paper_arrays()[dataset], device).values())


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    settings, path = parse(
        __doc__, methods="vae,rme:5", members="1,2,4,8", dim=50, quick_methods="vae", quick_members="1,2", argv=argv
    )
    prepare(settings.device)
    # memory first, so that a GPU's peaks are of one model at a time
    found_memory = list(memory(settings))
    found = list(rows(settings))
    print_table(f"A member's training step, {settings.dataset}, dim {settings.dim}", found)
    hours = None
    if not settings.quick:
        hours = {data.label(dataset): paper_hours(settings.device, dataset) for dataset in paper_arrays()}
    print_columns("", *memory_table(found_memory))
    if hours is not None:
        print_columns("", *hours_table(hours))
    if path is not None:
        write_json(path, settings.device, found, memory=found_memory, paper_hours=hours)


if __name__ == "__main__":
    main()
