"""`--members auto`: how many runs are trained as one array, by what a member's step costs in larger and larger ones."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress

import torch

from rme import data
from rme.checkpoint import write_atomically
from rme.config import RunSpec
from tune.cost.hours import StepTimes
from tune.store.storage import Storage

log = logging.getLogger(__name__)

GAIN = 0.05
"""What part of a member's step a doubled array must save to be worth its memory, and the longer wait for a result."""

MEMORY = 0.5
"""Part of a device's memory beyond which an array is not doubled: the double would not fit."""


def measured(
    runs: Iterable[RunSpec], storage: Storage, device: torch.device, keep: bool = True
) -> Callable[[RunSpec], int]:
    """For a run, how many runs of its cell to train as one array on this device.

    For each kind of training the array is doubled while that makes a member's step faster by `GAIN` and memory allows.
    What was chosen is kept on the storage (unless not `keep`): a sweep that goes on must find its arrays as they were.
    """
    chosen = _read(storage)
    largest: dict[str, RunSpec] = {}
    seeds: dict[str, int] = {}
    cells: dict[str, set[int]] = {}
    for spec in runs:
        cells.setdefault(spec.cell_key, set()).add(spec.seed)
        name = kind(spec)
        seeds[name] = max(seeds.get(name, 1), len(cells[spec.cell_key]))
        if name not in largest or spec.dim > largest[name].dim:
            largest[name] = spec
    missing = [name for name in largest if name not in chosen]
    if missing:
        times = StepTimes(device)
        for name in missing:
            chosen[name] = _best(largest[name], seeds[name], times)
            log.info("%s: arrays of %d runs", name, chosen[name])
        times.save()
        if keep:
            _write(storage, chosen)
    return lambda spec: chosen[kind(spec)]


def kind(spec: RunSpec) -> str:
    """What decides how large an array should be, readable."""
    shape = "x".join(map(str, data.get(spec.dataset).shape))
    array = f"restarts {spec.restarts} batch {spec.batch_size} {spec.precision}"
    return f"{spec.plain_label} {spec.decoder} {shape} {array}"


def _best(spec: RunSpec, seeds: int, times: StepTimes) -> int:
    if not spec.training_epochs:
        return 1  # runs are scored one by one
    runs, cost = 1, times.member_step(spec, spec.restarts)
    while 2 * runs <= seeds and _room(times.device):
        try:
            doubled = times.member_step(spec, 2 * runs * spec.restarts)
        except (torch.OutOfMemoryError, MemoryError):
            break
        if doubled > (1 - GAIN) * cost:
            break
        runs, cost = 2 * runs, doubled
    return runs


def _room(device: torch.device) -> bool:
    if device.type != "cuda":
        return True
    total = torch.cuda.get_device_properties(device).total_memory
    return torch.cuda.max_memory_reserved(device) <= MEMORY * total


def _read(storage: Storage) -> dict[str, int]:
    with suppress(OSError, ValueError):
        return json.loads(storage.arrays_file.read_text())
    return {}


def _write(storage: Storage, chosen: dict[str, int]) -> None:
    storage.check_writable()
    write_atomically(storage.arrays_file, lambda path: path.write_text(json.dumps(chosen, indent=1) + "\n"))
