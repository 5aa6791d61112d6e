"""Printing goes on when the reader of the output has ended."""

from __future__ import annotations

import os
from typing import IO, cast

import pytest
from rich.console import Console

from tune.run.lasting_output import LastingOutput


@pytest.fixture
def pipe():
    """A pipe's reading end, as a descriptor, and its writing end, as a stream."""
    reading, writing = os.pipe()
    stream = os.fdopen(writing, "w", buffering=1)
    yield reading, stream
    stream.close()


def test_text_arrives_while_there_is_a_reader(pipe):
    reading, stream = pipe
    Console(file=cast(IO[str], LastingOutput(stream))).print("one line")
    assert os.read(reading, 100) == b"one line\n"
    os.close(reading)


def test_without_a_reader_everything_is_discarded(pipe):
    reading, stream = pipe
    output = LastingOutput(stream)
    os.close(reading)
    console = Console(file=cast(IO[str], output))
    for _ in range(3):
        console.print("one line")
    output.writelines(["a", "b"])
    output.flush()
    print("past it", file=stream, flush=True)
    assert os.fstat(stream.fileno()).st_rdev == os.stat(os.devnull).st_rdev
