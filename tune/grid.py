"""Grids: YAML to runs, and runs to trials.

A grid's rows and defaults hold a value, a list of values or, for whole numbers, a range such as `0-9` for each field
of RunSpec; a row stands for every combination. `method: all` is every registered method, `decoder: all` every decoder
that the method supports, `order: all` or `order: lowest` its orders.

`kind: timing` makes a grid's runs timings of inference (`rme.timing`), which train nothing.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from yaml.reader import ReaderError

from rme import data, methods
from rme.config import RunSpec, SpecError
from rme.timing import TimingSpec

KINDS: dict[str, tuple[type[RunSpec], tuple[str, ...]]] = {
    "training": (RunSpec, tuple(RunSpec.model_fields)),
    "timing": (TimingSpec, TimingSpec.FIELDS),
}
"""For each kind of grid what a run of it is, and the fields that it has."""

GRIDS = Path(__file__).parent / "grids"
CELL_FIELDS = ("method", "order", "dataset", "dim", "decoder")
_RANGE = re.compile(r"(\d+)-(\d+)")
_WHOLE_NUMBERS = ("order", "dim", "seed")


class GridError(ValueError):
    """A grid or a command line that cannot be run; the message names the value and where it came from."""


@dataclass(frozen=True)
class Grid:
    """A named list of wanted runs.

    Attributes:
        name: also the name of its MLflow experiment.
        runs: the runs that can be run, each once, in the grid's order.
        absent: for each cell that cannot be run yet, because its method or data set is not there, the values of one
            of its runs, how many runs it has, and why.
        kind: what its runs are, a name of `KINDS`.
    """

    name: str
    description: str
    runs: tuple[RunSpec, ...]
    absent: tuple[AbsentCell, ...]
    kind: str = "training"


@dataclass(frozen=True)
class AbsentCell:
    """A cell of a grid whose method or data set is not in its registry."""

    values: Mapping[str, Any]
    seeds: int
    restarts: int
    reason: str


def load(
    source: str, only: Mapping[str, Sequence[str]] | None = None, overrides: Mapping[str, Any] | None = None
) -> Grid:
    """Read a grid by its name (`demo`) or its file's path, keep what `only` says, and set what `overrides` says.

    Raises GridError: no such grid, malformed YAML (with line and column), an impossible run, nothing left.
    """
    path = find(source)
    content = _parse(path)
    kind = content["kind"]
    wanted = [values for number, row in enumerate(content["rows"], 1) for values in _expand(content, row, path, number)]
    for values in wanted:
        for field, value in (overrides or {}).items():
            _override(values, field, value, kind)
    wanted = _keep(wanted, only or {}, kind)
    name = str(content.get("name", path.stem))
    source = " with ".join([str(path), *(f"--set {field}={value}" for field, value in (overrides or {}).items())])
    return _grid(name, str(content.get("description", "")), wanted, source, kind)


def find(source: str) -> Path:
    """The file of a grid. Raises GridError naming the grids there are."""
    if source.endswith((".yaml", ".yml")):
        path = Path(source)
        if not path.is_file():
            raise GridError(f"--grid {source}: there is no such file")
        return path
    path = GRIDS / f"{source}.yaml"
    if not path.is_file():
        names = ", ".join(sorted(p.stem for p in GRIDS.glob("*.yaml")))
        raise GridError(f"--grid {source}: there is no such grid; there are {names}, or give the path of a .yaml file")
    return path


def _parse(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise GridError(f"{path}: {where}{error.problem or error.context}") from None
    except ReaderError as error:  # a character that YAML does not allow
        before = path.read_text()[: error.position]
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        raise GridError(f"{path}: line {line}, column {column}: {error.reason}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise GridError(f"{path}: {error}") from None
    if not isinstance(content, dict) or not isinstance(content.get("rows"), list) or not content["rows"]:
        raise GridError(
            f"{path}: a grid is a mapping with a list `rows`, and `name`, `description`, `kind`, `defaults` if wanted"
        )
    unknown = set(content) - {"name", "description", "kind", "defaults", "rows"}
    if unknown:
        names = ", ".join(sorted(map(str, unknown)))
        raise GridError(f"{path}: {names}: a grid has name, description, kind, defaults and rows alone")
    if content.setdefault("kind", "training") not in KINDS:
        raise GridError(f"{path}: kind: {content['kind']!r} must be one of {', '.join(KINDS)}")
    if not isinstance(content.setdefault("defaults", {}), dict):
        raise GridError(f"{path}: `defaults` must map fields to values")
    return content


def _expand(content: Mapping[str, Any], row: Any, path: Path, number: int) -> Iterable[dict[str, Any]]:
    """Every combination of a row's values over the defaults, as plain values."""
    if not isinstance(row, dict):
        raise GridError(f"{path}, row {number}: {row!r} must map fields to values")
    merged = {**content["defaults"], **row}
    _, known = KINDS[content["kind"]]
    unknown = set(merged) - set(known)
    if unknown:
        fields = ", ".join(known)
        raise GridError(f"{path}, row {number}: {', '.join(sorted(unknown))}: no such field; the fields are {fields}")
    if "method" not in merged:
        raise GridError(f"{path}, row {number}: it names no method")
    for method in methods.names() if merged["method"] == "all" else _values("method", merged["method"]):
        own = {**merged, "method": method, **_meanings(method, merged)}
        columns = [[(field, value) for value in _values(field, values)] for field, values in own.items()]
        for combination in itertools.product(*columns):
            yield dict(combination)


