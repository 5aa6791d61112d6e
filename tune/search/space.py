"""Search spaces: YAML to Optuna's distributions, each value held against RunSpec before anything starts.

A space maps fields of RunSpec, or `options.NAME`, to where their values are looked for:

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
from tune.plan.grid import GridError
from tune.plan.yaml_text import YamlError, parse

SPACES = Path(__file__).parent.parent / "spaces"

HELD = (*CELL, "seed", "restarts", "iwae_samples")
"""Fields that a search cannot choose: they say which cell it is for, or what its score means."""

_KINDS = "log-uniform: [low, high], uniform: [low, high], integers: [low, high] or choices: [a, b, ...]"


class SpaceError(GridError):
    """A search space that cannot be searched; the message names the file, the line, and what would be right."""


@dataclass(frozen=True)
class Space:
    """Where each field's values are looked for, by the field's name."""

    path: Path
    fields: Mapping[str, BaseDistribution]

    def apply(self, spec: RunSpec, values: Mapping[str, Any]) -> RunSpec:
        """The run with these values in its fields. Raises SpecError."""
        return RunSpec.of(_with(spec, values))

    def own_values(self, spec: RunSpec) -> dict[str, Any] | None:
        """The run's own values of the fields, or None if they do not all lie in the space."""
        resolved = {"stage_epochs": spec.training_epochs, "stage_learning_rate": spec.rate}
        known = {**spec.model_dump(), **resolved, "stage_patience": spec.own_patience, "stage_keep": spec.own_keep}
        options = {**spec.method_class.options, **spec.options}
        own = {name: options[_option(name)] if _option(name) else known[name] for name in self.fields}
        return own if all(_contains(self.fields[name], value) for name, value in own.items()) else None

    @property
    def combinations(self) -> list[dict[str, Any]] | None:
        """Everything that can be chosen, if all fields have choices; None for a space that has no end."""
        choices = []
        for distribution in self.fields.values():
            if not isinstance(distribution, CategoricalDistribution):
                return None
            choices.append(distribution.choices)
        return [dict(zip(self.fields, values, strict=True)) for values in itertools.product(*choices)]


def load(source: str, cell: RunSpec) -> Space:
    """Read a space by its file's path, or by its name in tune/spaces, for the cell of `cell`.

    Raises SpaceError: no such file, malformed YAML, a field that the method does not read, that belongs to the cell,
    or on which the VAE that it starts from depends too, and values that RunSpec does not take.
    """
    path = Path(source)
    if not path.is_file():
        path = SPACES / f"{source}.yaml"
    if not path.is_file():
        names = ", ".join(sorted(p.stem for p in SPACES.glob("*.yaml")))
        raise SpaceError(f"--space {source}: there is no such file; give the path of one, or of tune/spaces: {names}")
    fields: dict[str, BaseDistribution] = {}
    for name, content, line in _entries(path):
        where = f"{path}, line {line}: {name}"
        _check_field(where, name, cell)
        fields[name] = _distribution(where, name, content)
    _check_together(path, fields, cell)
    return Space(path, fields)


def _entries(path: Path) -> list[tuple[str, Any, int]]:
    """The file's fields, what stands for each, and its line."""
    try:
        document = parse(path.read_text())
    except (OSError, UnicodeDecodeError, YamlError) as error:
        raise SpaceError(f"{path}: {error}") from None
    if not isinstance(document.value, dict) or not document.value:
        raise SpaceError(f"{path}: a search space maps fields to {_KINDS}")
    first = document.node.start_mark.line + 1
    return [(str(name), content, document.lines.get(name, first)) for name, content in document.value.items()]


def _check_field(where: str, name: str, cell: RunSpec) -> None:
    read = _read(cell)
    of_parent = _read(cell.parent) if cell.parent is not None else []
    searchable = [field for field in read if field not in HELD and field not in of_parent]
    searchable += [f"options.{option}" for option in cell.method_class.options]
    if name in searchable:
        return
    right = f"{cell.method_label}'s fields that can be searched are {', '.join(searchable) or 'none'}"
    if name in HELD:
        raise SpaceError(f"{where}: a search is for one cell and one score, so this stays as the grid has it; {right}")
    if name in of_parent:
        start = cell.method_class.starts_from
        raise SpaceError(f"{where}: the {start} that it starts from depends on it too; search it for that; {right}")
    if name in RunSpec.model_fields:
        raise SpaceError(f"{where}: {cell.method_label} does not read it; {right}")
    raise SpaceError(f"{where}: no such field; {right}")


def _read(spec: RunSpec) -> list[str]:
    """The fields that change the run's result, or would if another that is unset were set."""
    fields = [field for field in spec.canonical if field in RunSpec.model_fields and field != "options"]
    if not spec.method_class.trains:
        return fields
    staged = ["stage_patience", "stage_keep"] if spec.parent is not None else []
    return list(dict.fromkeys([*fields, "finish_epochs", "finish_learning_rate", "patience", *staged]))


def _distribution(where: str, name: str, content: Any) -> BaseDistribution:
    """What the content means, of values that the field alone can have."""
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
        if _whole(name):
            raise SpaceError(f"{where}: it is a whole number: say integers: [low, high] or choices: [a, b, ...]")
        distribution = FloatDistribution(low, high, log=kind == "log-uniform")
    for end in (distribution.low, distribution.high):
        _valid(where, name, end)
    return distribution


def _number(where: str, value: Any) -> float:
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            return float(value)  # YAML takes 1e-6, without a dot, for text
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
    """The value as the field has it."""
    try:
        return _adapter(name).validate_python(value)
    except ValidationError as error:
        raise SpaceError(f"{where}={value!r}: {error.errors()[0]['msg']}") from None


def _whole(name: str) -> bool:
    try:
        return _adapter(name).validate_python(2.0) == 2 and isinstance(_adapter(name).validate_python(2.0), int)
    except ValidationError:
        return False


def _check_together(path: Path, fields: Mapping[str, BaseDistribution], cell: RunSpec) -> None:
    """Hold the corners of the space against RunSpec, whose fields bound one another."""
    for corner in itertools.product(*map(ends, fields.values())):
        values = dict(zip(fields, corner, strict=True))
        try:
            RunSpec.of(_with(cell, values))
        except SpecError as error:
            listed = ", ".join(f"{name}={value}" for name, value in values.items())
            raise SpaceError(f"{path}: {listed} cannot be together: {error}") from None


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
