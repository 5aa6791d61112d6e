"""Shows a running sweep's progress: a live display in a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import math
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

from analysis.duration import duration
from analysis.words import counted
from rme.config import RunSpec
from tune.plan.trials import Trial
from tune.run.doing import clock, say_at
from tune.run.pace import Pace
from tune.run.protocol import Outcome
from tune.run.schedule import Entry, Schedule, State
from tune.run.stall import patience_s, stall_text

log = logging.getLogger(__name__)

LINES_EVERY_S = 30.0
"""Interval between plain progress lines."""

WATCH_EVERY_S = 2.0
"""Interval at which stalled trials are looked for."""

SCORES = 5
"""How many of the latest scores are shown, if there is room."""

FAILURES = 4
"""How many of the latest failures are shown."""

SEEDS = 3
"""Of how many seeds a trial's validation ELBOs are shown one by one; of more their mean."""


@dataclass
class _Progress:
    """A trial's latest report.

    Attributes:
        since: when its worker started; reported: when it reported last. Both on the monotonic clock.
        epoch, val_elbos: as in `Outcome`.
        seconds: of training so far, over all workers.
        began_s: those of them before this worker started: by an earlier sweep, or by a worker that died.
        stalled: the line about its stall; empty if it reports.
    """

    since: float
    reported: float
    epoch: int = 0
    val_elbos: tuple[float, ...] = ()
    seconds: float = 0.0
    began_s: float | None = None
    stalled: str = ""

    @classmethod
    def new(cls) -> _Progress:
        now = time.monotonic()
        return cls(now, now)


class _Elapsed(logging.Formatter):
    """Formats a log message as the other plain lines: with the time since `began`, on the monotonic clock."""

    def __init__(self, began: float) -> None:
        super().__init__()
        self.began = began

    def format(self, record: logging.LogRecord) -> str:
        return f"{clock(time.monotonic() - self.began)}  {record.getMessage()}"


