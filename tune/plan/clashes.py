"""Finds rows of a grid that cannot be in one experiment, because a cell must have one setting.

A table has one number for each cell. Settings are everything in a run's key except its seed (`RunSpec.cell_key`).
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from analysis.names import CELL
from rme.config import RunSpec
from tune.plan.value_text import listed

_SHOWN = 4
"""How many differing fields a message names."""


Several = Mapping[str, str] | None
"""How the command line sets fields to several values, by field; None if it sets none."""


@dataclass(frozen=True)
class Row:
    """A run that a grid asks for, and the line of the grid's file at which its row begins."""

    spec: RunSpec
    line: int


def clash(rows: Iterable[Row], starts: Iterable[Row], several: Several = None) -> str | None:
    """The first conflict, as `lines 3 and 7: problem; how to fix it`; None without one.

    Args:
        rows: the runs to train.
        starts: rows of the same grid from whose runs others may start, even if `--only` excludes these rows.
        several: the options that set fields to several values, by field; None if no option sets any. If they cause the
            conflict, its text begins with them, not with lines.
    """
    by_settings: dict[str, Row] = {}
    by_cell: dict[tuple, tuple[Row, str]] = {}
    for row in rows:
        settings, cell = row.spec.cell_key, _cell(row.spec)
        known = by_settings.setdefault(settings, row)
        if known.spec.variant != row.spec.variant:
            return _two_names(known, row, several)
        first, first_settings = by_cell.setdefault(cell, (row, settings))
        if first_settings != settings:
            return _two_settings(first, row, several)
    named = {row.spec.cell_key for row in starts} | by_settings.keys()
    for row in starts:
        by_cell.setdefault(_cell(row.spec), (row, row.spec.cell_key))
    implied: dict[tuple, Row] = {}
    for row in by_settings.values():  # one seed of each setting
        start = row.spec.parent
        if start is None or (settings := start.cell_key) in named:
            continue
        if (cell := _cell(start)) in by_cell:
            return _start_differs(by_cell[cell][0], row, start)
        other = implied.setdefault(cell, row)
        other_start = other.spec.parent
        assert other_start is not None
        if other_start.cell_key != settings:
            return _two_starts(other, row)
    return None


def _cell(spec: RunSpec) -> tuple:
    return tuple(getattr(spec, name) for name in CELL)


def _two_names(a: Row, b: Row, several: Several) -> str:
    if several is not None and "variant" in several:
        return f"{several['variant']}: {a.spec.cell} and {b.spec.cell} would be the same runs under two names; give one"
    one = "" if several is None else f"keep one of them with --only {shlex.quote(f'variant={_name(a)}')}, "
    return (
        f"{_lines(a, b)}: {a.spec.cell} and {b.spec.cell} are the same runs under two names; {one}remove one of them, "
        "or give it other settings"
    )


def _name(row: Row) -> str:
    """Its variant, as `--only` takes it."""
    return listed("variant", [row.spec.variant])


def _two_settings(a: Row, b: Row, several: Several) -> str:
    what = f"{a.spec.cell} with two settings ({_difference(a.spec, b.spec)})"
    if causes := [(several or {})[name] for name in _differing(a.spec, b.spec) if name in (several or ())]:
        return (
            f"{' '.join(causes)}: {what}, but an experiment holds one of each cell; sweep one value at a time, each "
            "with an --experiment NAME of its own"
        )
    right = "give one of them a `variant`, a name for its settings"
    if a.spec.variant is not None:
        right = "give their variants different names"
    if a.line == b.line:
        return f"line {a.line}: this row has {what}; write a row for each, and {right}"
    return f"{_lines(a, b)}: {what}; {right}"


def _start_differs(own: Row, child: Row, start: RunSpec) -> str:
    return (
        f"{_lines(own, child)}: {child.spec.cell} starts from a {start.method_label} with other settings than "
        f"{own.spec.cell} has ({_difference(own.spec, start)}); add a row for {start.method_label} with those settings "
        f"and a `variant`, a name for them; {child.spec.method_label} then starts from that row"
    )


def _two_starts(a: Row, b: Row) -> str:
    of_a, of_b = a.spec.parent, b.spec.parent
    assert of_a is not None and of_b is not None
    return (
        f"{_lines(a, b)}: {a.spec.cell} and {b.spec.cell} start from a {of_a.method_label} with two settings "
        f"({_difference(of_a, of_b)}); add a row for {of_a.method_label} with the settings of one of them and a "
        "`variant`, a name for these settings"
    )


def _lines(a: Row, b: Row) -> str:
    return f"line {a.line}" if a.line == b.line else f"lines {a.line} and {b.line}"


def _difference(a: RunSpec, b: RunSpec) -> str:
    """The settings that differ, as `kl_max 500.0 and 20.0`."""
    ours, theirs = _settings(a), _settings(b)
    names = _differing(a, b)
    listed = [f"{name} {ours.get(name, 'unset')} and {theirs.get(name, 'unset')}" for name in names]
    more = [f"{len(listed) - _SHOWN} more"] if len(listed) > _SHOWN else []
    return ", ".join(listed[:_SHOWN] + more)


def _differing(a: RunSpec, b: RunSpec) -> list[str]:
    ours, theirs = _settings(a), _settings(b)
    return [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]


def _settings(spec: RunSpec) -> dict[str, object]:
    values = {name: value for name, value in spec.canonical.items() if name not in ("seed", "options")}
    return values | {f"options.{name}": value for name, value in spec.canonical.get("options", {}).items()}
