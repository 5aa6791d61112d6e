"""The error of a grid or a command line that cannot be run. In a file of its own: the command line needs it at once."""

from __future__ import annotations

from tune.store.errors import CommandError


class GridError(CommandError):
    """A grid or a command line that cannot be run; the message names the value and where it came from."""