class Display:
    """The display of one sweep. Its methods may be called from any of the driver's threads.

    Args:
        schedule: the trials and their states.
        done_before: number of runs that were finished before the sweep started.
        console: where to print; None: standard error.
        began: when the command began, on the monotonic clock; None: now.
    """

    def __init__(
        self, schedule: Schedule, done_before: int, console: Console | None = None, began: float | None = None
    ) -> None:
        self.schedule = schedule
        self.done_before = done_before
        self.console = console or Console(stderr=True)
        self.began = time.monotonic() if began is None else began
        self.running: dict[str, _Progress] = {}
        self.saved: dict[str, _Progress] = {}
        """The trials that have saved and ended, because the sweep is stopping."""
        self.pace = Pace()
        self.scores: deque[str] = deque(maxlen=SCORES)
        self.failures: list[str] = []
        self.look_at = "look at `top`"
        """Where a stall's cause can be seen, for the line about it."""
        self._doing = ""
        self._stopping = ""
        self._lock = threading.Lock()
        self._line_due = 0.0
        self._live: Live | None = None

    # ------------------------------------------------------------------ events
    def doing(self, what: str) -> None:
        """Show what the sweep is doing, until a trial starts."""
        self._doing = what
        self._line(what)
        self._refresh()

    def stopping(self, why: str) -> None:
        """Show that the sweep is stopping, until it ends, and how many trials are still saving."""
        self._stopping, self._doing = why, ""
        self._line(f"{why}{self._still_saving()}")
        self._refresh()

    def started(self, key: str) -> None:
        with self._lock:
            self.running[key] = _Progress.new()
        self._doing = ""
        self._line(f"started    {self.schedule.entries[key].trial.name}")

    def progressed(self, key: str, outcome: Outcome) -> None:
        if outcome.stopped:
            self.stopped(key)
            return
        with self._lock:
            progress = self.running.setdefault(key, _Progress.new())
            progress.epoch, progress.seconds = outcome.epoch, outcome.seconds
            progress.val_elbos = outcome.val_elbos or progress.val_elbos
            progress.reported, stalled, progress.stalled = time.monotonic(), progress.stalled, ""
            if progress.began_s is None:
                progress.began_s = max(0.0, progress.seconds - (time.monotonic() - progress.since))
            if progress.epoch:
                self.pace.trained(self.schedule.entries[key], progress.seconds / progress.epoch)
        if stalled:
            log.warning("%s: reports again", self.schedule.entries[key].trial.name)
        if time.monotonic() >= self._line_due:
            self._line_due = time.monotonic() + LINES_EVERY_S
            self._line(self.summary())

    def stopped(self, key: str) -> None:
        """A trial has saved its checkpoint and ended, because the sweep is stopping."""
        with self._lock:
            if (progress := self.running.pop(key, None)) is not None:
                self.saved[key] = progress
        self._line(f"saved      {self.schedule.entries[key].trial.name}{self._still_saving()}")

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

    def check_stalls(self) -> None:
        """Log a warning for each trial that has just stalled (`tune.run.stall`)."""
        with self._lock:
            if self._stopping:
                return
            found = [line for key, progress in self.running.items() if (line := self._stall(key, progress))]
        for line in found:
            log.warning("%s", line)

    def _stall(self, key: str, progress: _Progress) -> str:
        """The line about a trial that has just stalled; empty if it has not, or is known to have."""
        entry = self.schedule.entries[key]
        silent = time.monotonic() - progress.reported
        scoring = progress.epoch >= entry.trial.runs[0].training_epochs
        usual = self.pace.scoring_s(entry) if scoring else self.pace.known.get(entry.trial.kind, 0.0)
        if progress.stalled or silent <= patience_s(progress.epoch > 0, scoring, usual):
            return ""
        progress.stalled = stall_text(entry.trial.name, silent, scoring, usual, self.look_at)
        return progress.stalled

    # ------------------------------------------------------------------ output
    @contextmanager
    def live(self) -> Iterator[None]:
        """Show the display while the block runs, with log messages above it, and look for stalled trials."""
        handler: logging.Handler = RichHandler(console=self.console, show_time=False, show_path=False, show_level=False)
        root = logging.getLogger()
        if not self.console.is_terminal:
            handler = logging.StreamHandler()
            handler.setFormatter(_Elapsed(self.began))
        handler.setLevel(logging.WARNING)
        root.addHandler(handler)
        ended = threading.Event()
        threading.Thread(target=self._watch, args=(ended,), name="stalls", daemon=True).start()
        try:
            if self.console.is_terminal:
                shown = Live(get_renderable=self._render, console=self.console, refresh_per_second=2, transient=True)
                with shown as self._live:
                    yield
            else:
                yield
        finally:
            self._live = None
            ended.set()
            root.removeHandler(handler)

    def _watch(self, ended: threading.Event) -> None:
        while not ended.wait(WATCH_EVERY_S):
            self.check_stalls()

    def _refresh(self) -> None:
        if (shown := self._live) is not None:
            shown.refresh()

    def summary(self) -> str:
        """One line: number of runs by state, speed, and estimated time left."""
        return " | ".join(filter(None, (self._counts(), self._speed(), self._time_left())))

    def _counts(self) -> str:
        count = self.schedule.count
        with self._lock:
            # a trial that Ray has, but has not started yet, counts as waiting
            running = sum(len(self.schedule.entries[key].trial.runs) for key in self.running)
        waiting = count(State.WAITING) + count(State.RUNNING) - running
        parts = [f"{self.done_before + count(State.DONE):,} done", f"{running} running", f"{waiting:,} waiting"]
        others = [state for state in State if state not in (State.DONE, State.RUNNING, State.WAITING)]
        return "runs: " + ", ".join(parts + [f"{count(state)} {state}" for state in others if count(state)])

    def _still_saving(self) -> str:
        with self._lock:
            left = len(self.running)
        return f", {counted(left, 'training')} still saving" if left else ""

    def _speed(self) -> str:
        with self._lock:
            trials = [(self.schedule.entries[key].trial, progress) for key, progress in self.running.items()]
        moving = [(trial, progress) for trial, progress in trials if progress.seconds and progress.epoch]
        if not moving:
            return ""
        epochs = sum(trial.members * p.epoch / p.seconds for trial, p in moving)
        return _rate(epochs, "model-epochs")

    def _time_left(self) -> str:
        """The estimated time to go, in words; empty before the first estimate."""
        left = self.seconds_left()
        if left is None or self._stopping:
            return ""
        with self._lock:
            entries = [(self.schedule.entries[key], progress) for key, progress in self.running.items()]
            scored = self.pace.overhead_s > 0
        if not self.schedule.count(State.WAITING) and all(_scores(entry, progress) for entry, progress in entries):
            return "scoring"
        text = f"{left:.0f} s" if left < 60 else duration(left)
        return f"{text} to go" if scored else f"{text} to go, then scoring"

    def share(self) -> float:
        """The share of the work that is done, 0..1, in FLOPs; of runs that were done before, as an average run's."""
        with self._lock:
            entries = self.schedule.entries
            total = sum(entry.work for entry in entries.values())
            runs = sum(len(entry.runs) for entry in entries.values())
            before = self.done_before * total / runs if runs else 0.0
            done = before
            for key, entry in entries.items():
                if entry.state not in (State.WAITING, State.RUNNING, State.ELSEWHERE):
                    done += entry.work
                elif (progress := self.running.get(key) or self.saved.get(key)) is not None:
                    done += entry.work * progress.epoch / max(1, entry.trial.runs[0].training_epochs)
        return done / (total + before) if total else 1.0

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
                progress = self.running.get(key)
                epochs = entry.trial.runs[0].training_epochs
                after = overhead if epochs else 0.0
                if progress is not None and epochs and _scores(entry, progress):
                    after = max(0.0, after - (time.monotonic() - progress.reported))
                seconds = self.pace.seconds(entry, epochs - (progress.epoch if progress else 0)) + after
                work += seconds
                longest = max(longest, seconds if progress else 0.0)
            return max(work / len(self.running), longest)

    def _render(self) -> Group:
        """The live display, which always fits into the terminal: the number of hidden trials and failures is shown."""
        width, height = self.console.width, self.console.height
        with self._lock:
            failures = self.failures[-min(FAILURES, 1 + height // 12) :]
            more_failures = len(self.failures) - len(failures)
            running = list(self.running.items())
            stalled = [progress.stalled for _, progress in running if progress.stalled][: 1 + height // 16]
            scores = list(self.scores)
        parts: list[Any] = [_line(self._counts(), "bold"), self._bar(min(40, width // 4))]
        stopping = self._stopping and self._stopping + (self._still_saving() or (self._doing and f", {self._doing}"))
        if state := stopping or self._doing:
            parts.append(_line(state, "bold yellow" if self._stopping else "cyan"))
        elif (speed := self._speed()) and height > 12:
            parts.append(_line(speed, "dim"))
        # two lines below the display, and the table's header
        room = height - len(parts) - len(failures) - bool(more_failures) - len(stalled) - 3 - bool(running)
        if len(running) + len(scores) > room:
            scores = scores[-2:] if room > 8 else []
        shown = running if len(running) + len(scores) <= room else running[: max(1, room - len(scores) - 1)]
        if shown:
            parts.append(self._table([(self.schedule.entries[key], progress) for key, progress in shown]))
        if len(shown) < len(running):
            parts.append(_line(f"and {len(running) - len(shown)} more trials", "dim"))
        parts += [_line(f"finished {text}", "dim") for text in scores]
        parts += [_line(text, "yellow") for text in stalled]
        if more_failures:
            parts.append(_line(f"{more_failures} failures before these", "red"))
        parts += [_line(f"failed: {text}", "red") for text in failures]
        parts.append("")  # the terminal's ^C is printed here, and not below a full line, which it would push up
        return Group(*parts)

    def _bar(self, width: int) -> Table:
        """The overall bar, with the share done, the elapsed time and the time to go."""
        share = self.share()
        row = Table.grid(padding=(0, 2))
        row.add_column(width=width)
        row.add_column(no_wrap=True, overflow="ellipsis")
        elapsed = f"{clock(time.monotonic() - self.began)} elapsed"
        text = ", ".join(filter(None, (f"{math.floor(100 * share)} %", elapsed, self._time_left())))
        row.add_row(ProgressBar(total=1.0, completed=share, width=width), text)
        return row

    def _table(self, trials: list[tuple[Entry, _Progress]]) -> Table:
        """The running trials: name, bar, epochs, and the validation ELBO of each seed."""
        wide = self.console.width >= 100
        bar_width = 24 if wide else 10 if self.console.width >= 80 else 0
        table = Table(box=None, padding=(0, 2, 0, 0), expand=True, pad_edge=False, header_style="dim")
        table.add_column("training", ratio=1, no_wrap=True, overflow="ellipsis")
        if bar_width:
            table.add_column(width=bar_width, no_wrap=True)
        table.add_column("epoch", no_wrap=True, justify="right")
        seeds = max(len(entry.trial.runs) for entry, _ in trials)
        of = "" if seeds == 1 else " by seed" if seeds <= SEEDS else " (mean)"
        table.add_column(f"validation ELBO{of}" if wide else f"ELBO{of}", no_wrap=True, justify="right")
        for entry, progress in trials:
            epochs = entry.trial.runs[0].training_epochs
            bar = ProgressBar(total=epochs, completed=progress.epoch, width=bar_width) if epochs else ""
            done = "scoring" if _scores(entry, progress) else f"{progress.epoch}/{epochs}"
            table.add_row(entry.trial.name, *([bar] if bar_width else []), done, _elbos(progress.val_elbos))
        return table

    def _line(self, text: str) -> None:
        if not self.console.is_terminal:
            say_at(self.console, self.began, text)


def _scores(entry: Entry, progress: _Progress) -> bool:
    """Whether all that a running trial has left to do is its scores: its epochs are done, or its method has none."""
    return progress.epoch >= entry.trial.runs[0].training_epochs


def _elbos(values: tuple[float, ...]) -> str:
    """The validation ELBOs of a trial's seeds, NaN as a dash; of more than `SEEDS` the mean."""
    if len(values) > SEEDS:
        values = (statistics.fmean(found) if (found := [v for v in values if not math.isnan(v)]) else math.nan,)
    return " / ".join("–" if math.isnan(value) else f"{value:.1f}" for value in values)


def _line(text: str, style: str) -> Text:
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


def _rate(per_second: float, what: str) -> str:
    """A rate per s, min or h: the first of these in which it is at least 1."""
    seconds, unit = next(((s, u) for s, u in ((1, "s"), (60, "min")) if per_second * s >= 1), (3600, "h"))
    return f"{per_second * seconds:,.1f} {what}/{unit}"
