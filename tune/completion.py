"""What the shell offers when Tab is pressed: argcomplete asks the program itself, which answers without torch."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, get_args

import yaml
from argcomplete import autocomplete
from argcomplete.completers import DirectoriesCompleter, FilesCompleter

from rme import registered_names
from rme.run_fields import RunFields
from tune.plan import grid_files

SPACES = Path(__file__).parent / "spaces"

Completer = Callable[..., Iterable[str]]
"""Called with `prefix`, the word so far, and `parsed_args`, the options before it."""


def complete(parser: argparse.ArgumentParser) -> None:
    """Print what can follow on the command line that argcomplete has put into the environment, and end the program."""
    yaml_files, folders = FilesCompleter(("yaml", "yml")), DirectoriesCompleter()
    completers: dict[str, Completer] = {
        "grid": _names_or(yaml_files, grid_files.names),
        "only": _assignments(of_grid=True),
        "set": _assignments(of_grid=False),
        "dataset": _names_or(FilesCompleter(("npz",)), registered_names.data_sets),
        "space": _names_or(yaml_files, lambda: sorted(path.stem for path in SPACES.glob("*.yaml"))),
        "storage": folders,
        "data_dir": folders,
        "report": folders,
        "address": _names_or(None, lambda: ["auto"]),
        "gpus_per_trial": _names_or(None, lambda: ["auto"]),
        "members": _names_or(None, lambda: ["auto"]),
    }
    for action in parser._actions:
        if action.nargs != 0 and not action.choices:
            action.completer = completers.get(action.dest, _nothing)  # type: ignore[attr-defined]
    autocomplete(parser, always_complete_options="long")


def _nothing(**_: Any) -> list[str]:
    return []


def _names_or(files: Completer | None, names: Callable[[], Iterable[str]]) -> Completer:
    """Names, and files where there are any that match."""

    def completer(prefix: str, **others: Any) -> list[str]:
        return [*names(), *(files(prefix=prefix, **others) if files is not None else ())]

    return completer


def _assignments(of_grid: bool) -> Completer:
    """`FIELD=`, then the values of that field: those of the grid, or all that the field can have."""

    def completer(prefix: str, parsed_args: argparse.Namespace, **_: Any) -> list[str]:
        field, sign, text = prefix.partition("=")
        if not sign:
            return [f"{name}=" for name in RunFields.model_fields if name != "options"]
        values = _values(field)
        if of_grid and (own := _grids_own(field, parsed_args.grid)):
            values = own
        before = f"{field}={text.rpartition(',')[0]}{',' if ',' in text else ''}"
        given = text.split(",")[:-1]
        return [before + value for value in values if value not in given]

    return completer


def _values(field: str) -> list[str]:
    """The values that a field can have, if they can be listed."""
    listed = {"method": registered_names.methods, "dataset": registered_names.data_sets}
    if field in listed:
        return listed[field]()
    if field not in RunFields.model_fields:
        return []
    annotation = RunFields.model_fields[field].annotation
    parts = [annotation, *get_args(annotation)]
    return [value for part in parts for value in get_args(part) if isinstance(value, str)]


def _grids_own(field: str, grid: str | None) -> list[str]:
    """The values of the field in a grid's file, as it writes them; none of `all` and of a file that is no grid."""
    if grid is None:
        return []
    try:
        content = yaml.safe_load(grid_files.find(grid).read_text())
        written = [each[field] for each in (content["defaults"], *content["rows"]) if field in each]
    except (OSError, ValueError, LookupError, TypeError, yaml.YAMLError):
        return []
    values = [value for each in written for value in (each if isinstance(each, list) else [each])]
    texts = ["none" if value is None else str(value) for value in values]
    return [] if "all" in texts else list(dict.fromkeys(text for text in texts if "," not in text))
