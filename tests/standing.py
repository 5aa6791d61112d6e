"""What trainings do after each epoch where a test's `Hold` wants it: in their own processes, without pytest."""

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
"""Environment variable that names the folder by which a test and the trainings speak to each other."""
TRAININGS = "trainings"

_epochs: WeakKeyDictionary[Engine, int] = WeakKeyDictionary()
_stood: WeakSet[Engine] = WeakSet()


def environment(folder: Path) -> dict[str, str]:
    """With which trainings stand still as that folder says."""
    return {ON_EPOCH: f"{__name__}:{stand.__name__}", FOLDER: str(folder)}


def stand(engine: Engine) -> None:
    """Note the training if this is its first epoch here; stand still, once, while the folder says so."""
    folder = Path(os.environ[FOLDER])
    if not folder.exists():  # no test has asked yet
        return
    done = _epochs[engine] = _epochs.get(engine, 0) + 1
    if done == 1:
        with open(folder / TRAININGS, "a") as file:
            file.write("".join(f"{spec.key}\n" for spec in engine.specs))
    if done < _limit(folder) or engine in _stood:
        return
    _stood.add(engine)
    sign = folder / f"{socket.gethostname()} {os.getpid()} {uuid.uuid4()}"
    sign.touch()
    while sign.exists() and _limit(folder) < math.inf:
        time.sleep(0.02)


def _limit(folder: Path) -> float:
    """After how many epochs trainings stand still."""
    try:
        return int((folder / "limit").read_text())
    except FileNotFoundError:
        return math.inf
