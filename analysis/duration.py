"""Durations in words, in the unit a reader would choose."""

from __future__ import annotations

_UNITS = (("s", 1, 60), ("min", 60, 90), ("h", 3600, 48), ("days", 86400, 730), ("years", 365.25 * 86400, float("inf")))
"""Unit, its seconds, and from how many of them the next unit is used."""

SECONDS = {unit: seconds for unit, seconds, _ in _UNITS}
"""Seconds of each unit of `duration`."""


def duration(seconds: float) -> str:
    """`42 s`, `5.4 min`, `2.1 h`, `3.2 days` or `4.5 years`: two significant digits, all digits from 10 on.

    Minutes are used up to 90, hours up to 48, days up to 730.
    """
    for unit, size, limit in _UNITS:
        amount = seconds / size
        text = two_digits(amount)
        if float(text.replace(",", "")) < limit:
            return f"{text} {unit}"
    raise ValueError(f"a duration of {seconds} s is not a number")


def two_digits(amount: float) -> str:
    """`5.4`, `14`, `1,320`: two significant digits, all digits from 10 on."""
    return f"{amount:.1f}" if round(amount, 1) < 10 else f"{amount:,.0f}"
