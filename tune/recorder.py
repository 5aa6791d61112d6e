"""Hands finished results to MLflow from a thread of the driver, and keeps what the server does not take."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from rme.config import RunSpec
from tune.storage import Storage
from tune.tracking import Tracker

log = logging.getLogger(__name__)

RETRY_AFTER_S = (1, 2, 5, 10, 20, 30)
"""Waits between tries while the server does not answer; the last is repeated."""

SUMMARISE_EVERY_S = 600.0
"""How often the cells' statistics are brought up to date while a sweep runs; it reads all of the experiment's runs."""


class Recorder:
    """A queue of runs to record. Runs whose results are on the storage cannot be lost: a later sweep records them.

    Args:
        tracker: where to.
        storage: where the results lie.
        on_recorded: called, on the recorder's thread, with each run recorded and its metrics.
    """

    def __init__(
        self, tracker: Tracker, storage: Storage, on_recorded: Callable[[RunSpec, dict[str, float]], None] | None = None
    ) -> None:
        self.tracker = tracker
        self.storage = storage
        self.on_recorded = on_recorded
        self.failures: dict[str, str] = {}
        """Keys of runs that could not be recorded for good, and why."""
        self._queue: deque[tuple[RunSpec, str | None]] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._given_up = threading.Event()
        self._summary_due = time.monotonic() + SUMMARISE_EVERY_S
        self._thread = threading.Thread(target=self._work, name="recorder", daemon=True)
        self._thread.start()

    def result(self, spec: RunSpec) -> None:
        """Record a run whose result is on the storage."""
        self._put(spec, None)

    def failure(self, spec: RunSpec, reason: str) -> None:
        """Record that a run came to nothing, and why."""
        self._put(spec, reason)

    def _put(self, spec: RunSpec, reason: str | None) -> None:
        with self._changed:
            self._queue.append((spec, reason))
            self._changed.notify_all()

    def close(self, timeout_s: float = 60) -> None:
        """Wait until all is recorded, or until nothing more was for `timeout_s`."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        left = -1
        while self._thread.is_alive() and left != len(self._queue):
            left = len(self._queue)
            self._thread.join(timeout_s)
        self._given_up.set()
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
        tries = 0
        while not self._given_up.is_set():
            with self._changed:
                while not self._queue and not self._closing:
                    self._changed.wait()
                first = self._queue[0] if self._queue else None
            if first is None:
                self._summarise()
                return
            spec, reason = first
            try:
                self._record(spec, reason)
            except Exception as error:  # whatever MLflow's stores raise, the result is safe on the storage
                wait = RETRY_AFTER_S[min(tries, len(RETRY_AFTER_S) - 1)]
                tries += 1
                log.warning("%s is not recorded yet, again in %d s: %s", spec.run_name, wait, error)
                self._given_up.wait(wait)
                continue
            tries = 0
            with self._changed:
                self._queue.popleft()
            if time.monotonic() >= self._summary_due:
                self._summarise()

    def _summarise(self) -> None:
        try:
            self.tracker.summarise_cells()
        except Exception as error:  # the next summary will say what this one did not
            log.warning("the cells are not summarised: %s", error)
        self._summary_due = time.monotonic() + SUMMARISE_EVERY_S

    def _record(self, spec: RunSpec, reason: str | None) -> None:
        if reason is not None:
            self.tracker.record_failure(spec, reason)
            return
        result = self.storage.result(spec)
        if result is None:
            self.storage.discard(spec.key)
            self.failures[spec.key] = "its result on the storage was damaged; the same command trains it again"
            return
        self.tracker.record(result)
        if self.on_recorded is not None:
            self.on_recorded(spec, result.metrics)
