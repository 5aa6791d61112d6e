"""Has finished runs written to MLflow, from a thread of the driver, and keeps what the server does not take."""

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

log = logging.getLogger(__name__)

RETRY_AFTER_S = (1, 2, 5, 10, 20, 30)
"""Waits between tries while the server does not answer; the last is repeated."""

SUMMARISE_EVERY_S = 600.0
"""How often the cells' statistics are brought up to date while a sweep runs; it reads all of the experiment's runs."""

SUMMARISE_SHARE = 0.01
"""Part of the driver's time that they may take, which with thousands of runs makes them rarer."""

SUMMARY_PATIENCE_S = 600.0
"""How long the last summary may take, which reads all of the experiment's runs."""


class Recorder:
    """A queue of runs to record. Runs whose results are on the storage cannot be lost: a later sweep records them.

    Args:
        writer: from where, and where to.
        on_recorded: called, on the recorder's thread, with each run recorded and its metrics.
    """

    def __init__(self, writer: Writer, on_recorded: Callable[[RunSpec, dict[str, float]], None] | None = None) -> None:
        self.writer = WriterProcess(writer)
        self.on_recorded = on_recorded
        self.failures: dict[str, str] = {}
        """Keys of runs that could not be recorded for good, and why."""
        self._queue: deque[tuple[RunSpec, Failure | None]] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._done = 0
        """Runs recorded, and pictures shown: while it grows, there is something to wait for."""
        self._given_up = threading.Event()
        self._to_show: dict[str, tuple[float, RunSpec]] = {}
        """For each cell the best run whose pictures are not in MLflow: making them for each better run would cost more
        than recording it."""
        self._summary_due = time.monotonic() + SUMMARISE_EVERY_S
        self._thread = threading.Thread(target=self._work, name="recorder", daemon=True)
        self._thread.start()

    def result(self, spec: RunSpec) -> None:
        """Record a run whose result is on the storage."""
        self._put(spec, None)

    def failure(self, spec: RunSpec, failure: Failure) -> None:
        """Record that a run came to nothing, and why."""
        self._put(spec, failure)

    def _put(self, spec: RunSpec, failure: Failure | None) -> None:
        with self._changed:
            self._queue.append((spec, failure))
            self._changed.notify_all()

    def close(self, timeout_s: float = 120) -> None:
        """Wait until all is recorded, or until nothing more was for `timeout_s`; what is left then stays in `left`."""
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
        self._thread.join()  # a thread that outlives the interpreter would abort it

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
            except Exception as error:  # whatever it is, the result is safe on the storage
                if self._given_up.is_set():
                    return
                wait = RETRY_AFTER_S[min(tries, len(RETRY_AFTER_S) - 1)]
                tries += 1
                log.warning("%s is not recorded yet, again in %d s: %s", first[0].run_name, wait, error)
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
        except Exception as error:  # the next summary will say what this one did not
            log.warning("the cells are not summarised: %s", error)
        now = time.monotonic()
        self._summary_due = now + max(SUMMARISE_EVERY_S, (now - began) / SUMMARISE_SHARE)

    def _record(self, spec: RunSpec, failure: Failure | None) -> None:
        if failure is not None:
            self.writer.failure(spec, failure)
            return
        written = self.writer.result(spec)
        if written is None:
            self.failures[spec.key] = "its result on the storage was damaged; the same command trains it again"
            return
        if written.to_show:
            best = self._to_show.get(spec.cell_key)
            score = written.metrics["val/iwae"]
            if best is None or score > best[0]:
                self._to_show[spec.cell_key] = score, spec
        if self.on_recorded is not None:
            self.on_recorded(spec, written.metrics)
