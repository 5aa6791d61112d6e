"""A process of `bench.stages.packing`: `python -m bench.stages.packing_child DEVICE MEMBERS` trains an array of VAEs.

It prints a line when it is warm. For each line of seconds on its input it trains for so long, and prints what it did.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from bench import models
from bench.harness import prepare
from rme.cuda_graph import WARM_UP
from rme.evaluate import synchronise
from tune.cost.measure import EngineStep

STEPS_AT_ONCE = 16
"""Steps before the process waits for the device; without waiting it could launch steps for many seconds ahead."""


def main(device_name: str, members: str) -> None:
    """Serve until the input ends."""
    device = torch.device(device_name)
    prepare(device)
    run = models.spec("vae")
    step = EngineStep(run, models.image_shape(run), device, int(members))
    for _ in range(WARM_UP + 2):
        step()
    synchronise(device)
    print("warm", flush=True)
    for line in sys.stdin:
        print(json.dumps({**trained(step, float(line), device), "members": int(members)}), flush=True)


def trained(step: Callable[[], object], seconds: float, device: torch.device) -> dict[str, Any]:
    """Make steps for at least so many seconds: how many, and in how many seconds."""
    at_once = STEPS_AT_ONCE if device.type == "cuda" else 1
    steps, elapsed = 0, 0.0
    began = time.perf_counter()
    while elapsed < seconds:
        for _ in range(at_once):
            step()
        synchronise(device)
        steps += at_once
        elapsed = time.perf_counter() - began
    return {"steps": steps, "seconds": elapsed}


if __name__ == "__main__":
    main(*sys.argv[1:])
