"""The registry of data sets: every `Dataset` subclass in any file of this folder not starting with `_`.

A user's own images need no registration: the path of an .npz file or of a folder is their name.
"""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
import re

from rme.data._encoded import without_side
from rme.data._folder import Folder
from rme.data._hugging_face import HuggingFace, is_saved
from rme.data._in_memory import NAME as IN_MEMORY
from rme.data._in_memory import InMemory, is_in_memory
from rme.data._in_memory import name_of as name_in_memory
from rme.data._npz import Npz
from rme.data._paths import absolute
from rme.data._sizes import SUPPORTED, is_supported
from rme.data.base import DataError, Dataset, Images, Split
from rme.data.checks import check, check_images
from rme.errors import nearest

__all__ = [
    "IN_MEMORY", "SUPPORTED", "DataError", "Dataset", "Images", "Split",
    "canonical_name", "check", "check_images", "get", "identity", "is_in_memory", "is_supported", "label",
    "name_in_memory", "names", "registry",
]  # fmt: skip

_HELPERS = ("base", "checks")
"""Files without data sets, beside those whose names start with `_`."""
_DECLARED = ("name", "label", "version", "shape", "counts", "source")

_registry: dict[str, Dataset] | None = None


def registry() -> dict[str, Dataset]:
    """All data sets by name. ImportError names a file that cannot be imported or whose class is incomplete."""
    global _registry
    if _registry is None:
        found: dict[str, Dataset] = {}
        for module_info in pkgutil.iter_modules(__path__):
            if module_info.name.startswith("_") or module_info.name in _HELPERS:
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
    """The data set called `name`, in any case; else the .npz file or the folder at that path, or images in memory.

    A file need not exist yet, and a folder neither, if its name has a separator (`./photos`). A folder's name may end
    in `@SIDE`. ValueError lists the valid names; DataError says why a path is not valid.
    """
    if name.lower().endswith(".npz"):
        return Npz(name)
    if is_in_memory(name):
        return InMemory(name)
    if (registered := registry().get(name.lower())) is not None:
        return registered
    if not _is_folder(name):
        valid = f"{', '.join(names())}, the path of an .npz file, or that of a folder of images"
        near = nearest(name, names())
        raise ValueError(
            f"unknown data set {name!r}; {near}valid values are {valid}, with a / if it does not exist yet"
        )
    return HuggingFace(name) if is_saved(absolute(without_side(name)[0])) else Folder(name)


def _is_folder(name: str) -> bool:
    """Whether a name that is not registered is a folder's: it has a separator, or the folder exists."""
    if os.sep in name or (os.altsep is not None and os.altsep in name):
        return True
    return name != "" and os.path.isdir(os.path.expanduser(re.sub("@[0-9]+$", "", name)))


def canonical_name(name: str) -> str:
    """The registered, lower-case name, or an .npz file's or a folder's absolute path. Raises ValueError as `get`."""
    return get(name).name


def identity(name: str) -> str:
    """The data set's part of a run's key: `mnist-1`, or `npz-1-<hash of the file's content>`; so of a folder.

    Raises ValueError as `get` does, and DataError naming an .npz file or a folder that does not exist.
    """
    return get(name).identity


def label(name: str) -> str:
    """The name in tables: `MNIST`, or a folder's, or an .npz file's without suffix. Raises ValueError as `get`."""
    return get(name).label
