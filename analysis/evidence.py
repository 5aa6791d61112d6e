"""Runs as a CSV file with all that the tables need, and their training curves as a second file beside it.

The runs' file has a line for each run, the curves' file a line for each point. Numbers are written as Python's repr, so
that they are read back exactly; the same runs give the same bytes. Columns that say where MLflow has a run are left
out.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.curve_frame import POINT, points_of
from analysis.runs import (
    COLUMNS,
    INTEGERS,
    NUMBERS,
    PLACE,
    CollectError,
    check_one_setting_per_cell,
    choose,
    frame_of,
    newest,
)

WRITTEN = [name for name in COLUMNS if name not in PLACE]
"""The columns of every file, in this order; other params follow in the order of their names."""

_NEEDED = ["run_key", "method", "order", "dataset", "dim", "decoder", "seed", "method_label", "dataset_label"]


def curves_path(path: Path) -> Path:
    """The file of the curves of a file of runs: `runs.curves.csv` for `runs.csv`."""
    return path.with_suffix(".curves.csv")


# ---------------------------------------------------------------------- writing
def runs_csv(runs: pd.DataFrame) -> str:
    """The file's text: a line for each run of a frame from `analysis.collect.collect`, in its order."""
    names = [*WRITTEN, *sorted(set(runs.columns) - set(COLUMNS))]
    return _csv(names, (runs.get(name, pd.Series(None, runs.index, dtype=object)) for name in names))


def write_runs(runs: pd.DataFrame, path: Path) -> None:
    """Write `runs_csv`, creating folders as needed. OSError propagates."""
    _write(path, runs_csv(runs))


def write_points(points: pd.DataFrame, path: Path) -> None:
    """Write points of curves, ordered by run, metric, component and epoch. OSError propagates."""
    ordered = points.sort_values(POINT[:-1], na_position="first")
    _write(path, _csv(POINT, (ordered[name] for name in POINT)))


def _csv(header: Sequence[str], columns) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(zip(*(map(_text, column) for column in columns), strict=True))
    return out.getvalue()


def _text(value: object) -> str:
    if pd.isna(value):  # type: ignore[call-overload]
        return ""
    if isinstance(value, pd.Timestamp):
        return value.isoformat()
    return repr(float(value)) if isinstance(value, float | np.floating) else str(value)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="")


# ---------------------------------------------------------------------- reading
def read_runs(path: Path, where: Mapping[str, str] | None = None, *, checked: bool = True) -> pd.DataFrame:
    """The frame that `write_runs` wrote: as from `analysis.collect.collect`, but without a run's place in MLflow.

    Args:
        path: the file.
        where: keep only runs with these values; see `analysis.collect.collect`.
        checked: whether two settings in one cell raise AmbiguousRuns.

    Raises:
        CollectError: the file or a column is missing, or a line, which the message names, is invalid.
        AmbiguousRuns: a cell has runs of two settings.
    """
    types: dict[str, Callable[[str], object]] = dict.fromkeys(INTEGERS, int) | dict.fromkeys(NUMBERS, float)
    types["start_time"] = pd.Timestamp
    rows = _read(path, _NEEDED, types)
    for line, row in rows:
        for name in _NEEDED:
            if row[name] is None and name != "order":
                raise CollectError(f"{path}, line {line}: {name} is missing")
    keys: dict[object, int] = {}
    for line, row in rows:
        if row["run_key"] in keys:
            raise CollectError(f"{path}, line {line}: run {row['run_key']} is already on line {keys[row['run_key']]}")
        keys[row["run_key"]] = line
    empty = dict.fromkeys(NUMBERS, np.nan) | {"start_time": None, "variant": None, "curves": ()}
    frame = frame_of(choose([{**empty, **{k: v for k, v in row.items() if v is not None}} for _, row in rows], where))
    if checked:
        check_one_setting_per_cell(frame)
    return frame


def read_points(path: Path) -> pd.DataFrame:
    """The points that `write_points` wrote; none if the file does not exist.

    Raises:
        CollectError: a column is missing, or a line, which the message names, is invalid.
    """
    if not path.exists():
        return points_of([])
    rows = _read(path, POINT, {"component": int, "epoch": int, "value": float})
    for line, row in rows:
        for name in ("run_key", "metric", "epoch", "value"):
            if row[name] is None:
                raise CollectError(f"{path}, line {line}: {name} is missing")
    return points_of([row for _, row in rows])


