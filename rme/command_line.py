"""How a command ends: its exit status, and its errors in one line on standard error."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from rme.errors import first_line

REFUSED, INTERRUPTED, BROKEN_PIPE = 2, 130, 141
"""Exit statuses: the command cannot be carried out; Ctrl-C; its reader has ended, as in `| head`."""


class CommandError(ValueError):
    """An option's value is impossible; the message names the option and the value."""


def status(name: str, work: Callable[[], None]) -> int:
    """Do a command's work and return its exit status.

    An error of this package, or OSError, becomes one line on standard error that starts with the command's name. Any
    other exception propagates: it is a mistake in the code.
    """
    try:
        work()
        sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        discard_output()
        return BROKEN_PIPE
    except OSError as error:
        reason = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else first_line(error)
        print(f"{name}: {reason}", file=sys.stderr)
        return REFUSED
    except ValueError as error:
        if not type(error).__module__.startswith("rme."):
            raise
        print(f"{name}: {first_line(error)}", file=sys.stderr)
        return REFUSED
    return 0


def discard_output(descriptor: int | None = None) -> None:
    """Let go of an output whose reader has ended: Python flushes it once more at exit, which would fail.

    `descriptor`: by default standard output's.
    """
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno() if descriptor is None else descriptor)
    os.close(nowhere)


def whole(low: int) -> Callable[[str], int]:
    """The type of an option that is a whole number, `low` or more."""

    def convert(text: str) -> int:
        if not text.strip().isdecimal() or int(text) < low:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, {low} or more")
        return int(text)

    return convert


def check_out(out: Path, folder: bool = False, suffix: str = "") -> None:
    """CommandError if `--out` cannot be written, for a command to find out before its work; creates nothing.

    Args:
        out: the file, or the folder to write files into.
        folder: whether it is a folder.
        suffix: that the file's name must have; empty: any.
    """
    if suffix and out.suffix.lower() != suffix:
        raise CommandError(f"--out {out}: the file's name must end in {suffix}")
    if out.is_dir() and not folder:
        raise CommandError(f"--out {out}: a folder; expected a file's path")
    existing = out if folder else out.absolute().parent
    while not existing.exists():
        existing = existing.absolute().parent
    if not existing.is_dir():
        raise CommandError(f"--out {out}: {existing} is not a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise CommandError(f"--out {out}: the folder {existing} is not writable")
