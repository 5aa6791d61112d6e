"""Errors that a user can mend: the command ends with status 2 and the message, without a traceback."""

from __future__ import annotations


class CommandError(ValueError):
    """The command cannot be carried out; the message names the value, where it came from, and what would be right."""
