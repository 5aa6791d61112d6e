"""Stops a sweep tidily: after Ctrl-C, SIGTERM or SIGHUP (its terminal was closed), or when `--minutes` are over.

Each running training finishes its epoch, saves a checkpoint and ends. What has not ended after `GRACE_S` is stopped
where it is, and resumes from its checkpoint before. A second Ctrl-C or SIGTERM stops at once.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

from rme.command_line import discard_output

INTERRUPTED, TERMINATED, OUT_OF_TIME = 128 + signal.SIGINT, 128 + signal.SIGTERM, 124
"""Exit statuses after Ctrl-C (130), after SIGTERM (143), and of `--minutes` (124, that of `timeout`)."""

HUNG_UP = 128 + signal.SIGHUP
"""Exit status after SIGHUP (129)."""

GRACE_S = 15.0
"""How long trainings may take to finish their epoch and save: shorter than the half minute that Slurm and Kubernetes
wait between SIGTERM and SIGKILL."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, where nothing is running that could be stopped tidily."""


def terminate(signum: int, frame: FrameType | None) -> None:
    """A handler of SIGTERM that raises Terminated."""
    raise Terminated


def in_main_thread() -> bool:
    """Whether this is the main thread, the only one in which Python lets handlers of signals be set."""
    return threading.current_thread() is threading.main_thread()


@contextmanager
def without_sigterm() -> Iterator[None]:
    """Block SIGTERM in this thread; threads and processes that are started in the block never receive it.

    It is delivered to another thread, or at the end of the block. So it cannot reach a handler that a library's C++
    code has installed meanwhile, which would end the process at once.
    """
    # SIGHUP too: a terminal that is closed sends it to all processes that were started from it
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def nothing() -> None:
    """Do nothing."""


@dataclass(frozen=True)
class TimeLimit:
    """When the time of `--minutes` is over, so that the command ends in time.

    Attributes:
        stop_at: when to stop, on the monotonic clock.
        grace_s: how long trainings may then take to save.
    """

    stop_at: float
    grace_s: float

    @classmethod
    def of(cls, minutes: float | None, began: float) -> TimeLimit | None:
        """The limit of a command that began at `began`; of what is reserved, half is for saving and half for ending."""
        if minutes is None:
            return None
        reserved = min(2 * GRACE_S, 15 * minutes)
        return cls(began + 60 * minutes - reserved, reserved / 2)


class Stopping:
    """Within its block, Ctrl-C, SIGTERM, SIGHUP and the end of the time request a stop; a second signal interrupts.

    The second signal raises KeyboardInterrupt, unless it is SIGHUP: both the kernel and the shell send that. SIGHUP
    stays ignored if it is (`nohup`). In another thread than the main one, only the end of the time counts.

    Args:
        say: prints a line.
        on_request: called once when the stop is requested, from a thread.
        on_expired: called after `GRACE_S`, or by `hurry`, from a thread.
        limit: when the time is over; None: never.
    """

    def __init__(
        self,
        say: Callable[[str], None],
        on_request: Callable[[], object] = nothing,
        on_expired: Callable[[], object] = nothing,
        limit: TimeLimit | None = None,
    ) -> None:
        self.say = say
        self.on_request = on_request
        self.on_expired = on_expired
        self.limit = limit
        self.status: int | None = None
        """The exit status once a stop is requested."""
        self._reason = ""
        self._hurry = threading.Event()
        self._left = False
        self._timer: threading.Timer | None = None
        self._before: dict[int, Any] = {}
        self._terminals: list[int] = []

    @property
    def requested(self) -> bool:
        return self.status is not None

    def request(self, status: int, reason: str = "") -> None:
        """Request the stop; only the first request counts. `reason`: printed before what happens next."""
        if not self.requested:
            self.status = status
            self._reason = reason
            # in a thread: a signal may arrive while the main thread is printing, and then it must not print itself
            threading.Thread(target=self._stop, name="stopping", daemon=True).start()

    def hurry(self) -> None:
        """Note that all trainings have ended, so nothing has to be waited for."""
        self._hurry.set()

    def _stop(self) -> None:
        reason = self._reason or ("the time is over" if self.status == OUT_OF_TIME else "")
        self.say(f"{reason}{': ' if reason else ''}stopping: saving checkpoints")
        self.on_request()
        self._hurry.wait(self.limit.grace_s if self.limit is not None and self.status == OUT_OF_TIME else GRACE_S)
        if not self._left:
            self.on_expired()

    def _signalled(self, signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGHUP:
            self._let_go_of_terminals()
            if self.requested:
                return
        if self.requested:
            raise KeyboardInterrupt
        self.request(128 + signum)

    def _let_go_of_terminals(self) -> None:
        """Discard what is printed from now on to a terminal that was closed, where it would raise OSError."""
        for descriptor in self._terminals:
            if not os.isatty(descriptor):
                discard_output(descriptor)

    def __enter__(self) -> Stopping:
        if in_main_thread():
            self._terminals = [descriptor for descriptor in (1, 2) if os.isatty(descriptor)]
            for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if signum != signal.SIGHUP or signal.getsignal(signum) != signal.SIG_IGN:
                    self._before[signum] = signal.signal(signum, self._signalled)
        if self.limit is not None:
            left = max(0.0, self.limit.stop_at - time.monotonic())
            self._timer = threading.Timer(left, self.request, (OUT_OF_TIME,))
            self._timer.daemon = True
            self._timer.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._left = True
        self._hurry.set()
        if self._timer is not None:
            self._timer.cancel()
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
