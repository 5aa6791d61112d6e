"""What a sweep shows while it runs: one live display in a terminal, plain lines elsewhere."""

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
from tune.plan.grid import Trial
from tune.run.protocol import Outcome
from tune.run.schedule import Entry, Schedule, State

LINES_EVERY_S = 30.0
"""Pace of the plain progress lines."""


SCORES = 5
"""How many of the last scores are shown, where there is room."""

FAILURES = 4
"""How many of the last failures are shown."""


@dataclass
class _Progress:
    """A trial's latest report.

    Attributes:
        since: when its worker was started, on the monotonic clock.
        began_s: seconds of training that were behind it then, in another driver or before its worker died.
    """

    since: float
    epoch: int = 0
    val_elbo: float | None = None
    seconds: float = 0.0
    began_s: float | None = None


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
        self.pace = _Pace()
        self.scores: deque[str] = deque(maxlen=SCORES)
        self.failures: list[str] = []
        self._lock = threading.Lock()
        self._line_due = 0.0

    # ------------------------------------------------------------------ what happens
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
                besides = time.monotonic() - progress.since - (progress.seconds - progress.began_s)
                self.pace.ended(self.schedule.entries[trial.key], max(0.0, besides))

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

    # ------------------------------------------------------------------ what is shown
    @contextmanager
    def live(self) -> Iterator[None]:
        """Show it while the block runs; what is logged meanwhile stands above it."""
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
        """One line: runs by state, speed and the time to go."""
        return " | ".join(filter(None, (self._counts(), self._speed())))

    def _counts(self) -> str:
        count = self.schedule.count
        with self._lock:
            # what Ray was given and has no room for yet is waiting still
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
        """From the epochs' measured times; None before the first.

        A kind of cell that has not run yet is scaled from those that have, by its counted work. The trials that are
        under way share what is left, but the longest of them ends no sooner for that.
        """
        with self._lock:
            if not self.pace.known or not self.running:
                return None
            work = longest = 0.0
            besides = self.pace.besides_s
            for key, entry in self.schedule.entries.items():
                if entry.state not in (State.WAITING, State.RUNNING):
                    continue
                done = self.running[key].epoch if key in self.running else 0
                epochs = entry.trial.runs[0].training_epochs
                seconds = self.pace.seconds(entry, epochs - done) + (besides if epochs else 0.0)
                work += seconds
                longest = max(longest, seconds if key in self.running else 0.0)
            return max(work / len(self.running), longest)

    def _render(self) -> Group:
        """Never higher than the terminal, and no line wider: what does not fit is counted, not shown."""
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
    """Measured seconds of an epoch by kind of cell, and of what a trial does besides training."""

    def __init__(self) -> None:
        self.known: dict[tuple, float] = {}
        """Seconds of an epoch."""
        self._per_work: dict[tuple, float] = {}
        """Seconds of a whole training, for a unit of its trial's counted work."""
        self._scales: dict[str, float] = {}
        """By method what `_per_work` says of its other kinds, forgotten when it says something new."""
        self._besides: dict[str, float] = {}
        self._untrained: dict[str, float] = {}
        """By method that trains nothing, seconds for a unit of its trials' counted work."""

    def trained(self, entry: Entry, epoch_s: float) -> None:
        kind = entry.trial.kind
        self.known[kind] = epoch_s
        if entry.work > 0:
            self._per_work[kind] = epoch_s * entry.trial.runs[0].training_epochs / entry.work
            self._scales.clear()

    def ended(self, entry: Entry, besides_s: float) -> None:
        """A trial spent so long on its start, its scores and its files: for one that trains nothing, that is all."""
        if entry.trial.runs[0].training_epochs:
            self._besides[entry.trial.key] = besides_s
        elif entry.work > 0:
            self._untrained[entry.trial.runs[0].method] = besides_s / entry.work

    @property
    def besides_s(self) -> float:
        """What a trial takes besides its epochs, on average."""
        return statistics.fmean(self._besides.values()) if self._besides else 0.0

    def seconds(self, entry: Entry, epochs: int) -> float:
        """Of so many epochs of a trial; needs one kind that is known. Of one that trains nothing, of all of it."""
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
        """Seconds for a unit of work: of the same method if possible, for steps of one method waste alike."""
        if method not in self._scales:
            same = [value for (cell, _), value in self._per_work.items() if cell[0] == method]
            self._scales[method] = statistics.fmean(same or self._per_work.values())
        return self._scales[method]


def _line(text: str, style: str) -> Text:
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


def _rate(per_second: float, what: str) -> str:
    """In the shortest unit of time in which it is one at least."""
    seconds, unit = next(((s, u) for s, u in ((1, "s"), (60, "min")) if per_second * s >= 1), (3600, "h"))
    return f"{per_second * seconds:,.1f} {what}/{unit}"


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    if minutes < 1:
        return f"{seconds:.0f} s"
    if minutes < 90:
        return f"{minutes:.0f} min"
    return f"{minutes / 60:.1f} h" if minutes < 48 * 60 else f"{minutes / 1440:.1f} days"
