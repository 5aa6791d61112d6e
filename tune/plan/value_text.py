"""Values of fields as text: when two of them are the same to `--only`, and lists with ranges, `0-5, 7`."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from rme import data

WHOLE_NUMBERS = ("order", "dim", "seed")
"""Fields whose values may be written as a range."""

_SHORTEST_RANGE = 3
"""How many consecutive numbers are listed as a range."""


def same(name: str, value: Any) -> Any:
    """What is equal for values of the field that mean the same: `2e-5` and 2.0e-5, `VAE` and `vae`, None and `none`."""
    if name == "dataset" and isinstance(value, str):
        try:
            return data.canonical_name(value)
        except (ValueError, OSError):  # unknown, or a path that cannot be one
            return value.lower()
    if name != "variant":  # a name, also `2e-5`
        number = _number(value)
        if number is not None:
            return number
    return str(value).lower()


def listed(name: str, values: Iterable[Any], separator: str = ", ") -> str:
    """The values, numbers in their order and, of whole numbers, with ranges; a text with a comma is in quotes."""
    texts: list[str] = []
    numbers: dict[float, Any] = {}
    for value in values:
        number = None if name == "variant" else _number(value)
        if number is None:
            texts.append(_quoted("none" if value is None else str(value)))
        else:
            numbers.setdefault(number, value)
    ordered = [numbers[number] for number in sorted(numbers)]
    if name in WHOLE_NUMBERS:
        ordered = _ranges(ordered)
    return separator.join(dict.fromkeys([*texts, *map(str, ordered)]))


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if "," in text or '"' in text else text


def _number(value: Any) -> float | None:
    """The value as a number, also of a text such as YAML's `2e-5`; None if it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _ranges(ordered: list[Any]) -> list[str]:
    """Ascending whole numbers as `0`, `1`, `7-11`."""
    runs: list[list[Any]] = []
    for value in ordered:
        if runs and str(value) == str(int(float(runs[-1][-1])) + 1):
            runs[-1].append(value)
        else:
            runs.append([value])
    texts: list[str] = []
    for run in runs:
        texts += [f"{run[0]}-{run[-1]}"] if len(run) >= _SHORTEST_RANGE else map(str, run)
    return texts
