"""Why a run failed: because of the run itself, or because of the machine."""

from __future__ import annotations

import json
import traceback
from dataclasses import asdict, dataclass

from rme.checkpoint import CorruptFile
from rme.data import DataError
from rme.device import is_lost
from rme.errors import first_line

_OF_THE_MACHINE = (OSError, CorruptFile, DataError)
"""A full disk, a damaged or missing file: errors that need not happen again later, or on another machine. So is a GPU
that the process has lost."""


@dataclass(frozen=True)
class Failure:
    """Why a run failed.

    Attributes:
        reason: one line.
        traceback: the exception's; empty if there was no exception, for example if the process was killed.
        lasting: True if the run failed because of the run itself (it diverged, needs too much memory, or its method
            raised): only `--retry-failed` tries it again. False if it failed because of the machine: the same command
            tries it again.
    """

    reason: str
    traceback: str = ""
    lasting: bool = False

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """The failure that an exception caused."""
        name, line = type(error).__name__, first_line(error)
        reason = name if line == name else f"{name}: {line}"
        text = "".join(traceback.format_exception(error))
        return cls(reason, text, lasting=not (isinstance(error, _OF_THE_MACHINE) or is_lost(error)))

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> Failure:
        """The failure that `to_json` wrote. Raises ValueError or TypeError for other text."""
        return cls(**json.loads(text))


def skipped(parent: str) -> str:
    """The reason of a run that is skipped because the run that it starts from failed. `parent`: that run's name."""
    return f"skipped: it starts from {parent}, which failed"
