"""Pauses trainings after an epoch when a test's `Hold` asks for it; runs in their processes, without pytest."""

from __future__ import annotations

import math
import os
import socket
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary, WeakSet

from rme.hooks import ON_EPOCH

if TYPE_CHECKING:
    from rme.engine import Engine

FOLDER = "RME_TESTS_HOLD"
"""Environment variable: the folder through which a test and the trainings communicate."""
TRAININGS = "trainings"

_epochs: WeakKeyDictionary[Engine, int] = WeakKeyDictionary()
_paused: WeakSet[Engine] = WeakSet()


def environment(folder: Path) -> dict[str, str]:
    """Environment variables that make trainings pause as `folder` says."""
    return {ON_EPOCH: f"{__name__}:{stand.__name__}", FOLDER: str(folder)}


def stand(engine: Engine) -> None:
    """Record the training after its first epoch in this process; pause it once, for as long as the folder says."""
    folder = Path(os.environ[FOLDER])
    if not folder.exists():  # no test uses it yet
        return
    done = _epochs[engine] = _epochs.get(engine, 0) + 1
    if done == 1:
        with open(folder / TRAININGS, "a") as file:
            file.write("".join(f"{spec.key}\n" for spec in engine.specs))
    if done < _limit(folder) or engine in _paused:
        return
    _paused.add(engine)
    sign = folder / f"{socket.gethostname()} {os.getpid()} {uuid.uuid4()}"
    sign.touch()
    while sign.exists() and _limit(folder) < math.inf:
        time.sleep(0.02)


def _limit(folder: Path) -> float:
    """After how many epochs trainings pause; inf: never."""
    try:
        return int((folder / "limit").read_text())
    except FileNotFoundError:
        return math.inf
