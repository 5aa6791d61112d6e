"""Recursive mixture encoders and their rivals: amortised inference for variational autoencoders.

`rme.fit(rme.RunSpec(method="rme", order=2, dataset="digits", dim=10))` trains one run and returns its `Result`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rme.config import RunSpec, SpecError
    from rme.fitting import fit
    from rme.result import Result

__all__ = ["Result", "RunSpec", "SpecError", "fit"]

_HOMES = {"RunSpec": "config", "SpecError": "config", "Result": "result", "fit": "fitting"}


def __getattr__(name: str) -> Any:
    # imported on demand, so that networks and engine need only torch and numpy
    if name in _HOMES:
        from importlib import import_module

        value = getattr(import_module(f"rme.{_HOMES[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'rme' has no attribute {name!r}")
