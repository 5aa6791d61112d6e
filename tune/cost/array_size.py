"""`--members auto`: measures how many runs to train as one array, from a member's step time in arrays of that size."""

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
from tune.cost.progress import progress
from tune.store.storage import Storage

log = logging.getLogger(__name__)

GAIN = 0.05
"""The fraction of a member's step time that doubling an array must save. Less is not worth the memory and the wait."""

MEMORY = 0.5
"""An array that uses more than this fraction of a device's memory is not doubled, because twice that does not fit."""


def measured(
    runs: Iterable[RunSpec], storage: Storage, device: torch.device, keep: bool = True
) -> Callable[[RunSpec], int]:
    """A function that returns how many runs of a run's cell to train as one array on this device.

    For each kind of training, the array is doubled while that makes a member's step faster by `GAIN` and memory allows.
    With `keep`, the sizes are kept on the storage, so that a resumed sweep uses the same arrays.
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
        with progress("measuring array sizes", len(missing)) as advance:
            for name in missing:
                chosen[name] = _best(largest[name], seeds[name], times)
                log.info("%s: arrays of %d runs", name, chosen[name])
                advance()
        if keep:
            _write(storage, chosen)
    return lambda spec: chosen[kind(spec)]


def kind(spec: RunSpec) -> str:
    """A readable name of the settings that decide how large an array should be."""
    shape = "x".join(map(str, data.get(spec.dataset).shape))
    array = f"restarts {spec.restarts} batch {spec.batch_size} {spec.precision}"
    return f"{spec.plain_label} {spec.decoder} {shape} {array}"


def _best(spec: RunSpec, seeds: int, times: StepTimes) -> int:
    if not spec.training_epochs:
        return 1  # runs are scored one by one
    runs, cost = 1, times.member_step(spec, spec.restarts)
    while 2 * runs <= seeds and _has_room(times.device):
        try:
            doubled = times.member_step(spec, 2 * runs * spec.restarts)
        except (torch.OutOfMemoryError, MemoryError):
            break
        if doubled > (1 - GAIN) * cost:
            break
        runs, cost = 2 * runs, doubled
    return runs


def _has_room(device: torch.device) -> bool:
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
