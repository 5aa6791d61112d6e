"""Reads grids from YAML: the runs that their rows stand for.

For each field of RunSpec, a row or the defaults give a value, a list of values or, for whole numbers, a range such as
`0-9`. A row stands for every combination. `method: all` is every registered method, `decoder: all` every decoder that
the method supports, `order: all` or `order: lowest` its orders. `variant: "kl 20"` names settings that differ from the
method's other rows and makes a cell of its own (`tune.plan.clashes` finds conflicting rows).

With `kind: timing` the runs are timings of inference (`rme.timing`), which train nothing.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from analysis.names import CELL
from rme import data, methods
from rme.config import RunSpec, SpecError
from tune.plan.clashes import Row, clash
from tune.plan.kinds import KINDS, TRAINING, Kind
from tune.plan.trials import with_parents
from tune.plan.yaml_text import YamlError, parse
from tune.store.errors import CommandError

GRIDS = Path(__file__).parent.parent / "grids"
_RANGE = re.compile(r"(\d+)-(\d+)")
_WHOLE_NUMBERS = ("order", "dim", "seed")
_LONGEST_NUMBER = 18
"""How many digits a range's end may have."""
MOST_RUNS = 1_000_000
"""How many runs a row may stand for. More is a typo such as `0-99999999`, and would fill the memory."""


class GridError(CommandError):
    """A grid or a command line that cannot be run; the message names the value and where it came from."""


@dataclass(frozen=True)
class Wanted:
    """The values of one run, and the line of the grid's file at which its row begins."""

    values: dict[str, Any]
    line: int


@dataclass(frozen=True)
class Grid:
    """A named list of wanted runs.

    Attributes:
        name: also the name of its MLflow experiment.
        runs: the runs whose method and data set exist, each once, in the grid's order.
        absent: the cells whose method or data set does not exist.
        kind: whether its runs are trainings or timings.
        variants: the names of variants from which others may start, by cell key, also of rows that `--only` excludes.
    """

    name: str
    description: str
    runs: tuple[RunSpec, ...]
    absent: tuple[AbsentCell, ...]
    kind: Kind = TRAINING
    variants: Mapping[str, str] = field(default_factory=dict)

    def with_parents(self) -> list[RunSpec]:
        """Its runs and those that they start from, named as in its rows. Parents come first, each run once."""
        return list(self._whole)

    @cached_property
    def _whole(self) -> list[RunSpec]:
        return with_parents(self.runs, self.variants)


@dataclass(frozen=True)
class AbsentCell:
    """A cell of a grid whose method or data set is not registered.

    Attributes:
        values: the fields of one of its runs.
        seeds: how many runs it has.
        restarts: of each run.
        reason: what is missing.
    """

    values: Mapping[str, Any]
    seeds: int
    restarts: int
    reason: str


def load(
    source: str, only: Mapping[str, Sequence[str]] | None = None, overrides: Mapping[str, Any] | None = None
) -> Grid:
    """Read a grid by its name (`demo`) or file, keep the runs that match `only`, and set the fields in `overrides`.

    Raises GridError: grid not found, malformed YAML (with line and column), invalid run, conflicting rows, no run left.
    """
    path = find(source)
    content, lines = _parse(path)
    kind = KINDS[content["kind"]]
    whole = [
        Wanted(values, line)
        for number, (row, line) in enumerate(zip(content["rows"], lines, strict=True), 1)
        for values in _expand(content, row, path, number)
    ]
    for wanted in whole:
        for name, value in (overrides or {}).items():
            _override(wanted.values, name, value, kind)
    kept = _keep(whole, only or {}, kind)
    source = " with ".join([str(path), *(f"--set {name}={value}" for name, value in (overrides or {}).items())])
    return _grid(content, path, kept, whole, source)


def find(source: str) -> Path:
    """The file of a grid. Raises GridError naming the available grids."""
    if source.endswith((".yaml", ".yml")):
        path = Path(source)
        if not path.is_file():
            raise GridError(f"--grid {source}: file not found")
        return path
    path = GRIDS / f"{source}.yaml"
    if not path.is_file():
        names = ", ".join(sorted(p.stem for p in GRIDS.glob("*.yaml")))
        raise GridError(f"--grid {source}: no such grid; valid values are {names}, or the path of a .yaml file")
    return path


