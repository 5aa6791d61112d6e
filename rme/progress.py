"""A progress bar in the terminal for a single run."""

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
    """A bar on standard error with the epochs done and the latest validation ELBO, of the best member.

    Yields the function to call after each epoch.
    """
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
