"""Numbers that a user gives, checked."""

from __future__ import annotations

import operator
from typing import Any


def whole(name: str, value: Any, low: int) -> int:
    """The value as an int. ValueError with its name unless it is a whole number of at least `low`."""
    try:
        found = operator.index(value)
    except TypeError:
        raise ValueError(f"{name}={value!r}: expected a whole number, {low} or more") from None
    if found < low:
        raise ValueError(f"{name}={found}: expected a whole number, {low} or more")
    return found
