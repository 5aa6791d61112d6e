"""The disks of a sweep: whether it will fit, said when it starts, and the stop before one is full."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from analysis.tracking_uri import sqlite_path
from rme.config import RunSpec
from tune.cost.disk import checkpoint_bytes, recorded_bytes, result_bytes, sweep_bytes
from tune.plan.trials import Trial
from tune.run.machine import available
from tune.run.options import Options
from tune.run.stopping import Stopping
from tune.store.space import Place, SpaceWatch, by_disk, free_bytes, size
from tune.store.storage import Storage, StorageError

FULL = 1
"""The exit status of a sweep that stops because a disk is nearly full."""

MARGIN = 16 << 20
"""Bytes of every reserve for what is not counted, such as Ray's own files and a database's journal."""

ON_A_CLUSTER = 16
"""How many trials of a cluster, whose size is unknown, are assumed to run at once."""


def places(options: Options, storage: Storage, trials: Sequence[Trial], to_record: Sequence[RunSpec]) -> list[Place]:
    """Where the sweep will write how much, one place for each disk.

    Args:
        options: of the sweep.
        storage: its storage.
        trials: which it will train.
        to_record: further runs that it will only record.
    """
    arrays = [trial.runs for trial in trials]
    at_once = trials_at_once(options, len(trials))
    saving = sorted((checkpoint_bytes(runs) + sum(map(result_bytes, runs)) for runs in arrays), reverse=True)
    found = [
        Place(
            f"--storage {storage.root}", storage.root, sweep_bytes(arrays, at_once), sum(saving[:at_once]) + MARGIN
        )
    ]  # fmt: skip
    path = None if options.inline else sqlite_path(options.tracking_uri)
    if path is not None:
        runs = [*(spec for each in arrays for spec in each), *to_record]
        found.append(Place(f"MLflow's {path}", path.parent, sum(map(recorded_bytes, runs)), MARGIN))
    return by_disk(found)


def trials_at_once(options: Options, count: int) -> int:
    """How many of `count` trials may run at once: an upper limit, as GPUs are not counted."""
    if options.inline:
        return min(1, count)
    if options.resources.address is not None:
        return min(ON_A_CLUSTER, count)
    return min(max(1, available()["cpu"] // options.resources.cpus), count)


def watch(
    options: Options,
    storage: Storage,
    trials: Sequence[Trial],
    to_record: Sequence[RunSpec],
    stopping: Stopping,
    say: Callable[[str], object],
) -> SpaceWatch:
    """Say whether the sweep will not fit on a disk. Returns a watch, not entered yet, that stops it before one is full.

    Arguments as of `places`; `say` prints a line. Raises StorageError if a disk has less free space than the watch
    keeps free.
    """
    found = places(options, storage, trials, to_record)
    for place in found:
        free = free_bytes(place.folder)
        if free < place.reserve:
            raise StorageError(
                f"{place.named}: {size(free)} are free, and saving the trainings that run at once needs "
                f"{size(place.reserve)}; free space, or name a folder on another disk"
            )
        if free < place.needed:
            say(
                f"the sweep will write about {size(place.needed)} to {place.named}, and {size(free)} are free; it "
                "stops before the disk is full, and the same command resumes"
            )
    return SpaceWatch(found, say, lambda reason: stopping.request(FULL, reason))
