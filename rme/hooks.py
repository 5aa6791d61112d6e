"""A user's function, called after each epoch of every training: `RME_ON_EPOCH=module:function`."""

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
    """RME_ON_EPOCH does not name a callable that can be imported."""


def on_epoch() -> Callable[[Engine], None] | None:
    """The function that RME_ON_EPOCH names, which takes the engine; None if the variable is not set.

    It is called after the epoch's checkpoint is written. It may read the engine; changes to the engine change the
    training. An exception that it raises ends the training.

    Raises:
        HookError: the value is not module:function, or the module or function cannot be imported.
    """
    name = os.environ.get(ON_EPOCH)
    if not name:
        return None
    module, _, function = name.partition(":")
    if not module or not function:
        raise HookError(f"{ON_EPOCH}={name}: expected module:function")
    try:
        found = getattr(importlib.import_module(module), function)
    except Exception as error:  # importing a module may raise anything
        raise HookError(f"{ON_EPOCH}={name}: {type(error).__name__}: {error}") from error
    if not callable(found):
        raise HookError(f"{ON_EPOCH}={name}: {function} is a {type(found).__name__}, which is not callable")
    return found
