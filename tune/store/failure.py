"""Why a run came to nothing, and whether it would again."""

from __future__ import annotations

import json
import traceback
from dataclasses import asdict, dataclass

from rme.checkpoint import CorruptFile
from rme.data import DataError

_OF_THE_MACHINE = (OSError, CorruptFile, DataError)
"""A full disk, a file that is damaged or not there: nothing that the run would do again elsewhere, or later."""


@dataclass(frozen=True)
class Failure:
    """Why a run came to nothing.

    Attributes:
        reason: one line.
        traceback: the exception's, or empty if there was none, as of a process that was killed.
        lasting: the run itself is the reason (it diverged, it needs too much memory, its method raised), so that only
            `--retry-failed` tries it again; else the same command does.
    """

    reason: str
    traceback: str = ""
    lasting: bool = False

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """Of an exception that is being handled."""
        lines = str(error).strip().splitlines()
        reason = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
        text = "".join(traceback.format_exception(error))
        return cls(reason, text, lasting=not isinstance(error, _OF_THE_MACHINE))

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> Failure:
        """What `to_json` wrote. Raises ValueError or TypeError for anything else."""
        return cls(**json.loads(text))


def skipped(parent: str) -> str:
    """The reason of a run that is not trained because the run that it starts from, of this name, failed."""
    return f"skipped: it starts from {parent}, which failed"
