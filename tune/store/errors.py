"""Errors that a user can fix: the command prints the message without a traceback, and ends with status 2."""

from __future__ import annotations


class CommandError(ValueError):
    """The command cannot be executed. The message names the value, where it came from, and what would be valid."""
