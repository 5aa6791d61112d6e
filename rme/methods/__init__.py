"""The registry of methods: every file of this folder whose name does not start with `_` adds its own."""

from __future__ import annotations

import importlib
import pkgutil

from rme.methods.base import Method, Update

__all__ = ["Method", "Update", "get", "names", "registry"]

_registry: dict[str, type[Method]] | None = None


def registry() -> dict[str, type[Method]]:
    """All methods by name. Raises ImportError naming the file when one cannot be imported or is incomplete."""
    global _registry
    if _registry is None:
        found: dict[str, type[Method]] = {}
        for module_info in pkgutil.iter_modules(__path__):
            if module_info.name.startswith("_") or module_info.name == "base":
                continue
            where = f"rme/methods/{module_info.name}.py"
            module = importlib.import_module(f"{__name__}.{module_info.name}")
            for item in vars(module).values():
                if not (isinstance(item, type) and issubclass(item, Method)) or item.__module__ != module.__name__:
                    continue
                if not hasattr(item, "name"):
                    continue  # an abstract family, such as a base of two variants
                if item.name != item.name.lower():
                    raise ImportError(f"{where}: name={item.name!r} must be lower case")
                if item.name in found:
                    raise ImportError(f"{where}: the name {item.name!r} is taken by {found[item.name].__module__}")
                found[item.name] = item
        _registry = dict(sorted(found.items()))
    return _registry


def names() -> list[str]:
    return list(registry())


def get(name: str) -> type[Method]:
    """The method called `name` (case does not matter). Raises ValueError naming the choices."""
    try:
        return registry()[name.lower()]
    except KeyError:
        raise ValueError(f"there is no method {name!r}; there are {', '.join(names())}") from None
