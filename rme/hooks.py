"""A function of one's own that is called after each epoch of every training: `RME_ON_EPOCH=module:function`."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rme.engine import Engine

ON_EPOCH = "RME_ON_EPOCH"
"""Name of the environment variable."""


class HookError(ValueError):
    """RME_ON_EPOCH names no function that can be called."""


def on_epoch() -> Callable[[Engine], None] | None:
    """The function that RME_ON_EPOCH names, which takes the engine; None where it is not set.

    It may look at the engine and take its time; what it changes there changes the training. It is called once the
    epoch's checkpoint is written, and what it raises ends the training.

    Raises:
        HookError: it is not module:function, or there is no such module or function.
    """
    name = os.environ.get(ON_EPOCH)
    if not name:
        return None
    module, _, function = name.partition(":")
    if not module or not function:
        raise HookError(f"{ON_EPOCH}={name}: say module:function")
    try:
        found = getattr(importlib.import_module(module), function)
    except Exception as error:  # whatever a module raises when it is imported
        raise HookError(f"{ON_EPOCH}={name}: {type(error).__name__}: {error}") from error
    if not callable(found):
        raise HookError(f"{ON_EPOCH}={name}: {function} is a {type(found).__name__}, which cannot be called")
    return found
