"""Reads grids from YAML: the runs that their rows stand for.

For each field of RunSpec, a row or the defaults give a value, a list of values or, for whole numbers, a range such as
`0-9`. A row stands for every combination. `method: all` is every registered method, `decoder: all` every decoder that
the method supports, `order: all` or `order: lowest` its orders. `variant: "kl 20"` names settings that differ from the
method's other rows and makes a cell of its own (`tune.plan.clashes` finds conflicting rows).

With `kind: timing` the runs are timings of inference (`rme.timing`), which train nothing.

`--set` replaces a field of every row before its combinations are made; `--only` then keeps some of them.
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
from rme.errors import nearest, no_such_field
from tune.plan.clashes import Row, clash
from tune.plan.errors import GridError
from tune.plan.grid_files import find, is_plain_name
from tune.plan.kinds import KINDS, TRAINING, Kind
from tune.plan.trials import with_parents
from tune.plan.value_text import WHOLE_NUMBERS, listed, same
from tune.plan.yaml_text import YamlError, parse

_RANGE = re.compile(r"(\d+)-(\d+)")
_LONGEST_NUMBER = 18
"""How many digits a range's end may have."""
_FIELDS = ("name", "description", "kind", "defaults", "rows")
"""Of a grid's file."""
MOST_RUNS = 1_000_000
"""How many runs a row may stand for. More is a typo such as `0-99999999`, and would fill the memory."""


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
    source: str,
    only: Mapping[str, Sequence[str]] | None = None,
    overrides: Mapping[str, Any] | None = None,
    typed: Mapping[str, str] | None = None,
) -> Grid:
    """Read a grid by its name (`demo`) or file, set the fields in `overrides`, and keep the runs that match `only`.

    Args:
        source: the grid's name or file.
        only: the values to keep, by field.
        overrides: a value or a list of values of each field to set; of whole numbers also ranges.
        typed: how the user wrote an override, for errors; by default `--set FIELD=VALUE`.

    Raises GridError: grid not found, malformed YAML (with line and column), invalid run, conflicting rows, no run left.
    """
    path = find(source)
    content, lines = _parse(path)
    kind = KINDS[content["kind"]]
    sets = _Sets.of(overrides or {}, typed or {}, kind)
    whole = [
        Wanted(values, line)
        for number, (row, line) in enumerate(zip(content["rows"], lines, strict=True), 1)
        for values in _expand(content, row, path, number, sets)
    ]
    return _grid(content, path, _keep(whole, only or {}, kind, sets), whole, sets)


