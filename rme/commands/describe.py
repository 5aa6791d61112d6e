"""Print the networks of a method layer by layer, with their shapes and numbers of parameters."""

from __future__ import annotations

from rme.describe import options, run

__all__ = ["options", "run"]
