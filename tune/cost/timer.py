"""Times work on a device: CPU time on a CPU, CUDA events on a GPU. Imports only torch."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

Timer = Callable[[], float]
"""Does the work and returns how long one repetition took, in seconds."""

SAMPLE_S = 0.02
"""Short work is repeated until a sample takes this many seconds, so that reading the clock does not matter."""

WARM_UPS = {"cpu": 1, "cuda": 6}
"""Untimed repetitions before the first sample; on CUDA, kernels are chosen and graphs captured during these."""


def timed(work: Callable[[], object], device: torch.device, sample_s: float = SAMPLE_S) -> Timer:
    """A timer of `work`: CPU time of this process on a CPU, time between two events on CUDA.

    CPU time, because the machine may be shared: with one thread it equals the wall time on an idle core. The first
    call determines how often short work is repeated to fill `sample_s`.
    """
    repeats = 0

    def once(times: int) -> float:
        if device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize(device)
            start.record()
            for _ in range(times):
                work()
            end.record()
            end.synchronize()
            return start.elapsed_time(end) / 1e3 / times
        began = time.process_time()
        for _ in range(times):
            work()
        return (time.process_time() - began) / times

    def timer() -> float:
        nonlocal repeats
        if not repeats:
            for _ in range(WARM_UPS[device.type]):
                work()
            seconds = once(1)
            repeats = max(1, min(1000, round(sample_s / max(seconds, 1e-6))))
            if repeats == 1:
                return seconds
        return once(repeats)

    return timer