def _meanings(method: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """What `all` and `lowest` mean for this method."""
    if row.get("decoder") != "all" and row.get("order") not in ("all", "lowest"):
        return {}
    kind = methods.get(method)
    meanings: dict[str, Any] = {}
    if row.get("decoder") == "all":
        meanings["decoder"] = list(kind.decoders)
    if row.get("order") == "all":
        meanings["order"] = list(kind.orders) if kind.orders else None
    if row.get("order") == "lowest":
        meanings["order"] = min(kind.orders) if kind.orders else None
    return meanings


def _values(field: str, value: Any) -> list[Any]:
    """A field's values: of a list each, of a range such as 0-9 each number, else the value itself."""
    if isinstance(value, list):
        return [one for item in value for one in _values(field, item)]
    if field in _WHOLE_NUMBERS and isinstance(value, str) and (match := _RANGE.fullmatch(value.strip())):
        return list(range(int(match[1]), int(match[2]) + 1))
    return [value]


def _override(values: dict[str, Any], field: str, value: Any, kind: str) -> None:
    _, known = KINDS[kind]
    if field.startswith("options."):
        values["options"] = {**values.get("options", {}), field.removeprefix("options."): value}
    elif field in known:
        values[field] = value
    else:
        raise GridError(f"--set {field}={value}: no such field; the fields are {', '.join(known)}")


def _keep(wanted: list[dict[str, Any]], only: Mapping[str, Sequence[str]], kind: str) -> list[dict[str, Any]]:
    spec_class, known = KINDS[kind]
    for field, allowed in only.items():
        if field not in known:
            fields = ", ".join(known)
            raise GridError(f"--only {field}={','.join(allowed)}: no such field; the fields are {fields}")
        default = spec_class.model_fields[field].default
        present = {_text(values.get(field, default)) for values in wanted}
        asked = {str(value).lower() for item in allowed for value in _values(field, item)}
        missing = sorted(asked - present)
        if missing:
            there = ", ".join(sorted(present, key=lambda t: (len(t), t)))
            raise GridError(f"--only {field}={','.join(missing)}: the grid has {field} {there}")
        wanted = [values for values in wanted if _text(values.get(field, default)) in asked]
    if not wanted:
        raise GridError("--only: no run of the grid fits all of it")
    return wanted


def _text(value: Any) -> str:
    return str(value).lower()


def _grid(name: str, description: str, wanted: list[dict[str, Any]], source: str, kind: str) -> Grid:
    spec_class, _ = KINDS[kind]
    runs: dict[str, RunSpec] = {}
    absent: dict[tuple, list[dict[str, Any]]] = defaultdict(list)
    reasons: dict[tuple, str] = {}
    for values in wanted:
        reason = _why_absent(values)
        if reason is not None:
            cell = tuple(values.get(field) for field in CELL_FIELDS)
            absent[cell].append(values)
            reasons[cell] = reason
            continue
        try:
            spec = spec_class.of(values)
        except SpecError as error:
            raise GridError(f"{source}: {error}") from None
        runs.setdefault(spec.key, spec)
    default_restarts = spec_class.model_fields["restarts"].default
    cells = tuple(
        AbsentCell(
            values=of_cell[0],
            seeds=len({values.get("seed", 0) for values in of_cell}),
            restarts=int(of_cell[0].get("restarts", default_restarts)),
            reason=reasons[cell],
        )
        for cell, of_cell in absent.items()
    )
    return Grid(name, description, tuple(runs.values()), cells, kind)


def _why_absent(values: Mapping[str, Any]) -> str | None:
    for field, look_up in (("method", methods.get), ("dataset", data.get)):
        if isinstance(values.get(field), str):
            try:
                look_up(values[field])
            except ValueError as error:
                return str(error)
    return None


# ---------------------------------------------------------------------- trials
@dataclass(frozen=True)
class Trial:
    """What Ray schedules: runs of one cell that are trained as one array.

    The key follows from the runs alone, so that the same grid finds the same trial's checkpoints again.
    """

    runs: tuple[RunSpec, ...]

    @cached_property
    def key(self) -> str:
        return hashlib.sha256(" ".join(spec.key for spec in self.runs).encode()).hexdigest()[:16]

    @cached_property
    def kind(self) -> tuple[tuple[str, str], int]:
        """Of its method and cell, and its members: what it has in common with trials that take as long."""
        return (self.runs[0].method, self.runs[0].cell_key), self.members

    @property
    def name(self) -> str:
        seeds = ", ".join(str(spec.seed) for spec in self.runs)
        return f"{self.runs[0].cell} seed{'s' if len(self.runs) > 1 else ''} {seeds}"

    @property
    def members(self) -> int:
        return sum(spec.restarts for spec in self.runs)


def with_parents(runs: Iterable[RunSpec]) -> list[RunSpec]:
    """The runs and all that they start from, parents first, each once."""
    ordered: dict[str, RunSpec] = {}

    def add(spec: RunSpec) -> None:
        if spec.parent is not None:
            add(spec.parent)
        ordered.setdefault(spec.key, spec)

    for spec in runs:
        add(spec)
    return list(ordered.values())


ArraySize = int | Callable[[RunSpec], int]
"""How many runs of a cell are trained as one array: a number, or what depends on the cell."""


def trials(runs: Iterable[RunSpec], seeds_per_trial: ArraySize) -> list[Trial]:
    """Group runs of the same cell by seed into arrays, in the order in which the cells first appear."""
    cells: dict[str, list[RunSpec]] = defaultdict(list)
    for spec in runs:
        cells[spec.cell_key].append(spec)
    found = []
    for members in cells.values():
        members.sort(key=lambda spec: spec.seed)
        size = seeds_per_trial if isinstance(seeds_per_trial, int) else seeds_per_trial(members[0])
        found += [Trial(tuple(members[i : i + size])) for i in range(0, len(members), size)]
    return found
