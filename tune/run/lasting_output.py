"""A standard output or error that outlasts its reader: a sweep goes on when `| head` or a closed terminal ends it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import IO

from rme.command_line import discard_output


class LastingOutput:
    """Writes to a stream as it is; from the first write that fails on, everything is discarded.

    Args:
        stream: of a file descriptor. That is discarded, too, so that writes past this object do not fail either.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:  # EPIPE without a reader, EIO without a terminal
            discard_output(self._stream.fileno())
            return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            discard_output(self._stream.fileno())
