"""What a sweep shows while it runs: one live display in a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.logging import RichHandler
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rme.config import RunSpec
from tune.grid import Trial
from tune.schedule import Schedule, State

LINES_EVERY_S = 30.0
"""Pace of the plain progress lines."""


@dataclass
class _Progress:
    """A trial's latest report, and when its first came."""

    since: float
    first_epoch: int | None = None
    epoch: int = 0
    val_elbo: float | None = None
    seconds: float = 0.0


class Display:
    """Follows a sweep. Its methods are called from the driver's threads.

    Args:
        schedule: the trials and how they stand.
        done_before: runs that were done already.
    """

    def __init__(self, schedule: Schedule, done_before: int, console: Console | None = None) -> None:
        self.schedule = schedule
        self.done_before = done_before
        self.console = console or Console(stderr=True)
        self.running: dict[str, _Progress] = {}
        self.pace: dict[tuple, float] = {}
        self.scores: deque[str] = deque(maxlen=6)
        self.failures: list[str] = []
        self._lock = threading.Lock()
        self._line_due = 0.0

    # ------------------------------------------------------------------ what happens
    def started(self, key: str) -> None:
        with self._lock:
            self.running[key] = _Progress(time.monotonic())
        self._line(f"started    {self.schedule.entries[key].trial.name}")

    def progressed(self, key: str, report: dict[str, Any]) -> None:
        with self._lock:
            progress = self.running.setdefault(key, _Progress(time.monotonic()))
            progress.epoch = int(report["epoch"])
            progress.val_elbo = report.get("val_elbo")
            progress.seconds = float(report["seconds"])
            if progress.epoch:
                self.pace[_kind(self.schedule.entries[key].trial)] = progress.seconds / progress.epoch
        if time.monotonic() >= self._line_due:
            self._line_due = time.monotonic() + LINES_EVERY_S
            self._line(self.summary())

    def ended(self, trial: Trial) -> None:
        with self._lock:
            self.running.pop(trial.key, None)

    def failed(self, spec: RunSpec, reason: str) -> None:
        with self._lock:
            self.failures.append(f"{spec.run_name}: {reason}")
        self._line(f"FAILED     {spec.run_name}: {reason}")

    def recorded(self, spec: RunSpec, metrics: dict[str, float]) -> None:
        text = f"{spec.run_name}: test {metrics['test/iwae']:.1f}, validation {metrics['val/iwae']:.1f} nats (IWAE)"
        with self._lock:
            self.scores.append(text)
        self._line(f"finished   {text}")

    # ------------------------------------------------------------------ what is shown
    @contextmanager
    def live(self) -> Iterator[None]:
        """Show it while the block runs; what is logged meanwhile stands above it."""
        handler: logging.Handler = RichHandler(console=self.console, show_path=False, show_level=False)
        root = logging.getLogger()
        if not self.console.is_terminal:
            handler = logging.StreamHandler()
            handler.setFormatter(logging.Formatter("%(message)s"))
        handler.setLevel(logging.WARNING)
        root.addHandler(handler)
        try:
            if self.console.is_terminal:
                with Live(get_renderable=self._render, console=self.console, refresh_per_second=2, transient=True):
                    yield
            else:
                yield
        finally:
            root.removeHandler(handler)

    def summary(self) -> str:
        """One line: runs by state, speed and the time to go."""
        count = self.schedule.count
        with self._lock:
            # what Ray was given and has no room for yet is waiting still
            running = sum(len(self.schedule.entries[key].trial.runs) for key in self.running)
            waiting = count(State.WAITING) + count(State.RUNNING) - running
            parts = [f"{self.done_before + count(State.DONE)} done", f"{running} running", f"{waiting} waiting"]
            parts += [f"{count(state)} {state}" for state in (State.FAILED, State.SKIPPED) if count(state)]
            speed = sum(
                self.schedule.entries[key].trial.members * p.epoch / p.seconds
                for key, p in self.running.items()
                if p.seconds
            )
        line = "runs: " + ", ".join(parts)
        if speed:
            line += f" | {speed:.1f} member-epochs/s"
        left = self.seconds_left()
        return line + (f" | {_duration(left)} to go" if left is not None else "")

    def seconds_left(self) -> float | None:
        """From the epochs' measured times, by kind of cell; a kind not met yet is taken for the slowest so far."""
        with self._lock:
            if not self.pace or not self.running:
                return None
            slowest = max(self.pace.values())
            work = 0.0
            for key, entry in self.schedule.entries.items():
                if entry.state in (State.WAITING, State.RUNNING):
                    done = self.running[key].epoch if key in self.running else 0
                    epochs = entry.trial.runs[0].training_epochs - done
                    work += epochs * self.pace.get(_kind(entry.trial), slowest)
            return work / len(self.running)

    def _render(self) -> Group:
        table = Table.grid(padding=(0, 2))
        with self._lock:
            for key, progress in self.running.items():
                trial = self.schedule.entries[key].trial
                epochs = trial.runs[0].training_epochs
                elbo = "" if progress.val_elbo is None else f"val ELBO {progress.val_elbo:.1f}"
                bar = ProgressBar(total=epochs, completed=progress.epoch, width=24)
                table.add_row(trial.name, bar, f"{progress.epoch}/{epochs} epochs", elbo)
            scores = [Text(f"  {line}", style="dim") for line in self.scores]
            failures = [Text(f"  failed: {line}", style="red") for line in self.failures[-4:]]
        return Group(Text(self.summary(), style="bold"), table, *scores, *failures)

    def _line(self, text: str) -> None:
        if not self.console.is_terminal:
            self.console.print(text, markup=False, highlight=False, soft_wrap=True)


def _kind(trial: Trial) -> tuple:
    spec = trial.runs[0]
    return spec.cell_key, trial.members


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
