"""Shows a running sweep's progress: a live display in a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import statistics
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
from tune.plan.trials import Trial
from tune.run.protocol import Outcome
from tune.run.schedule import Entry, Schedule, State

LINES_EVERY_S = 30.0
"""Interval between plain progress lines."""

SCORES = 5
"""How many of the latest scores are shown, if there is room."""

FAILURES = 4
"""How many of the latest failures are shown."""


@dataclass
class _Progress:
    """A trial's latest report.

    Attributes:
        since: when its worker started, on the monotonic clock.
        epoch, val_elbo: as in `Outcome`.
        seconds: of training so far, over all workers.
        began_s: those of them before this worker started: by an earlier sweep, or by a worker that died.
    """

    since: float
    epoch: int = 0
    val_elbo: float | None = None
    seconds: float = 0.0
    began_s: float | None = None


class Display:
    """The display of one sweep. Its methods may be called from any of the driver's threads.

    Args:
        schedule: the trials and their states.
        done_before: number of runs that were finished before the sweep started.
        console: where to print; None: standard error.
    """

    def __init__(self, schedule: Schedule, done_before: int, console: Console | None = None) -> None:
        self.schedule = schedule
        self.done_before = done_before
        self.console = console or Console(stderr=True)
        self.running: dict[str, _Progress] = {}
        self.pace = _Pace()
        self.scores: deque[str] = deque(maxlen=SCORES)
        self.failures: list[str] = []
        self._lock = threading.Lock()
        self._line_due = 0.0

    # ------------------------------------------------------------------ events
    def started(self, key: str) -> None:
        with self._lock:
            self.running[key] = _Progress(time.monotonic())
        self._line(f"started    {self.schedule.entries[key].trial.name}")

    def progressed(self, key: str, outcome: Outcome) -> None:
        with self._lock:
            progress = self.running.setdefault(key, _Progress(time.monotonic()))
            progress.epoch, progress.seconds = outcome.epoch, outcome.seconds
            progress.val_elbo = outcome.val_elbo
            if progress.began_s is None:
                progress.began_s = max(0.0, progress.seconds - (time.monotonic() - progress.since))
            if progress.epoch:
                self.pace.trained(self.schedule.entries[key], progress.seconds / progress.epoch)
        if time.monotonic() >= self._line_due:
            self._line_due = time.monotonic() + LINES_EVERY_S
            self._line(self.summary())

    def left_to_another(self, trial: Trial) -> None:
        """Another sweep on the same storage is training it."""
        with self._lock:
            self.running.pop(trial.key, None)
        self._line(f"elsewhere  {trial.name}: another sweep is training it; waiting for its result")

    def ended(self, trial: Trial) -> None:
        with self._lock:
            progress = self.running.pop(trial.key, None)
            if progress is not None and progress.began_s is not None:
                overhead = time.monotonic() - progress.since - (progress.seconds - progress.began_s)
                self.pace.ended(self.schedule.entries[trial.key], max(0.0, overhead))

    def failed(self, spec: RunSpec, reason: str) -> None:
        with self._lock:
            self.failures.append(f"{spec.run_name}: {reason}")
        self._line(f"FAILED     {spec.run_name}: {reason}")

    def recorded(self, spec: RunSpec, metrics: dict[str, float]) -> None:
        if "test/iwae" in metrics:
            text = f"{spec.run_name}: test {metrics['test/iwae']:.1f}, validation {metrics['val/iwae']:.1f} nats (IWAE)"
        else:
            ms, sd = metrics["time/inference_ms"], metrics["time/inference_ms_sd"]
            text = f"{spec.run_name}: {ms:.2f} ms a batch (sd {sd:.2f}), {metrics['time/ratio_to_vae']:.2f} times VAE"
        with self._lock:
            self.scores.append(text)
        self._line(f"finished   {text}")

    # ------------------------------------------------------------------ output
    @contextmanager
    def live(self) -> Iterator[None]:
        """Show the display while the block runs, with log messages above it."""
        handler: logging.Handler = RichHandler(console=self.console, show_time=False, show_path=False, show_level=False)
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
        """One line: number of runs by state, speed, and estimated time left."""
        return " | ".join(filter(None, (self._counts(), self._speed())))

    def _counts(self) -> str:
        count = self.schedule.count
        with self._lock:
            # a trial that Ray has, but has not started yet, counts as waiting
            running = sum(len(self.schedule.entries[key].trial.runs) for key in self.running)
        waiting = count(State.WAITING) + count(State.RUNNING) - running
        parts = [f"{self.done_before + count(State.DONE):,} done", f"{running} running", f"{waiting:,} waiting"]
        others = [state for state in State if state not in (State.DONE, State.RUNNING, State.WAITING)]
        return "runs: " + ", ".join(parts + [f"{count(state)} {state}" for state in others if count(state)])

    def _speed(self) -> str:
        with self._lock:
            trials = [(self.schedule.entries[key].trial, progress) for key, progress in self.running.items()]
        moving = [(trial, progress) for trial, progress in trials if progress.seconds and progress.epoch]
        if not moving:
            return ""
        epochs = sum(trial.members * p.epoch / p.seconds for trial, p in moving)
        members = sum(trial.members * p.epoch / p.seconds / trial.runs[0].training_epochs for trial, p in moving)
        text = f"{_rate(members, 'members')} ({epochs:,.1f} member-epochs/s)"
        left = self.seconds_left()
        return text + (f" | {_duration(left)} to go" if left is not None else "")

    def seconds_left(self) -> float | None:
        """Estimated seconds until the sweep ends, from measured times of epochs; None before the first.

        Cells of which no trial has run yet are estimated from those that have, in proportion to FLOPs. The estimate is
        the work left, divided by the number of running trials, but no less than the longest of these needs.
        """
        with self._lock:
            if not self.pace.known or not self.running:
                return None
            work = longest = 0.0
            overhead = self.pace.overhead_s
            for key, entry in self.schedule.entries.items():
                if entry.state not in (State.WAITING, State.RUNNING):
                    continue
                done = self.running[key].epoch if key in self.running else 0
                epochs = entry.trial.runs[0].training_epochs
                seconds = self.pace.seconds(entry, epochs - done) + (overhead if epochs else 0.0)
                work += seconds
                longest = max(longest, seconds if key in self.running else 0.0)
            return max(work / len(self.running), longest)

    def _render(self) -> Group:
        """The live display, which always fits into the terminal: the number of hidden trials and failures is shown."""
        wide = self.console.width >= 100
        bar_width = 24 if wide else 10
        with self._lock:
            failures = self.failures[-min(FAILURES, 1 + self.console.height // 8) :]
            more_failures = len(self.failures) - len(failures)
            running = list(self.running.items())
            scores = list(self.scores)
        lines = [_line(self._counts(), "bold")]
        if speed := self._speed():
            lines.append(_line(speed, "bold"))
        room = self.console.height - len(lines) - len(failures) - bool(more_failures) - 2
        if len(running) + len(scores) > room:
            scores = scores[-2:] if room > 8 else []
        shown = running if len(running) + len(scores) <= room else running[: max(1, room - len(scores) - 1)]
        table = Table.grid(padding=(0, 2), expand=True)
        table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        for width in (bar_width, None, None):
            table.add_column(width=width, no_wrap=True, justify="left" if width else "right")
        for key, progress in shown:
            trial = self.schedule.entries[key].trial
            epochs = trial.runs[0].training_epochs
            bar = ProgressBar(total=epochs, completed=progress.epoch, width=bar_width)
            elbo = "" if progress.val_elbo is None else f"{'val ' if wide else ''}ELBO {progress.val_elbo:.1f}"
            done = f"{progress.epoch}/{epochs}{' epochs' if wide else ''}" if epochs else "scoring"
            table.add_row(trial.name, bar if epochs else "", done, elbo)
        parts: list[Any] = [*lines, table]
        if len(shown) < len(running):
            parts.append(_line(f"and {len(running) - len(shown)} more trials", "dim"))
        parts += [_line(f"  {text}", "dim") for text in scores]
        if more_failures:
            parts.append(_line(f"  {more_failures} failures before these", "red"))
        parts += [_line(f"  failed: {text}", "red") for text in failures]
        return Group(*parts)

    def _line(self, text: str) -> None:
        if not self.console.is_terminal:
            self.console.print(text, markup=False, highlight=False, soft_wrap=True)


class _Pace:
    """Estimates how long trials take, from measured times.

    A trial's kind is its cell and its number of members. Its overhead is the time that it takes besides its epochs.
    """

    def __init__(self) -> None:
        self.known: dict[tuple, float] = {}
        """Seconds per epoch, by kind."""
        self._per_work: dict[tuple, float] = {}
        """Seconds of a whole training per unit of its trial's work, by kind."""
        self._scales: dict[str, float] = {}
        """Cached results of `_scale`."""
        self._overhead: dict[str, float] = {}
        """Seconds, by trial."""
        self._untrained: dict[str, float] = {}
        """Seconds per unit of a trial's work, by method, for methods without training."""

    def trained(self, entry: Entry, epoch_s: float) -> None:
        kind = entry.trial.kind
        self.known[kind] = epoch_s
        if entry.work > 0:
            self._per_work[kind] = epoch_s * entry.trial.runs[0].training_epochs / entry.work
            self._scales.clear()

    def ended(self, entry: Entry, overhead_s: float) -> None:
        """Note a finished trial's overhead (start, scores, files); for a method without training that is all of it."""
        if entry.trial.runs[0].training_epochs:
            self._overhead[entry.trial.key] = overhead_s
        elif entry.work > 0:
            self._untrained[entry.trial.runs[0].method] = overhead_s / entry.work

    @property
    def overhead_s(self) -> float:
        """Mean overhead of the trials with training."""
        return statistics.fmean(self._overhead.values()) if self._overhead else 0.0

    def seconds(self, entry: Entry, epochs: int) -> float:
        """Estimated seconds of this many epochs; of the whole trial if its method has no training.

        Needs at least one measured kind.
        """
        spec = entry.trial.runs[0]
        if not spec.training_epochs:
            scale = self._untrained.get(spec.method, self._scale(spec.method) if self._per_work else 0.0)
            return scale * entry.work
        epoch_s = self.known.get(entry.trial.kind)
        if epoch_s is None:
            if self._per_work:
                epoch_s = self._scale(spec.method) * entry.work / spec.training_epochs
            else:
                epoch_s = max(self.known.values())
        return epochs * epoch_s

    def _scale(self, method: str) -> float:
        """Seconds per unit of work: of the same method if measured, because its steps are similarly efficient."""
        if method not in self._scales:
            same = [value for (cell, _), value in self._per_work.items() if cell[0] == method]
            self._scales[method] = statistics.fmean(same or self._per_work.values())
        return self._scales[method]


def _line(text: str, style: str) -> Text:
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


def _rate(per_second: float, what: str) -> str:
    """A rate per s, min or h: the first of these in which it is at least 1."""
    seconds, unit = next(((s, u) for s, u in ((1, "s"), (60, "min")) if per_second * s >= 1), (3600, "h"))
    return f"{per_second * seconds:,.1f} {what}/{unit}"


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    if minutes < 1:
        return f"{seconds:.0f} s"
    if minutes < 90:
        return f"{minutes:.0f} min"
    return f"{minutes / 60:.1f} h" if minutes < 48 * 60 else f"{minutes / 1440:.1f} days"
