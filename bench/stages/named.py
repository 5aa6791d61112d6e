"""Cases whose entries carry the case's name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from bench.stages.case import Case, Check, Number


def named(name: str, measure: Callable[[], Sequence[Check | Number]]) -> Case:
    """The case `name`; its name precedes what each entry measures, because tables list entries without their cases."""
    return Case(name, lambda: [replace(entry, what=f"{name}: {entry.what}") for entry in measure()])