def _parse(path: Path) -> tuple[dict[str, Any], list[int]]:
    """The file's content, and the line at which each row begins, from 1."""
    try:
        document = parse(path.read_text())
    except (OSError, UnicodeDecodeError, YamlError) as error:
        raise GridError(f"{path}: {error}") from None
    content = document.value
    if not isinstance(content, dict) or not isinstance(content.get("rows"), list) or not content["rows"]:
        raise GridError(
            f"{path}: a grid is a mapping with a list `rows` and, optionally, `name`, `description`, `kind`, `defaults`"
        )
    unknown = set(content) - {"name", "description", "kind", "defaults", "rows"}
    if unknown:
        names = ", ".join(sorted(map(str, unknown)))
        raise GridError(f"{path}: {names}: no such field; a grid's fields are name, description, kind, defaults, rows")
    kind = content.setdefault("kind", TRAINING.name)
    if not isinstance(kind, str) or kind not in KINDS:
        raise GridError(f"{path}: kind: {kind!r} must be one of {', '.join(KINDS)}")
    if not isinstance(content.setdefault("defaults", {}), dict):
        raise GridError(f"{path}: `defaults` must map fields to values")
    name = content.setdefault("name", path.stem)
    if isinstance(name, bool) or not isinstance(name, str | int) or not is_plain_name(str(name)):
        raise GridError(f"{path}: name: {name!r} must be a plain name, without /")
    # the last one, because `<<` may bring in another `rows` before it
    *_, rows = (value for key, value in document.node.value if key.value == "rows")
    return content, [row.start_mark.line + 1 for row in rows.value]


def is_plain_name(text: str) -> bool:
    """Whether this can name folders and experiments."""
    return text.strip() == text != "" and text.isprintable() and "/" not in text and not text.startswith(".")


def _expand(content: Mapping[str, Any], row: Any, path: Path, number: int) -> Iterable[dict[str, Any]]:
    """The values of each run that a row stands for, with the defaults."""
    if not isinstance(row, dict):
        raise GridError(f"{path}, row {number}: {row!r} must map fields to values")
    merged = {**content["defaults"], **row}
    known = KINDS[content["kind"]].fields
    unknown = set(merged) - set(known)
    if unknown:
        fields = ", ".join(known)
        raise GridError(
            f"{path}, row {number}: {', '.join(sorted(map(str, unknown)))}: no such field; the fields are {fields}"
        )
    if "method" not in merged:
        raise GridError(f"{path}, row {number}: the field method is missing")
    where = f"{path}, row {number}: "
    for method in methods.names() if merged["method"] == "all" else _values(where, "method", merged["method"]):
        own = {**merged, "method": method, **_resolve_words(method, merged)}
        columns = [[(name, value) for value in _values(where, name, values)] for name, values in own.items()]
        if (count := math.prod(map(len, columns))) > MOST_RUNS:
            raise GridError(f"{where}the row stands for {count:,} runs; at most {MOST_RUNS:,} are allowed")
        for combination in itertools.product(*columns):
            yield dict(combination)


def _resolve_words(method: Any, row: Mapping[str, Any]) -> dict[str, Any]:
    """The decoders and orders that `all` and `lowest` mean for this method."""
    if row.get("decoder") != "all" and row.get("order") not in ("all", "lowest"):
        return {}
    if not isinstance(method, str) or method.lower() not in methods.registry():
        return {}  # reported later, as an absent cell or an invalid value
    kind = methods.get(method)
    meanings: dict[str, Any] = {}
    if row.get("decoder") == "all":
        meanings["decoder"] = list(kind.decoders)
    if row.get("order") == "all":
        meanings["order"] = list(kind.orders) if kind.orders else None
    if row.get("order") == "lowest":
        meanings["order"] = min(kind.orders) if kind.orders else None
    return meanings


def _values(where: str, name: str, value: Any) -> list[Any]:
    """A field's values: the items of a list, the numbers of a range such as 0-9, or the value itself.

    Raises GridError, which begins with `where`: no value, or too many.
    """
    if isinstance(value, list):
        if not value:
            raise GridError(f"{where}{name}=[]: the list is empty; give a value, or leave the field out")
        return [one for item in value for one in _values(where, name, item)]
    if name in _WHOLE_NUMBERS and isinstance(value, str) and (match := _RANGE.fullmatch(value.strip())):
        low, high = match.groups()
        if max(len(low), len(high)) > _LONGEST_NUMBER or int(high) - int(low) >= MOST_RUNS:
            raise GridError(f"{where}{name}={value}: a range has at most {MOST_RUNS:,} numbers")
        if int(high) < int(low):
            raise GridError(f"{where}{name}={value}: the range is empty; write {high}-{low}")
        return list(range(int(low), int(high) + 1))
    return [value]


