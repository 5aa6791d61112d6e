"""Numbers of things in words."""

from __future__ import annotations


def counted(count: int, name: str) -> str:
    """`1 seed`, `2 seeds`, `1,320 trainings`."""
    return f"{count:,} {name}{'' if count == 1 else 's'}"