def _read(
    path: Path, needed: Sequence[str], types: Mapping[str, Callable[[str], object]]
) -> list[tuple[int, dict[str, object]]]:
    """Line number and values by column of each line; an empty field is None."""
    if path.is_dir():
        inside = path / "runs.csv"
        give = inside if inside.is_file() else "a file that analysis.collect wrote"
        raise CollectError(f"{path} is a folder, not a file of runs; give {give}")
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise CollectError(f"{path} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise CollectError(f"{path} cannot be read: {error}") from error
    lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[tuple[int, dict[str, object]]] = []
    header: list[str] = []
    try:
        for fields in lines:
            if not header:
                header = _header(path, fields, needed)
                continue
            if len(fields) != len(header):
                raise CollectError(
                    f"{path}, line {lines.line_num}: {len(fields)} fields where the header has {len(header)}"
                )
            rows.append((lines.line_num, _values(path, lines.line_num, header, fields, types)))
    except csv.Error as error:
        raise CollectError(f"{path}, line {lines.line_num}: {error}") from error
    if not header:
        raise CollectError(f"{path} is empty: its first line must name the columns {', '.join(needed)}, ...")
    return rows


def _header(path: Path, names: list[str], needed: Sequence[str]) -> list[str]:
    missing = [name for name in needed if name not in names]
    if missing:
        raise CollectError(f"{path} has no column {', '.join(missing)}: it must be a file that analysis.collect wrote")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise CollectError(f"{path} has the column {', '.join(twice)} more than once")
    return names


def _values(
    path: Path, line: int, header: list[str], fields: list[str], types: Mapping[str, Callable[[str], object]]
) -> dict[str, object]:
    values: dict[str, object] = {}
    for name, text in zip(header, fields, strict=True):
        try:
            values[name] = types.get(name, str)(text) if text else None
        except ValueError as error:
            kind = "a time" if name == "start_time" else "a whole number" if types[name] is int else "a number"
            raise CollectError(f"{path}, line {line}: {name}={text!r} is not {kind}") from error
    return values


# ---------------------------------------------------------------------- merging
def merge(
    sources: Sequence[tuple[pd.DataFrame, pd.DataFrame]], where: Mapping[str, str] | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Runs and points of several sources, combined. Of a run in several of them the newest is kept, with its points.

    Raises CollectError if two sources have different scores for the same recording of a run.
    """
    rows = [{**row, "source": i} for i, (runs, _) in enumerate(sources) for row in _records(runs)]
    _check_scores_agree(rows)
    kept = newest(choose(rows, where))
    source_of = {row["run_key"]: row["source"] for row in kept}
    frame = frame_of({name: value for name, value in row.items() if name != "source"} for row in kept)
    points = [points[points["run_key"].map(source_of) == i] for i, (_, points) in enumerate(sources)]
    return frame, pd.concat(points, ignore_index=True) if points else points_of([])


def _check_scores_agree(rows: Sequence[Mapping[str, object]]) -> None:
    """Raise CollectError if runs with the same run_key and start time have different scores."""
    seen: dict[tuple, Mapping[str, object]] = {}
    for row in rows:
        first = seen.setdefault((row["run_key"], row.get("start_time")), row)
        for name in ("val_iwae", "test_iwae"):
            a, b = first.get(name), row.get(name)
            if a != b and not (pd.isna(a) or pd.isna(b)):  # type: ignore[call-overload]
                raise CollectError(
                    f"run {row['run_key']} ({row['method_label']}, seed {row['seed']}) has two values of {name}: "
                    f"{a} in one source and {b} in another; leave out the source that is wrong"
                )


def _records(runs: pd.DataFrame) -> list[dict]:
    """Each run's row, without the params that only other runs have."""
    known = set(COLUMNS)
    return [
        {name: value for name, value in row.items() if name in known or not pd.isna(value)}
        for row in runs.to_dict("records")
    ]