def _override(values: dict[str, Any], name: str, value: Any, kind: Kind) -> None:
    known = kind.fields
    if name.startswith("options."):
        options = values.get("options", {})
        if not isinstance(options, dict):
            raise GridError(f"--set {name}={value}: options={options!r} must map names to numbers")
        values["options"] = {**options, name.removeprefix("options."): value}
    elif name in known:
        values[name] = value
    else:
        raise GridError(f"--set {name}={value}: no such field; the fields are {', '.join(known)}")


def _keep(wanted: list[Wanted], only: Mapping[str, Sequence[str]], kind: Kind) -> list[Wanted]:
    spec_class, known = kind.spec, kind.fields
    for name, allowed in only.items():
        if name not in known:
            fields = ", ".join(known)
            raise GridError(f"--only {name}={','.join(allowed)}: no such field; the fields are {fields}")
        field = spec_class.model_fields[name]
        default = None if field.is_required() else field.default
        present = {_text(each.values.get(name, default)) for each in wanted}
        asked = {str(value).lower() for item in allowed for value in _values("--only ", name, item)}
        missing = sorted(asked - present)
        if missing:
            there = ", ".join(sorted(present, key=lambda t: (len(t), t)))
            raise GridError(f"--only {name}={','.join(missing)}: the grid has {name} {there}")
        wanted = [each for each in wanted if _text(each.values.get(name, default)) in asked]
    if not wanted:
        raise GridError("--only: no run of the grid matches all fields given")
    return wanted


def _text(value: Any) -> str:
    return str(value).lower()


def _grid(content: Mapping[str, Any], path: Path, kept: list[Wanted], whole: list[Wanted], source: str) -> Grid:
    kind = KINDS[content["kind"]]
    spec_class = kind.spec
    rows: list[Row] = []
    absent: dict[tuple, list[dict[str, Any]]] = defaultdict(list)
    reasons: dict[tuple, str] = {}
    for wanted in kept:
        reason = _why_absent(wanted.values)
        if reason is not None:
            cell = tuple(repr(wanted.values.get(name)) for name in CELL)
            absent[cell].append(wanted.values)
            reasons[cell] = reason
        try:
            if reason is None:
                rows.append(Row(spec_class.of(wanted.values), wanted.line))
            else:
                spec_class.of(_with_existing(wanted.values))  # checks the other fields
        except SpecError as error:
            raise GridError(f"{source}, line {wanted.line}: {error}") from None
    starts = _starts(whole, spec_class)
    if (message := clash(rows, starts)) is not None:
        raise GridError(f"{source}, {message}")
    runs: dict[str, RunSpec] = {}
    for row in rows:
        runs.setdefault(row.spec.key, row.spec)
    default_restarts = spec_class.model_fields["restarts"].default
    cells = tuple(
        AbsentCell(
            values=of_cell[0],
            seeds=len({str(values.get("seed", 0)) for values in of_cell}),
            restarts=int(of_cell[0].get("restarts", default_restarts)),
            reason=reasons[cell],
        )
        for cell, of_cell in absent.items()
    )
    return Grid(
        str(content["name"]),
        str(content.get("description", "")),
        tuple(runs.values()),
        cells,
        kind,
        {row.spec.cell_key: row.spec.variant for row in reversed(starts) if row.spec.variant is not None},
    )


def _starts(whole: Iterable[Wanted], spec_class: type[RunSpec]) -> list[Row]:
    """The rows from whose runs others may start, one seed of each, also rows that `--only` excludes."""
    starting = {methods.get(name).starts_from for name in methods.names()}
    rows: dict[str, Row] = {}
    for wanted in whole:
        name = wanted.values["method"]
        if isinstance(name, str) and name.lower() in starting:
            try:
                row = Row(spec_class.of(wanted.values), wanted.line)
            except SpecError:  # if `--only` keeps the row, _grid reports it; otherwise it does not matter
                continue
            rows.setdefault(f"{row.spec.cell_key} {row.spec.variant}", row)
    return list(rows.values())


def _why_absent(values: Mapping[str, Any]) -> str | None:
    for name, look_up in (("method", methods.get), ("dataset", data.get)):
        if isinstance(values.get(name), str):
            try:
                look_up(values[name])
            except ValueError as error:
                return str(error)
    return None


def _with_existing(values: Mapping[str, Any]) -> dict[str, Any]:
    """These values with an existing method and data set in place of missing ones."""
    existing = dict(values)
    if _why_absent({"method": existing["method"]}) is not None:
        existing |= {"method": "vae", "order": None, "decoder": "conv", "options": {}}
    if _why_absent({"dataset": existing.get("dataset")}) is not None:
        existing["dataset"] = "digits"
    return existing
