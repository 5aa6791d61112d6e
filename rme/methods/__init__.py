"""The registry of methods: every `Method` subclass with a name, in any file of this folder not starting with `_`.

`register` adds a class that is defined elsewhere, in a notebook for instance.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from typing import TypeVar

from rme.errors import nearest
from rme.methods.base import Method, Update

__all__ = ["Method", "Update", "get", "names", "register", "registry"]

M = TypeVar("M", bound=type[Method])

_registry: dict[str, type[Method]] | None = None


def registry() -> dict[str, type[Method]]:
    """All methods by name. ImportError names a file that cannot be imported or whose class is incomplete."""
    global _registry
    if _registry is None:
        found: dict[str, type[Method]] = {}
        for module_info in pkgutil.iter_modules(__path__):
            if module_info.name.startswith("_") or module_info.name == "base":
                continue
            where = f"rme/methods/{module_info.name}.py"
            try:
                module = importlib.import_module(f"{__name__}.{module_info.name}")
            except Exception as error:
                raise ImportError(f"{where}: {type(error).__name__}: {error}") from error
            items = [item for item in vars(module).values() if isinstance(item, type) and issubclass(item, Method)]
            # a class without a name is an abstract base, such as that of RME and BVI
            items = [item for item in items if item.__module__ == module.__name__ and hasattr(item, "name")]
            if not items:
                raise ImportError(f"{where}: no Method subclass with a name; start a helper file's name with _")
            for item in items:
                if fault := _fault(item, found):
                    raise ImportError(f"{where}: {fault}")
                found[item.name] = item
        _registry = dict(sorted(found.items()))
    return _registry


def register(method: M) -> M:
    """Add a class that is in no file of this folder to the registry of this process; returns it, as a decorator does.

    The same class defined again, as by running a notebook's cell again, replaces the former one. Other processes do
    not know it: a sweep's workers and `rme.load` elsewhere need the file in `rme/methods/`.

    Raises:
        TypeError: it is no subclass of `Method`.
        ValueError: the class is incomplete, or its name is not lower case or already used.

    Example:
        >>> @rme.methods.register
        ... class Mine(rme.methods.get("vae")):
        ...     name, label = "mine", "Mine"
        >>> rme.RunSpec(method="mine", dataset="digits", dim=10).method_label
        'Mine'
    """
    global _registry
    if not (isinstance(method, type) and issubclass(method, Method)):
        raise TypeError(f"register({method!r}): expected a subclass of rme.methods.Method")
    others = {name: each for name, each in registry().items() if _identity(each) != _identity(method)}
    if fault := _fault(method, others):
        raise ValueError(f"{method.__module__}: {fault}")
    others[method.name] = method
    _registry = dict(sorted(others.items()))
    return method


def _identity(method: type[Method]) -> tuple[str, str, str | None]:
    """Equal for a class and the same class defined again."""
    return method.__module__, method.__qualname__, getattr(method, "name", None)


def _fault(item: type[Method], found: Mapping[str, type[Method]]) -> str | None:
    """Why a class cannot be registered beside those already found, or None."""
    missing = [attribute for attribute in ("name", "label") if not hasattr(item, attribute)]
    if inspect.isabstract(item):
        missing += sorted(item.__abstractmethods__)
    if missing:
        return f"{item.__name__} does not declare {', '.join(missing)}"
    if item.name != item.name.lower():
        return f"name={item.name!r} must be lower case"
    if item.name in found:
        return f"name={item.name!r} is already used by {found[item.name].__module__}"
    return None


def names() -> list[str]:
    return list(registry())


def get(name: str) -> type[Method]:
    """The method called `name`, in any case. ValueError lists the valid names."""
    try:
        return registry()[name.lower()]
    except KeyError:
        near = nearest(name, names())
        raise ValueError(f"unknown method {name!r}; {near}valid values are {', '.join(names())}") from None
