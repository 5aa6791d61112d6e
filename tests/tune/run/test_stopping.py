"""Signals and the end of the time request a stop; a second signal interrupts at once."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from tune.run import stopping
from tune.run.stopping import HUNG_UP, INTERRUPTED, OUT_OF_TIME, TERMINATED, Stopping, TimeLimit

PATIENCE_S = 60

pytestmark = pytest.mark.usefixtures("signals")


class Watched:
    """A `Stopping` and what it has done."""

    def __init__(self, stop_at: float | None = None) -> None:
        self.lines: list[str] = []
        self.requested, self.expired = threading.Event(), threading.Event()
        limit = None if stop_at is None else TimeLimit(stop_at, 0.05)
        self.stopping = Stopping(self.lines.append, self.requested.set, self.expired.set, limit)


@pytest.mark.parametrize(
    ("signum", "status"), [(signal.SIGINT, INTERRUPTED), (signal.SIGTERM, TERMINATED), (signal.SIGHUP, HUNG_UP)]
)
def test_the_first_signal_requests_a_stop_and_the_second_interrupts(signum, status):
    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    watched = Watched()
    with pytest.raises(KeyboardInterrupt), watched.stopping:
        assert not watched.stopping.requested
        os.kill(os.getpid(), signum)
        assert watched.requested.wait(PATIENCE_S) and watched.stopping.status == status == 128 + signum
        assert watched.lines == ["stopping: saving checkpoints"]
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(PATIENCE_S)
    assert watched.stopping.status == status, "the first counts"
    assert not watched.expired.is_set(), "the block has been left"
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == handlers


def test_sighup_twice_is_one_request():
    watched = Watched()
    with watched.stopping:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGHUP)
        assert watched.requested.wait(PATIENCE_S)
    assert watched.stopping.status == HUNG_UP and len(watched.lines) == 1


def test_sighup_stays_ignored_under_nohup():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with (watched := Watched()).stopping:
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.01)
        assert watched.stopping.status is None and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_reason_of_its_own_is_printed_first():
    watched = Watched()
    with watched.stopping:
        watched.stopping.request(1, "the disk is nearly full")
        assert watched.requested.wait(PATIENCE_S)
    assert watched.lines == ["the disk is nearly full: stopping: saving checkpoints"] and watched.stopping.status == 1


def test_what_has_not_ended_in_time_is_interrupted(monkeypatch):
    monkeypatch.setattr(stopping, "GRACE_S", 0.05)
    watched = Watched()
    with watched.stopping:
        time.sleep(0.1)
        assert not watched.expired.is_set()
        os.kill(os.getpid(), signal.SIGTERM)
        assert watched.expired.wait(PATIENCE_S)


def test_nothing_is_waited_for_once_all_has_ended():
    watched = Watched()
    with watched.stopping:
        watched.stopping.request(TERMINATED)
        watched.stopping.hurry()
        assert watched.expired.wait(stopping.GRACE_S / 2)


def test_the_end_of_the_time_requests_a_stop():
    watched = Watched(time.monotonic() + 0.05)
    with watched.stopping:
        assert watched.requested.wait(PATIENCE_S)
    assert watched.stopping.status == OUT_OF_TIME == 124
    assert watched.lines == ["the time is over: stopping: saving checkpoints"]


def test_a_stop_that_nobody_requested_never_comes():
    watched = Watched(time.monotonic() + 3600)
    with watched.stopping:
        pass
    assert watched.stopping._timer is not None
    watched.stopping._timer.join(PATIENCE_S)
    assert watched.stopping.status is None and not watched.lines


def test_time_is_left_to_save_and_to_end():
    assert TimeLimit.of(None, 100.0) is None
    assert TimeLimit.of(10, 100.0) == TimeLimit(100 + 600 - 2 * stopping.GRACE_S, stopping.GRACE_S)
    short = TimeLimit.of(0.2, 100.0)
    assert short is not None and 100 < short.stop_at < short.stop_at + 2 * short.grace_s <= 112


def test_after_the_end_of_the_time_less_is_waited():
    watched = Watched(time.monotonic())
    with watched.stopping:
        assert watched.expired.wait(stopping.GRACE_S / 2)
