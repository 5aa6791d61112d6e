"""Recursive mixture encoders and their rivals: amortised inference for variational autoencoders.

`rme.fit(rme.RunSpec(method="rme", order=2, dataset="digits", dim=10))` trains one run and returns its `Result`;
`rme.load` returns the `Model` of a run that has been trained; `rme.sweep` trains many runs, and `rme.runs` reads them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis.library import runs
    from rme.callbacks import Epoch
    from rme.config import RunSpec, SpecError
    from rme.fitting import fit
    from rme.loading import LoadError, load
    from rme.model import Model
    from rme.posterior import Posterior
    from rme.result import Result
    from tune.library import sweep

__version__ = "0.1.0"

__all__ = [
    "Epoch", "LoadError", "Model", "Posterior", "Result", "RunSpec", "SpecError", "fit", "load", "runs", "sweep",
]  # fmt: skip

_HOMES = {
    "Epoch": "rme.callbacks",
    "LoadError": "rme.loading",
    "Model": "rme.model",
    "Posterior": "rme.posterior",
    "Result": "rme.result",
    "RunSpec": "rme.config",
    "SpecError": "rme.config",
    "fit": "rme.fitting",
    "load": "rme.loading",
    "runs": "analysis.library",
    "sweep": "tune.library",
}
"""Where each name is defined. Nothing in `rme` uses `runs` and `sweep`: other rooms', which need MLflow or Ray."""


def __getattr__(name: str) -> Any:
    # imported on demand, so that networks and engine need only torch and numpy
    if name in _HOMES:
        from importlib import import_module

        value = getattr(import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'rme' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
