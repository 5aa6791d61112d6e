"""Runs a `Writer` in a separate process, because MLflow's client uses more CPU than the rest of a sweep's driver.

If the driver dies, the process finishes what it is writing, finds its pipe closed, and ends.
"""

from __future__ import annotations

import gc
import logging
import os
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import replace
from logging.handlers import QueueHandler
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

from rme.config import RunSpec
from tune.record.writer import Writer, Written
from tune.store.failure import Failure

_ROOT = Path(__file__).resolve().parents[2]

END_S = 10.0
"""How long the process may take to end before it is killed."""


class WriterError(RuntimeError):
    """The process could not write (with the message of the exception raised there), or died."""


class WriterProcess:
    """Has a writer's methods, which a separate process executes. It is started when needed, and again if it died.

    The methods are for one thread; `kill` may be called from any. They raise WriterError if an exception is raised in
    the process or if it dies. The process's log messages are logged here.

    Args:
        writer: the process gets a copy of it.
    """

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None
        self._killed = False
        self._starting = threading.Lock()

    def result(self, spec: RunSpec) -> Written | None:
        return self._call("result", spec)

    def failure(self, spec: RunSpec, failure: Failure) -> None:
        self._call("failure", spec, failure)

    def show(self, spec: RunSpec) -> None:
        self._call("show", spec)

    def summarise_cells(self) -> None:
        if self._process is None:
            self._writer.summarise_cells()  # without a process, which takes seconds to start, as no run was written
        else:
            self._call("summarise_cells")

    @property
    def pid(self) -> int | None:
        """The process's id; None if it is not running."""
        return self._process.pid if self._process is not None else None

    def close(self) -> None:
        """End the process if it was started. It must be idle."""
        if self._process is not None:
            self._end()

    def kill(self) -> None:
        """Kill the process, whatever it is doing, and start no other."""
        with self._starting:
            self._killed = True
            if self._process is not None:
                self._process.kill()

    def _call(self, method: str, *arguments: Any) -> Any:
        try:
            pipe = self._pipe or self._start()
            pipe.send((method, arguments))
            while isinstance(answer := pipe.recv(), logging.LogRecord):
                logging.getLogger(answer.name).handle(answer)
        except (EOFError, OSError) as error:
            raise WriterError(f"the process that writes to MLflow {self._end()}") from error
        value, reason = answer
        if reason is not None:
            raise WriterError(reason)
        return value

    def _start(self) -> Connection:
        with self._starting:
            if self._killed:
                raise WriterError("the process that writes to MLflow was stopped")
            ours, theirs = Pipe()
            with theirs:  # closed here once the process has it; else its death would not be noticed
                path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
                try:
                    self._process = subprocess.Popen(
                        [sys.executable, "-P", "-m", __name__, str(theirs.fileno())],
                        stdin=subprocess.DEVNULL,
                        pass_fds=[theirs.fileno()],
                        env={**os.environ, "PYTHONPATH": path},
                        start_new_session=True,  # Ctrl-C must reach only the driver, which still has runs recorded
                    )
                except OSError as error:  # no memory or no room for another process
                    ours.close()
                    raise WriterError(f"the process that writes to MLflow does not start: {error}") from error
            self._pipe = ours
        ours.send(replace(self._writer))  # a copy without the cached tracker and its connections
        return ours

    def _end(self) -> str:
        """Wait for the process to end, or kill it; returns how it ended."""
        process, pipe = self._process, self._pipe
        assert process is not None and pipe is not None
        self._process = self._pipe = None
        pipe.close()
        try:
            status = process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait()
        return f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"


def serve(pipe: Connection) -> None:
    """The process's main loop: receive a writer, then execute calls of its methods until the pipe is closed."""
    sending = threading.Lock()

    def send(message: Any) -> None:
        with sending:
            pipe.send(message)

    class ToDriver(QueueHandler):
        def enqueue(self, record: logging.LogRecord) -> None:
            with suppress(OSError):  # the driver has closed the pipe
                send(record)

    logging.basicConfig(level=logging.WARNING, handlers=[ToDriver(None)])  # type: ignore[arg-type]
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        writer = pipe.recv()
        while True:
            method, arguments = pipe.recv()
            try:
                send((getattr(writer, method)(*arguments), None))
            except Exception as error:  # MLflow's stores raise anything; sent as text, as some cannot be pickled
                send((None, str(error) or type(error).__name__))


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
    gc.freeze()  # else the interpreter's last garbage collection visits all of MLflow's objects, for a second
