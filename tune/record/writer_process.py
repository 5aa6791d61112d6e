"""A `Writer` in a process of its own: MLflow's client takes more of a core than all else that a sweep's driver does.

The process outlives its driver by what it is writing: then it finds nobody at the other end of its pipe, and ends.
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
"""How long the process may take to end when there is nothing left to do."""


class WriterError(RuntimeError):
    """What the process could not write, in the words of what was raised there; or how it died."""


class WriterProcess:
    """Has a writer's methods, carried out in a process that is started for the first run, and again if it has died.

    For one thread; `kill` may be called from any. The methods raise WriterError, for whatever was raised in the process
    and for its death. What it logs while it is at work is logged here.

    Args:
        writer: what the process gets a copy of.
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
            self._writer.summarise_cells()  # here: a process takes seconds to start, and there was nothing to write
        else:
            self._call("summarise_cells")

    @property
    def pid(self) -> int | None:
        """The process's, while there is one."""
        return self._process.pid if self._process is not None else None

    def close(self) -> None:
        """End the process, if there is one; it has nothing to do now."""
        if self._process is not None:
            self._end()

    def kill(self) -> None:
        """End it now, whatever it is doing, for good."""
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
                raise WriterError("the process that writes to MLflow was told to end")
            ours, theirs = Pipe()
            with theirs:  # closed here once the process has it, else the pipe would not end with the process
                path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
                try:
                    self._process = subprocess.Popen(
                        [sys.executable, "-P", "-m", __name__, str(theirs.fileno())],
                        stdin=subprocess.DEVNULL,
                        pass_fds=[theirs.fileno()],
                        env={**os.environ, "PYTHONPATH": path},
                        start_new_session=True,  # Ctrl-C is for the driver, which has the rest written before it ends
                    )
                except OSError as error:  # no memory or no room for another process
                    ours.close()
                    raise WriterError(f"the process that writes to MLflow does not start: {error}") from error
            self._pipe = ours
        ours.send(replace(self._writer))  # as new: its connections stay here
        return ours

    def _end(self) -> str:
        """Let go of it; how it ended."""
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
    """The process's side: take a writer from the pipe, then calls of its methods, until there is nobody to call."""
    sending = threading.Lock()

    def send(message: Any) -> None:
        with sending:
            pipe.send(message)

    class ToDriver(QueueHandler):
        def enqueue(self, record: logging.LogRecord) -> None:
            with suppress(OSError):  # nobody reads it any more
                send(record)

    logging.basicConfig(level=logging.WARNING, handlers=[ToDriver(None)])  # type: ignore[arg-type]
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        writer = pipe.recv()
        while True:
            method, arguments = pipe.recv()
            try:
                send((getattr(writer, method)(*arguments), None))
            except Exception as error:  # whatever MLflow's stores raise; it need not survive pickling
                send((None, str(error) or type(error).__name__))


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
    gc.freeze()  # else the interpreter looks at each of MLflow's objects once more as it ends, for a second
