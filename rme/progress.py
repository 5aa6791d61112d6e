"""A progress bar for a run on its own in a terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from rme.config import RunSpec
from rme.engine import Engine


@contextmanager
def epoch_bar(spec: RunSpec) -> Iterator[Callable[[Engine], None]]:
    """Epochs done and to go, and the best validation ELBO so far, on standard error."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("epochs"),
        TimeRemainingColumn(), TextColumn("{task.fields[elbo]}"),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(spec.run_name, total=spec.training_epochs, elbo="")

        def advance(engine: Engine) -> None:
            elbo = engine.history.val_elbo[-1].max().item()
            bar.update(task, completed=engine.epoch)
            if not math.isnan(elbo):
                bar.update(task, elbo=f"val ELBO {elbo:.1f}")

        yield advance
