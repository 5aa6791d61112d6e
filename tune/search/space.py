"""Reads search spaces from YAML as Optuna's distributions, and validates them with RunSpec before anything starts.

A space maps fields of RunSpec, or `options.NAME`, to ranges or choices:

    stage_learning_rate: {log-uniform: [1.0e-6, 1.0e-3]}
    eps_max: {uniform: [0.05, 0.5]}
    stage_epochs: {integers: [5, 50]}
    batch_size: {choices: [64, 128, 256]}
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import TypeAdapter, ValidationError

from analysis.names import CELL
from rme.config import RunSpec, SpecError
from rme.errors import nearest
from tune.plan.grid import GridError
from tune.plan.yaml_text import YamlError, parse

SPACES = Path(__file__).parent.parent / "spaces"

FIXED = (*CELL, "seed", "restarts", "iwae_samples")
"""Fields that a search cannot change, because they name its cell or define its score."""

_KINDS = "log-uniform: [low, high], uniform: [low, high], integers: [low, high] or choices: [a, b, ...]"


class SpaceError(GridError):
    """An invalid search space; the message names the file, the line, and valid values."""


@dataclass(frozen=True)
class Space:
    """A search space: the distribution of each field, by its name."""

    path: Path
    fields: Mapping[str, BaseDistribution]

    def apply(self, spec: RunSpec, values: Mapping[str, Any]) -> RunSpec:
        """The run with these values of its fields. Raises SpecError for invalid values."""
        return RunSpec.of(_with(spec, values))

    def own_values(self, spec: RunSpec) -> dict[str, Any] | None:
        """The run's own values of the searched fields; None if one is outside the space."""
        resolved = {"stage_epochs": spec.training_epochs, "stage_learning_rate": spec.rate}
        known = {**spec.model_dump(), **resolved, "stage_patience": spec.own_patience, "stage_keep": spec.own_keep}
        options = {**spec.method_class.options, **spec.options}
        own = {name: options[_option(name)] if _option(name) else known[name] for name in self.fields}
        return own if all(_contains(self.fields[name], value) for name, value in own.items()) else None

    @property
    def combinations(self) -> list[dict[str, Any]] | None:
        """All combinations of values if every field has choices; None otherwise."""
        choices = []
        for distribution in self.fields.values():
            if not isinstance(distribution, CategoricalDistribution):
                return None
            choices.append(distribution.choices)
        return [dict(zip(self.fields, values, strict=True)) for values in itertools.product(*choices)]


def load(source: str, cell: RunSpec) -> Space:
    """Read a space by its file's path, or by its name in tune/spaces, for the cell of the run `cell`.

    Raises SpaceError: file not found, malformed YAML, values that RunSpec refuses, or a field that the method does not
    read, that names the cell or defines the score, or on which the VAE that the method starts from depends.
    """
    path = Path(source)
    if not path.is_file():
        path = SPACES / f"{source}.yaml"
    if not path.is_file():
        names = sorted(p.stem for p in SPACES.glob("*.yaml"))
        known = f"give a path, or a name from tune/spaces: {', '.join(names)}"
        raise SpaceError(f"--space {source}: file not found; {nearest(source, names)}{known}")
    fields: dict[str, BaseDistribution] = {}
    for name, content, line in _entries(path):
        where = f"{path}, line {line}: {name}"
        _check_field(where, name, cell)
        fields[name] = _distribution(where, name, content)
    _check_together(path, fields, cell)
    return Space(path, fields)


def _entries(path: Path) -> list[tuple[str, Any, int]]:
    """(field, content, line) of each entry of the file."""
    try:
        document = parse(path.read_text())
    except (OSError, UnicodeDecodeError, YamlError) as error:
        raise SpaceError(f"{path}: {error}") from None
    if not isinstance(document.value, dict) or not document.value:
        raise SpaceError(f"{path}: a search space maps fields to {_KINDS}")
    first = document.node.start_mark.line + 1
    return [(str(name), content, document.lines.get(name, first)) for name, content in document.value.items()]


def _check_field(where: str, name: str, cell: RunSpec) -> None:
    read = _fields_read(cell)
    of_parent = _fields_read(cell.parent) if cell.parent is not None else []
    searchable = [field for field in read if field not in FIXED and field not in of_parent]
    searchable += [f"options.{option}" for option in cell.method_class.options]
    if name in searchable:
        return
    right = f"{cell.method_label}'s fields that can be searched are {', '.join(searchable) or 'none'}"
    if name in FIXED:
        raise SpaceError(f"{where}: a search has one cell and one score, so it cannot change this field; {right}")
    if name in of_parent:
        start = cell.method_class.starts_from
        raise SpaceError(f"{where}: the {start} that it starts from depends on it; search that instead; {right}")
    if name in RunSpec.model_fields:
        raise SpaceError(f"{where}: {cell.method_label} does not read it; {right}")
    raise SpaceError(f"{where}: no such field; {right}")


