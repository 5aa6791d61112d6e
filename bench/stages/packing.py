"""Whether several processes on one device train more together than one alone.

Each process trains an array of its own. All have started and warmed up before the first is measured alone, while the
others wait; then all are measured at once.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import IO

import torch

from bench.stages.case import Case, Number
from bench.stages.named import named

PROCESSES = (2, 4)
"""At once. Each case also measures one alone."""

MEMBERS = {"cpu": 1, "cuda": 6}
"""VAEs in each process's array."""

SECONDS = {"cpu": 2.0, "cuda": 5.0}
"""For which the processes train, once alone and once together."""

LIMIT_S = 120.0
"""After so many seconds a case ends its processes and fails."""


@dataclass(frozen=True)
class Count:
    """What a process trained: `steps` of `members` models in `seconds`."""

    steps: int
    members: int
    seconds: float

    @property
    def rate(self) -> float:
        """Members' steps per second."""
        return self.steps * self.members / self.seconds


def cases(device: torch.device) -> Iterator[Case]:
    """A case for each number of processes."""
    members, seconds = MEMBERS[device.type], SECONDS[device.type]
    for processes in PROCESSES:
        command = [sys.executable, "-m", "bench.stages.packing_child", str(device), str(members)]
        models = "a VAE" if members == 1 else f"{members} VAEs"
        yield named(f"{processes} processes with {models} each", partial(packed, [command] * processes, seconds))


def packed(commands: Sequence[Sequence[str]], seconds: float, limit_s: float = LIMIT_S) -> list[Number]:
    """Start a process for each command, let the first train alone, then all together.

    A process prints a line when it is warm; for each line of seconds that it reads, it trains for so long and prints a
    `Count` as JSON; it exits at the end of its input. Raises RuntimeError with the last line of its stderr if one ends
    early or takes longer than `limit_s`. No process outlives the call.
    """
    with ExitStack() as stack:
        children = [stack.enter_context(_Child.started(command)) for command in commands]
        stack.enter_context(_ended_after(limit_s, children))
        for child in children:
            child.answer()
        (alone,) = _measured(children[:1], seconds)
        return entries(alone, _measured(children, seconds))


def entries(alone: Count, together: Sequence[Count]) -> list[Number]:
    """Rates of one process and of all together, and their ratio."""
    total = sum(count.rate for count in together)
    return [
        Number("one alone", alone.rate, "members' steps/s"),
        Number("in total", total, "members' steps/s"),
        Number("in total / one alone", total / alone.rate, "times"),
    ]


class _Child:
    """A training process, told by lines when to begin."""

    def __init__(self, process: subprocess.Popen[str], errors: IO[str]) -> None:
        self.process = process
        self.errors = errors

    @classmethod
    @contextmanager
    def started(cls, command: Sequence[str]) -> Iterator[_Child]:
        """A process that is ended with the block."""
        with tempfile.TemporaryFile("w+") as errors:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, bufsize=1
            )
            try:
                yield cls(process, errors)
            finally:
                process.kill()
                process.communicate()

    def begin(self, seconds: float) -> None:
        """Tell it to train for so many seconds. Raises RuntimeError if it has ended."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(f"{seconds}\n")
        except BrokenPipeError:
            raise self._ended() from None

    def answer(self) -> str:
        """Its next line. Raises RuntimeError if it has ended."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise self._ended()
        return line

    def _ended(self) -> RuntimeError:
        status = self.process.wait()
        self.errors.seek(0)
        lines = self.errors.read().strip().splitlines()
        return RuntimeError(f"a process ended with status {status}: {lines[-1] if lines else 'nothing on its stderr'}")


def _measured(children: Sequence[_Child], seconds: float) -> list[Count]:
    for child in children:
        child.begin(seconds)
    return [Count(**json.loads(child.answer())) for child in children]


@contextmanager
def _ended_after(limit_s: float, children: Sequence[_Child]) -> Iterator[None]:
    """Ends the processes after `limit_s`, so that nothing waits for one that hangs; then raises RuntimeError."""
    late = threading.Event()

    def end() -> None:
        late.set()
        for child in children:
            child.process.kill()

    timer = threading.Timer(limit_s, end)
    timer.start()
    try:
        yield
    except RuntimeError as error:
        if late.is_set():
            raise RuntimeError(f"the processes took longer than {limit_s:g} s") from error
        raise
    finally:
        timer.cancel()
