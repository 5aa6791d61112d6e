"""The registry of data sets: every `Dataset` subclass in any file of this folder not starting with `_`.

A user's .npz file needs no registration: its path is its name.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil

from rme.data._npz import Npz
from rme.data.base import DataError, Dataset, Images, Split

__all__ = [
    "DataError", "Dataset", "Images", "Split",
    "canonical_name", "get", "identity", "label", "names", "registry",
]  # fmt: skip

_DECLARED = ("name", "label", "version", "shape", "counts", "source")

_registry: dict[str, Dataset] | None = None


def registry() -> dict[str, Dataset]:
    """All data sets by name. ImportError names a file that cannot be imported or whose class is incomplete."""
    global _registry
    if _registry is None:
        found: dict[str, Dataset] = {}
        for module_info in pkgutil.iter_modules(__path__):
            if module_info.name.startswith("_") or module_info.name == "base":
                continue
            where = f"rme/data/{module_info.name}.py"
            try:
                module = importlib.import_module(f"{__name__}.{module_info.name}")
            except Exception as error:
                raise ImportError(f"{where}: {type(error).__name__}: {error}") from error
            items = [item for item in vars(module).values() if isinstance(item, type) and issubclass(item, Dataset)]
            items = [item for item in items if item.__module__ == module.__name__ and not inspect.isabstract(item)]
            if not items:
                raise ImportError(f"{where}: no Dataset subclass with a load(); start a helper file's name with _")
            for item in items:
                missing = [attribute for attribute in _DECLARED if not hasattr(item, attribute)]
                if missing:
                    raise ImportError(f"{where}: {item.__name__} does not declare {', '.join(missing)}")
                if item.name != item.name.lower():
                    raise ImportError(f"{where}: name={item.name!r} must be lower case")
                if item.name in found:
                    other = type(found[item.name]).__module__
                    raise ImportError(f"{where}: name={item.name!r} is already used by {other}")
                found[item.name] = item()
        _registry = dict(sorted(found.items()))
    return _registry


def names() -> list[str]:
    return list(registry())


def get(name: str) -> Dataset:
    """The data set called `name`, in any case, or the .npz file at that path, which need not exist yet.

    ValueError lists the valid names.
    """
    if name.lower().endswith(".npz"):
        return Npz(name)
    try:
        return registry()[name.lower()]
    except KeyError:
        valid = ", ".join(names())
        raise ValueError(f"unknown data set {name!r}; valid values are {valid}, or the path of an .npz file") from None


def canonical_name(name: str) -> str:
    """The registered, lower-case name, or an .npz file's absolute path. Raises ValueError as `get` does."""
    return get(name).name


def identity(name: str) -> str:
    """The data set's part of a run's key: `mnist-1`, or `npz-1-<hash of the file's content>`.

    Raises ValueError as `get` does, and DataError naming an .npz file that does not exist.
    """
    return get(name).identity


def label(name: str) -> str:
    """The name in tables: `MNIST`, or an .npz file's name without folder and suffix. Raises ValueError as `get`."""
    return get(name).label
