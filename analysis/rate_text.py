"""A learning rate in words."""

from __future__ import annotations


def rate_text(rate: float | None) -> str:
    """A learning rate as text: `5e-4`, `0.05`; empty if there is none."""
    if rate is None:
        return ""
    mantissa, _, exponent = f"{rate:.6e}".partition("e")
    digits = mantissa.rstrip("0").rstrip(".")
    return f"{digits}e{int(exponent)}" if rate < 0.01 else f"{rate:g}"
