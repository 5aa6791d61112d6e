"""What the driver does with a grid's images before any worker starts."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from rme import data
from rme.config import RunSpec
from tune.plan.grid import Grid
from tune.run.doing import say
from tune.run.options import Options
from tune.store.storage import Storage


def needs_images(options: Options, grid: Grid, storage: Storage) -> bool:
    """Whether a sweep trains on the grid's images: a run has no result on the storage yet."""
    return not options.record and not all(storage.has_result(spec.key) for spec in grid.runs)


def prepare_images(grid: Grid, data_dir: Path, console: Console) -> None:
    """Make the runs' data sets available, and check those that are a user's own; prints warnings.

    They are checked for each batch size that trains on them. Raises DataError.
    """
    by_name: dict[str, dict[int, RunSpec]] = {}
    for spec in grid.runs:
        by_name.setdefault(spec.dataset, {}).setdefault(spec.batch_size, spec)
    for name, by_batch_size in by_name.items():
        dataset = data.get(name)
        dataset.prepare(data_dir)
        if not (dataset.users_own and grid.kind.trains):
            continue
        images = dataset.load(data_dir)
        found = [warning for spec in by_batch_size.values() for warning in data.check(dataset, images, spec)]
        for warning in dict.fromkeys(found):
            say(console, warning, "yellow")