@dataclass(frozen=True)
class _Sets:
    """The fields that `--set` and `--dataset` set in every row.

    Attributes:
        values: of each field, one or more. `options.NAME` is a field here.
        typed: how the user wrote each.
    """

    values: Mapping[str, list[Any]]
    typed: Mapping[str, str]

    @classmethod
    def of(cls, overrides: Mapping[str, Any], typed: Mapping[str, str], kind: Kind) -> _Sets:
        """Raises GridError: no such field, an empty list or range, no such method or data set."""
        shown = {name: typed.get(name, f"--set {name}={_shown(value)}") for name, value in overrides.items()}
        for name in overrides:
            if not (name in kind.fields or name.removeprefix("options.") not in (name, "")):
                raise GridError(f"{shown[name]}: {no_such_field(name, kind.fields)}")
        values = {name: _values("--set ", name, value) for name, value in overrides.items()}
        for name in ("method", "dataset"):
            for value in values.get(name, ()):
                reason = None if (name, value) == ("method", "all") else why_absent({name: value})
                if reason is not None:
                    # a comma separates values, also where it was meant as a part of a path
                    quotes = "; a path with a comma is written in double quotes" if len(values[name]) > 1 else ""
                    raise GridError(f"{shown[name]}: {reason}{quotes if name == 'dataset' else ''}")
        return cls(values, shown)

    def apply(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of a row with these in their place. Raises GridError for `options` that map no names."""
        changed = dict(row)
        options: dict[str, list[Any]] = {}
        for name, values in self.values.items():
            if name.startswith("options."):
                options[name] = values
            else:
                changed[name] = values[0] if len(values) == 1 else values
        if options:
            changed["options"] = [
                {**own, **{name.removeprefix("options."): value for name, value in zip(options, chosen, strict=True)}}
                for own in self._own_options(changed.get("options", {}), options)
                for chosen in itertools.product(*options.values())
            ]
        return changed

    def _own_options(self, value: Any, named: Iterable[str]) -> list[dict[str, Any]]:
        found = value if isinstance(value, list) else [value]
        for each in found:
            if not isinstance(each, dict):
                typed = " ".join(self.typed[name] for name in named)
                raise GridError(f"{typed}: options={each!r} must map names to numbers")
        return found

    def all_typed(self) -> str:
        """` with --set epochs=5`; empty without any."""
        return " with " + " ".join(self.typed.values()) if self.typed else ""

    def several(self) -> dict[str, str] | None:
        """How the fields with several values were written; None if no field is set."""
        if not self.values:
            return None
        return {name: self.typed[name] for name, values in self.values.items() if len(values) > 1}

    def named_in(self, error: str) -> list[str]:
        """How those fields were written that an error is about."""
        names = (name for name in self.typed if re.search(rf"\b{re.escape(name.rpartition('.')[2])}\b", error))
        return [self.typed[name] for name in names]


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
    unknown = set(content) - set(_FIELDS)
    if unknown:
        names = sorted(map(str, unknown))
        near = nearest(names[0], _FIELDS)
        raise GridError(f"{path}: {', '.join(names)}: no such field; {near}a grid's fields are {', '.join(_FIELDS)}")
    kind = content.setdefault("kind", TRAINING.name)
    if not isinstance(kind, str) or kind not in KINDS:
        raise GridError(f"{path}: kind: {kind!r}: {nearest(str(kind), KINDS)}valid values are {', '.join(KINDS)}")
    if not isinstance(content.setdefault("defaults", {}), dict):
        raise GridError(f"{path}: `defaults` must map fields to values")
    name = content.setdefault("name", path.stem)
    if isinstance(name, bool) or not isinstance(name, str | int) or not is_plain_name(str(name)):
        raise GridError(f"{path}: name: {name!r} must be a plain name, without /")
    # the last one, because `<<` may bring in another `rows` before it
    *_, rows = (value for key, value in document.node.value if key.value == "rows")
    return content, [row.start_mark.line + 1 for row in rows.value]


def _expand(content: Mapping[str, Any], row: Any, path: Path, number: int, sets: _Sets) -> Iterable[dict[str, Any]]:
    """The values of each run that a row stands for, with the defaults and what `--set` sets."""
    if not isinstance(row, dict):
        raise GridError(f"{path}, row {number}: {row!r} must map fields to values")
    merged = {**content["defaults"], **row}
    known = KINDS[content["kind"]].fields
    unknown = sorted(map(str, set(merged) - set(known)))
    if unknown:
        raise GridError(f"{path}, row {number}: {', '.join(unknown)}: {no_such_field(unknown[0], known)}")
    merged = sets.apply(merged)
    if "method" not in merged:
        raise GridError(f"{path}, row {number}: the field method is missing")
    where = f"{path}, row {number}: "
    for method in methods.names() if merged["method"] == "all" else _values(where, "method", merged["method"]):
        own = {**merged, "method": method, **_resolve_words(method, merged)}
        columns = [[(name, value) for value in _values(where, name, values)] for name, values in own.items()]
        if (count := math.prod(map(len, columns))) > MOST_RUNS:
            row_with = f"{path}{sets.all_typed()}, row {number}"
            raise GridError(f"{row_with}: the row stands for {count:,} runs; at most {MOST_RUNS:,} are allowed")
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
            raise GridError(f"{where}{name}=[]: the list is empty; give a value")
        return [one for item in value for one in _values(where, name, item)]
    if name in WHOLE_NUMBERS and isinstance(value, str) and (match := _RANGE.fullmatch(value.strip())):
        low, high = match.groups()
        if max(len(low), len(high)) > _LONGEST_NUMBER or int(high) - int(low) >= MOST_RUNS:
            raise GridError(f"{where}{name}={value}: a range has at most {MOST_RUNS:,} numbers")
        if int(high) < int(low):
            raise GridError(f"{where}{name}={value}: the range is empty; write {high}-{low}")
        return list(range(int(low), int(high) + 1))
    return [value]


def _keep(wanted: list[Wanted], only: Mapping[str, Sequence[str]], kind: Kind, sets: _Sets) -> list[Wanted]:
    """Those of the runs that match all fields of `only`. Raises GridError for a value that none of them has."""
    left, before = wanted, ""
    for name, texts in only.items():
        if name not in kind.fields:
            raise GridError(f"--only {name}={','.join(texts)}: {no_such_field(name, kind.fields)}")
        asked = {same(name, value): value for text in texts for value in _values("--only ", name, text)}
        field = kind.spec.model_fields[name]
        default = None if field.is_required() else field.default
        has = f"{f'with {sets.typed[name]} ' if name in sets.typed else ''}the grid has"
        _check_present(name, asked, wanted, default, has)
        _check_present(name, asked, left, default, f"with{before} it has")
        left = [each for each in left if same(name, each.values.get(name, default)) in asked]
        before += f" --only {name}={','.join(texts)}"
    return left


def _check_present(name: str, asked: Mapping[Any, Any], wanted: Iterable[Wanted], default: Any, has: str) -> None:
    """Raise GridError unless each of the values that `--only` asks for is one of these runs'."""
    values = (each.values.get(name, default) for each in wanted)
    present = {same(name, value): value for value in values}
    missing = [value for key, value in asked.items() if key not in present]
    if not missing:
        return
    near = nearest(str(missing[0]), map(str, present.values())) if same(name, missing[0]) == str(missing[0]) else ""
    raise GridError(
        f"--only {name}={listed(name, missing, ',')}: {has} {name} {listed(name, present.values())}"
        f"{'; ' + near.strip() if near else ''}"
    )


def _shown(value: Any) -> str:
    values = value if isinstance(value, list) else [value]
    return ",".join("null" if each is None else str(each) for each in values)


def _grid(content: Mapping[str, Any], path: Path, kept: list[Wanted], whole: list[Wanted], sets: _Sets) -> Grid:
    kind = KINDS[content["kind"]]
    spec_class = kind.spec
    rows: list[Row] = []
    absent: dict[tuple, list[dict[str, Any]]] = defaultdict(list)
    reasons: dict[tuple, str] = {}
    for wanted in kept:
        reason = why_absent(wanted.values)
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
            typed = " ".join(sets.named_in(str(error)))
            if not typed:
                raise GridError(f"{path}{sets.all_typed()}, line {wanted.line}: {error}") from None
            advice = _advice(content, path, kept, whole, sets)
            raise GridError(f"{typed} ({path}, line {wanted.line}): {error}{advice}") from None
    starts = _starts(whole, spec_class)
    if (message := clash(rows, starts, sets.several())) is not None:
        raise GridError(message if message.startswith("--") else f"{path}{sets.all_typed()}, {message}")
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


def _advice(content: Mapping[str, Any], path: Path, kept: list[Wanted], whole: list[Wanted], sets: _Sets) -> str:
    """Which methods can have what `--set` sets, and how to keep them; empty if that would not help."""
    possible: dict[str, bool] = {}
    for wanted in kept:
        name = str(wanted.values["method"]).lower()
        if name not in methods.registry():
            continue
        try:
            KINDS[content["kind"]].spec.of(_with_existing(wanted.values))
            possible.setdefault(name, True)
        except SpecError:
            possible[name] = False
    names = [name for name, valid in possible.items() if valid]
    try:
        _grid(content, path, [each for each in kept if str(each.values["method"]).lower() in names], whole, sets)
    except GridError:
        return ""
    return f"; --only method={','.join(names)} keeps the methods that can have it" if names else ""


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


def why_absent(values: Mapping[str, Any]) -> str | None:
    """What is missing of a method and a data set by these names; None if both exist."""
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
    if why_absent({"method": existing["method"]}) is not None:
        existing |= {"method": "vae", "order": None, "decoder": "conv", "options": {}}
    if why_absent({"dataset": existing.get("dataset")}) is not None:
        existing["dataset"] = "digits"
    return existing
