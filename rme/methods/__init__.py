"""The registry of methods: every file of this folder whose name does not start with `_` adds its own."""

from __future__ import annotations

import importlib
import inspect
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
            try:
                module = importlib.import_module(f"{__name__}.{module_info.name}")
            except Exception as error:
                raise ImportError(f"{where}: {type(error).__name__}: {error}") from error
            items = [item for item in vars(module).values() if isinstance(item, type) and issubclass(item, Method)]
            # without a name: an abstract family, such as a base of two variants
            items = [item for item in items if item.__module__ == module.__name__ and hasattr(item, "name")]
            if not items:
                raise ImportError(f"{where}: no method with a name in it; a helper file's name starts with _")
            for item in items:
                missing = [] if hasattr(item, "label") else ["label"]
                if inspect.isabstract(item):
                    missing += sorted(item.__abstractmethods__)
                if missing:
                    raise ImportError(f"{where}: {item.__name__} does not declare {', '.join(missing)}")
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
