"""The queue of runs to record in MLflow, worked off by a thread of the driver, which retries after errors."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from rme.config import RunSpec
from tune.record.writer import Writer
from tune.record.writer_process import WriterProcess
from tune.store.failure import Failure
from tune.store.storage import DAMAGED

log = logging.getLogger(__name__)

RETRY_AFTER_S = (1, 2, 5, 10, 20, 30)
"""Waits between tries while recording fails; the last is repeated."""

SUMMARISE_EVERY_S = 600.0
"""Shortest interval between updates of the cells' statistics, which read all of the experiment's runs."""

SUMMARISE_SHARE = 0.01
"""Largest part of the time that these updates may take; with thousands of runs they become rarer."""

SUMMARY_PATIENCE_S = 600.0
"""Time limit for the last update."""


class Recorder:
    """Records runs, one after another. Results that are not recorded stay on the storage, for a later sweep to record.

    Args:
        writer: writes a run to MLflow.
        on_recorded: called, on the recorder's thread, with each recorded run and its metrics.
    """

    def __init__(self, writer: Writer, on_recorded: Callable[[RunSpec, dict[str, float]], None] | None = None) -> None:
        self.writer = WriterProcess(writer)
        self.on_recorded = on_recorded
        self.failures: dict[str, str] = {}
        """Runs whose damaged results could not be recorded: the reasons by key."""
        self._queue: deque[tuple[RunSpec, Failure | None]] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._done = 0
        """Number of runs and pictures written: `close` waits while it grows."""
        self._given_up = threading.Event()
        self._to_show: dict[str, tuple[float, RunSpec]] = {}
        """For each cell the best run's validation IWAE and the run, if its pictures are not in MLflow yet. They are
        written with the statistics, because writing them for each better run would take longer than recording it."""
        self._summary_due = time.monotonic() + SUMMARISE_EVERY_S
        self._thread = threading.Thread(target=self._work, name="recorder", daemon=True)
        self._thread.start()

    def result(self, spec: RunSpec) -> None:
        """Record a run whose result is on the storage."""
        self._put(spec, None)

    def failure(self, spec: RunSpec, failure: Failure) -> None:
        """Record that a run failed, and why."""
        self._put(spec, failure)

    def _put(self, spec: RunSpec, failure: Failure | None) -> None:
        with self._changed:
            self._queue.append((spec, failure))
            self._changed.notify_all()

    def close(self, timeout_s: float = 120) -> None:
        """Wait until all runs are recorded, or until none has been for `timeout_s`; the others remain in `left`."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        seen = -1
        while self._thread.is_alive() and seen != self._done:
            seen = self._done
            self._thread.join(timeout_s if self._queue else max(timeout_s, SUMMARY_PATIENCE_S))
        self._given_up.set()
        if self._thread.is_alive():
            self.writer.kill()
        self._thread.join()  # the interpreter would abort at its end if the thread still ran

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    @property
    def left(self) -> list[RunSpec]:
        """Runs that are not recorded yet."""
        with self._changed:
            return [spec for spec, _ in self._queue]

    def _work(self) -> None:
        try:
            self._record_all()
        finally:
            self.writer.close()

    def _record_all(self) -> None:
        tries = 0
        while not self._given_up.is_set():
            with self._changed:
                while not self._queue and not self._closing:
                    self._changed.wait()
                first = self._queue[0] if self._queue else None
            if first is None:
                self._summarise()
                return
            try:
                self._record(*first)
            except Exception as error:  # MLflow's stores raise anything; the result is safe on the storage
                if self._given_up.is_set():
                    return
                wait = RETRY_AFTER_S[min(tries, len(RETRY_AFTER_S) - 1)]
                tries += 1
                log.warning("%s is not recorded yet, retrying in %d s: %s", first[0].run_name, wait, error)
                self._given_up.wait(wait)
                continue
            tries = 0
            with self._changed:
                self._queue.popleft()
                self._done += 1
            if time.monotonic() >= self._summary_due:
                self._summarise()

    def _summarise(self) -> None:
        began = time.monotonic()
        try:
            for cell, (_, spec) in list(self._to_show.items()):
                self.writer.show(spec)
                del self._to_show[cell]
                self._done += 1
            self.writer.summarise_cells()
        except Exception as error:  # the next update makes up for it
            log.warning("the cells' statistics are not updated: %s", error)
        now = time.monotonic()
        self._summary_due = now + max(SUMMARISE_EVERY_S, (now - began) / SUMMARISE_SHARE)

    def _record(self, spec: RunSpec, failure: Failure | None) -> None:
        if failure is not None:
            self.writer.failure(spec, failure)
            return
        written = self.writer.result(spec)
        if written is None:
            self.failures[spec.key] = DAMAGED
            return
        if written.to_show:
            best = self._to_show.get(spec.cell_key)
            score = written.metrics["val/iwae"]
            if best is None or score > best[0]:
                self._to_show[spec.cell_key] = score, spec
        if self.on_recorded is not None:
            self.on_recorded(spec, written.metrics)