def _fields_read(spec: RunSpec) -> list[str]:
    """The fields that change the run's result, also those that do so only if another field is set."""
    fields = [field for field in spec.canonical if field in RunSpec.model_fields and field != "options"]
    if not spec.method_class.trains:
        return fields
    staged = ["stage_patience", "stage_keep"] if spec.parent is not None else []
    return list(dict.fromkeys([*fields, "finish_epochs", "finish_learning_rate", "patience", *staged]))


def _distribution(where: str, name: str, content: Any) -> BaseDistribution:
    """The distribution that the content describes. Raises SpaceError for values that the field cannot have."""
    if not isinstance(content, dict) or len(content) != 1 or not isinstance(next(iter(content.values())), list):
        raise SpaceError(f"{where}: {content!r} must be one of {_KINDS}")
    ((kind, given),) = content.items()
    if kind == "choices":
        if not given:
            raise SpaceError(f"{where}: choices: [] must name at least one value")
        return CategoricalDistribution([_valid(where, name, value) for value in given])
    if kind not in ("log-uniform", "uniform", "integers"):
        raise SpaceError(f"{where}: {kind!r} must be one of {_KINDS}")
    if len(given) != 2:
        raise SpaceError(f"{where}: {kind}: {given} must be a low and a high end")
    low, high = (_number(where, value) for value in given)
    if not low < high:
        raise SpaceError(f"{where}: {kind}: {given}: the low end must be below the high one")
    if kind == "integers":
        if not (low.is_integer() and high.is_integer()):
            raise SpaceError(f"{where}: integers: {given} must be whole numbers")
        distribution: IntDistribution | FloatDistribution = IntDistribution(int(low), int(high))
    else:
        if kind == "log-uniform" and low <= 0:
            raise SpaceError(f"{where}: log-uniform: {given} must be above 0")
        if _is_whole(name):
            raise SpaceError(f"{where}: must be whole numbers: write integers: [low, high] or choices: [a, b, ...]")
        distribution = FloatDistribution(low, high, log=kind == "log-uniform")
    for end in (distribution.low, distribution.high):
        _valid(where, name, end)
    return distribution


def _number(where: str, value: Any) -> float:
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            return float(value)  # YAML reads 1e-6, without a dot, as text
        except (ValueError, OverflowError):
            pass
    raise SpaceError(f"{where}: {value!r} must be a number")


def _adapter(name: str) -> TypeAdapter:
    if _option(name):
        return TypeAdapter(float)
    field = RunSpec.model_fields[name]
    kind: Any = Annotated[field.annotation, field]
    return TypeAdapter(kind)


def _valid(where: str, name: str, value: Any) -> Any:
    """The value converted to the field's type."""
    try:
        return _adapter(name).validate_python(value)
    except ValidationError as error:
        raise SpaceError(f"{where}={value!r}: {error.errors()[0]['msg']}") from None


def _is_whole(name: str) -> bool:
    try:
        return _adapter(name).validate_python(2.0) == 2 and isinstance(_adapter(name).validate_python(2.0), int)
    except ValidationError:
        return False


def _check_together(path: Path, fields: Mapping[str, BaseDistribution], cell: RunSpec) -> None:
    """Check the corners of the space with RunSpec, because fields limit each other. Raises SpaceError."""
    for corner in itertools.product(*map(ends, fields.values())):
        values = dict(zip(fields, corner, strict=True))
        try:
            RunSpec.of(_with(cell, values))
        except SpecError as error:
            listed = ", ".join(f"{name}={value}" for name, value in values.items())
            raise SpaceError(f"{path}: invalid combination {listed}: {error}") from None


def ends(distribution: BaseDistribution) -> tuple[Any, ...]:
    """The lowest and the highest value, or all choices."""
    if isinstance(distribution, CategoricalDistribution):
        return tuple(distribution.choices)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return distribution.low, distribution.high


def _contains(distribution: BaseDistribution, value: Any) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return distribution.low <= value <= distribution.high


def _with(spec: RunSpec, values: Mapping[str, Any]) -> dict[str, Any]:
    fields = {name: value for name, value in values.items() if not _option(name)}
    options = {_option(name): value for name, value in values.items() if _option(name)}
    return {**spec.model_dump(), **fields, "options": {**spec.options, **options}}


def _option(name: str) -> str:
    """`beta` of `options.beta`; empty for a field."""
    return name.removeprefix("options.") if name.startswith("options.") else ""
