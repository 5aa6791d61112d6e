"""Time of training steps: the engine's against plain eager PyTorch, and arrays against one model at a time.

On a CPU the plain step runs twice: with the engine's allocator settings, and "as it comes", in a separate process with
glibc's defaults.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from bench import models
from bench.child import Child
from bench.harness import Row, Settings, Timer, check_close, compare, main, timed
from bench.roofline import measured_peak, step_seconds_at
from bench.steps import EngineStep, PlainStep, check_same_steps, has_plain
from rme.config import RunSpec


def rows(settings: Settings) -> Iterator[Row]:
    """For each method: rows against its plain steps, and for each array size rows against one model at a time."""
    peak = measured_peak(settings.device, quick=settings.quick)
    for method, order in settings.methods:
        run = models.spec(method, order, dataset=settings.dataset, dim=settings.dim)
        roofline_s = step_seconds_at(peak, run, settings.image_shape)
        if has_plain(run):
            yield from _against_plain(run, settings, roofline_s)
            if settings.device.type == "cpu":
                yield from _against_default_settings(run, settings, roofline_s)
        for members in settings.members:
            if members > 1:
                yield from array_rows(run, members, settings, roofline_s, plain=True)


def _against_plain(run: RunSpec, settings: Settings, roofline_s: float | None) -> list[Row]:
    ours = EngineStep(run, settings.image_shape, settings.device)
    theirs = PlainStep(ours.engine)
    rival = "plain eager, same allocator" if settings.device.type == "cpu" else "plain eager"
    return compare(
        f"{run.method_label} step",
        timed(ours, settings.device),
        {rival: timed(theirs, settings.device)},
        rounds=settings.rounds,
        equal=lambda: check_same_steps(ours, theirs),
        roofline_s=roofline_s,
    )


def _against_default_settings(run: RunSpec, settings: Settings, roofline_s: float | None) -> list[Row]:
    """Each in a separate process, because allocator settings hold for a whole process."""
    arguments = {"method": run.method, "order": run.order, "dataset": settings.dataset, "dim": run.dim}
    with (
        Child("bench.steps", "engine_step", arguments) as ours,
        Child("bench.steps", "plain_step", arguments, keep_freed_memory=False) as theirs,
    ):

        def equal() -> None:
            losses = torch.tensor(ours.first)[:, 0]
            check_close("losses of the first step", losses, torch.tensor(theirs.first), rtol=1e-5, atol=0)

        return compare(
            f"{run.method_label} step",
            ours,
            {"plain eager, as it comes": theirs},
            rounds=settings.rounds,
            equal=equal,
            roofline_s=roofline_s,
        )


def array_rows(
    run: RunSpec,
    members: int,
    settings: Settings,
    roofline_s: float | None = None,
    *,
    plain: bool = False,
) -> list[Row]:
    """An array against one model at a time, in ms per member's step.

    One at a time each member would take a single model's step, so one model is timed: launch by launch (eager), on CUDA
    also as a graph, and with `plain` its step in plain modules, if `bench.plain` has it. The losses of the first step
    of the first and the last member must agree with those of the models alone; otherwise DifferentError.
    """
    device, shape = settings.device, settings.image_shape
    array = EngineStep(run, shape, device, members)
    eager = EngineStep(run, shape, device)
    eager.engine._graphed = None
    alone = {"one at a time, eager": eager}
    if device.type == "cuda" and members > 1:
        alone["one at a time, as a graph"] = EngineStep(run, shape, device)
    steps: dict[str, Callable[[], Tensor]] = {**alone}
    if plain and has_plain(run):
        steps["one at a time, plain eager"] = PlainStep(eager.engine)

    def equal() -> None:
        rtol = 1e-5 if device.type == "cpu" else 2e-3  # TF32
        together = array()
        last = EngineStep(run, shape, device, first=members - 1)()
        check_close("losses of the last member", last[:, 0], together[:, -1], rtol=rtol, atol=0)
        for name, step in steps.items():
            losses = step().reshape(len(together), -1)
            check_close(f"losses, {name}", losses[:, 0], together[:, 0], rtol=rtol, atol=0)

    return compare(
        f"{run.method_label}, {members} together",
        _per_member(timed(array, device), members),
        {name: timed(step, device) for name, step in steps.items()},
        rounds=settings.rounds,
        equal=equal,
        roofline_s=roofline_s,
    )


def _per_member(timer: Timer, members: int) -> Timer:
    return lambda: timer() / members


if __name__ == "__main__":
    main(rows, __doc__, methods="vae,sa:4,iaf:4,hf:4,me:5,rme:2,rme:5", members="6",
         quick_methods="vae,rme:5", quick_members="1")  # fmt: skip
