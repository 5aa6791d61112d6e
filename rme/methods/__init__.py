"""The registry of methods: every `Method` subclass with a name, in any file of this folder not starting with `_`."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

from rme.methods.base import Method, Update

__all__ = ["Method", "Update", "get", "names", "registry"]

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
                missing = [] if hasattr(item, "label") else ["label"]
                if inspect.isabstract(item):
                    missing += sorted(item.__abstractmethods__)
                if missing:
                    raise ImportError(f"{where}: {item.__name__} does not declare {', '.join(missing)}")
                if item.name != item.name.lower():
                    raise ImportError(f"{where}: name={item.name!r} must be lower case")
                if item.name in found:
                    raise ImportError(f"{where}: name={item.name!r} is already used by {found[item.name].__module__}")
                found[item.name] = item
        _registry = dict(sorted(found.items()))
    return _registry


def names() -> list[str]:
    return list(registry())


def get(name: str) -> type[Method]:
    """The method called `name`, in any case. ValueError lists the valid names."""
    try:
        return registry()[name.lower()]
    except KeyError:
        raise ValueError(f"unknown method {name!r}; valid values are {', '.join(names())}") from None
