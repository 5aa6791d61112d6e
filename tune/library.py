"""`rme.sweep`: what `python tune/sweep.py` does, as a function that returns the data frame of the runs."""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import re
import signal
import sys
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from rich.console import Console

from analysis.runs import COLUMNS, frame_of
from rme.config import RunSpec
from tune.carry_out import array_size_of
from tune.command_line import check_together, options_of, parse
from tune.plan.clashes import Row, clash
from tune.plan.errors import GridError
from tune.plan.grid import Grid
from tune.plan.grid_options import check_whole, chosen_grid
from tune.plan.kinds import KINDS, kind_of
from tune.run import driver
from tune.run.checks import check_start
from tune.run.driver import Swept
from tune.run.options import Options
from tune.run.stopping import HUNG_UP, INTERRUPTED, OUT_OF_TIME, TERMINATED, Terminated
from tune.store.storage import Storage

EXPERIMENT = "sweep"
"""The experiment of a list of runs, if no other is named."""

_SHOWN = 4
"""How many runs of a list the recorded call shows."""


def sweep(
    grid: str | Path | RunSpec | Iterable[RunSpec],
    *,
    experiment: str | None = None,
    storage: str | Path = "storage",
    data_dir: str | Path = "data",
    tracking_uri: str | None = None,
    inline: bool = False,
    only: Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
    address: str | None = None,
    cpus_per_trial: int = 1,
    gpus_per_trial: float | Literal["auto"] | None = None,
    seeds_per_trial: int = 2,
    retry_failed: bool = False,
    minutes: float | None = None,
    report: str | Path | None = None,
) -> pd.DataFrame:
    """Train a grid of runs, record them in MLflow, and return the data frame of its finished runs.

    The same call again resumes an interrupted sweep and skips finished runs. Ctrl-C saves checkpoints first. Progress
    is printed to standard error, in a notebook below the cell.

    Args:
        grid: a grid's name (`"demo"`), the path of a .yaml file, or the runs themselves.
        experiment: name of the MLflow experiment; None: the grid's name, of a list of runs `sweep`.
        storage: folder of results and checkpoints; with Ray on several machines, one that all of them share.
        data_dir: folder of the data sets.
        tracking_uri: where MLflow records; None: $MLFLOW_TRACKING_URI or `sqlite:///mlflow.db`.
        inline: train in this process, one trial after another, without Ray and MLflow. The results are on the storage.
        only: keep the grid's runs whose field has one of these values: `{"method": ["vae", "rme"], "seed": "0-4"}`.
        overrides: fields to set in every run of the grid: `{"epochs": 5, "options.steps": 3}`; a list or a range is
            set in turn, in place of the grid's: `{"seed": "0-3", "dim": [10, 50]}`.
        address: of a running Ray cluster (`auto` or `HOST:PORT`); None: Ray is started on this machine.
        cpus_per_trial: cores of a trial.
        gpus_per_trial: GPUs of a trial, or a fraction of one; "auto": measure how many trials fit in a GPU's memory;
            None: 1 if a GPU is available, else 0.
        seeds_per_trial: runs trained as one array.
        retry_failed: train only the failed runs again, and what starts from them.
        minutes: end within so many minutes, with all trainings saved; None: no limit.
        report: folder for a report of the experiment; None: no report.

    Returns:
        One row for each finished run of the grid, ordered by cell and seed, without the runs that these start from
        (`rme.runs` has them). The columns are those of `analysis.collect.collect`; `mlflow_run_id` is what `rme.load`
        takes. With `inline` the rows are read from the storage, so command, commit and MLflow's ids are empty;
        `rme.load` takes `run_key` and the storage. Runs that failed, or had no time left, have no row; a warning says
        how many, and why.

    Raises:
        ValueError: bad input, before anything starts. The message names an argument as the command's option (`only` is
            `--only`, `overrides` is `--set`). GridError: an unknown grid, field or value, or arguments that exclude
            each other; DataError: a data set is missing; HookError: RME_ON_EPOCH names no function; CommandError:
            storage, MLflow or Ray cannot be used, or the experiment holds the same cells with other settings.
        KeyboardInterrupt: interrupted by Ctrl-C; the same call resumes.

    Example:
        >>> runs = rme.sweep("smoke", inline=True, only={"method": "vae", "decoder": "conv"}, overrides={"epochs": 1})
        >>> runs[["method_label", "dim", "seed", "epochs"]]
          method_label  dim  seed  epochs
        0          VAE   10     0       1
        1          VAE   10     1       1
    """
    began = time.monotonic()
    # the call as it is recorded, without arguments that are at their defaults
    given = {name: value for name, value in locals().items() if name in _DEFAULTS and value != _DEFAULTS[name]}
    runs = _runs(grid)
    for name, mapping in (("only", only), ("overrides", overrides)):
        _check_mapping(name, mapping)
    places = {"storage": storage, "data_dir": data_dir, "tracking_uri": tracking_uri, "address": address}
    sizes = {"cpus_per_trial": cpus_per_trial, "gpus_per_trial": gpus_per_trial, "seeds_per_trial": seeds_per_trial}
    asked = _asked(
        {"grid": grid if runs is None else EXPERIMENT, "experiment": experiment, "report": report, "minutes": minutes,
         **places, **sizes},
        {"inline": inline, "retry_failed": retry_failed},
        only or {},
        overrides or {},
    )  # fmt: skip
    options = replace(options_of(asked, _call(runs or grid, given), began), reports=report is not None)
    check_together(asked)
    if runs is None:
        chosen = chosen_grid(options.grid, options.only, options.overrides, experiment=asked.experiment)
    else:
        chosen = _grid_of(runs, asked.experiment or EXPERIMENT, options)
    check_whole(chosen)
    place = Storage(options.storage)
    check_start(options, chosen, place)
    array_size = array_size_of(asked, options.resources, chosen, place)
    with _unchanged():
        swept = driver.sweep(options, chosen, array_size, place, _console())
    if swept.status == INTERRUPTED:
        raise KeyboardInterrupt("the sweep is interrupted; the same call resumes")
    if swept.status == HUNG_UP:
        signal.raise_signal(signal.SIGHUP)  # as SIGTERM
        raise KeyboardInterrupt("the sweep is interrupted by SIGHUP; the same call resumes")
    if swept.status == TERMINATED:
        signal.raise_signal(signal.SIGTERM)  # for the program's own handler, which usually ends the program
        raise Terminated("the sweep is interrupted by SIGTERM; the same call resumes")
    finished = _finished(chosen, options, place)
    if swept.status:
        warnings.warn(_shortfall(swept, chosen, len(finished), options, place), stacklevel=2)
    return finished


_DEFAULTS: dict[str, Any] = dict(sweep.__kwdefaults__ or {})


# ---------------------------------------------------------------------- the arguments, as the command's options
def _asked(
    values: Mapping[str, Any], switches: Mapping[str, bool], only: Mapping[str, Any], overrides: Mapping[str, Any]
) -> argparse.Namespace:
    """These arguments as the command line parses them, so that both check and mean the same.

    Raises GridError naming the option and the value.
    """
    texts = [f"--{name.replace('_', '-')}={value}" for name, value in values.items() if value is not None]
    texts += [f"--{name.replace('_', '-')}" for name, on in switches.items() if on]
    texts += [f"--only={field}={_choice(wanted)}" for field, wanted in only.items()]
    texts += [f"--set={field}={_json(value)}" for field, value in overrides.items()]
    return parse(texts)


def _json(value: Any) -> str:
    """The text of `--set FIELD=...`; other collections, such as a range or an array, become lists."""
    if isinstance(value, Iterable) and not isinstance(value, str | Mapping | Path):
        value = list(value)
    return json.dumps(value, default=str, ensure_ascii=False)


def _choice(wanted: Any) -> str:
    """The text of `--only FIELD=...`; a string is that text already."""
    if isinstance(wanted, str):
        return wanted
    items = wanted if isinstance(wanted, Iterable) else [wanted]
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow("none" if item is None else item for item in items)
    return line.getvalue()


def _check_mapping(name: str, given: Any) -> None:
    if given is not None and not isinstance(given, Mapping):
        raise GridError(f"{name}={given!r}: expected a mapping of fields, such as {{'seed': '0-1'}}")


def _runs(grid: str | Path | RunSpec | Iterable[RunSpec]) -> list[RunSpec] | None:
    """The runs that are given themselves; None for a grid's name or file. Raises GridError: none, or not runs."""
    if isinstance(grid, str | Path):
        return None
    if not hasattr(grid, "__iter__"):  # a RunSpec has it, too
        raise GridError(f"grid={grid!r}: expected a grid's name or file, or a list of rme.RunSpec")
    runs: list[RunSpec] = [grid] if isinstance(grid, RunSpec) else list(grid)
    for number, run in enumerate(runs, 1):
        if not isinstance(run, RunSpec):
            raise GridError(f"grid, item {number}: {run!r} must be an rme.RunSpec")
    if not runs:
        raise GridError("grid: the list is empty; give at least one rme.RunSpec, or the name of a grid")
    return runs


def _grid_of(runs: list[RunSpec], name: str, options: Options) -> Grid:
    """A grid of these runs. Raises GridError: two runs are in conflict, or `only` or `overrides` is given."""
    for option, given in (("--only", options.only), ("--set", options.overrides)):
        if given:
            raise GridError(
                f"{option} {given[0]}: only a grid's name or file takes it; change the list of runs instead"
            )
    if len({kind_of(run).name for run in runs}) > 1:
        raise GridError(f"grid: the list has runs of the kinds {' and '.join(KINDS)}; sweep each kind by itself")
    rows = [Row(run, number) for number, run in enumerate(runs, 1)]
    if (message := clash(rows, rows)) is not None:
        raise GridError(f"grid, {re.sub('^line', 'run', message)}")
    unique = {run.key: run for run in reversed(runs)}
    variants = {run.cell_key: run.variant for run in runs if run.variant is not None}
    return Grid(name, "", tuple(reversed(unique.values())), (), kind_of(runs[0]), variants)


def _call(grid: Any, given: Mapping[str, Any]) -> str:
    """The call as Python code, which MLflow records as the run's command."""
    if isinstance(grid, list):
        shown = [repr(run).partition("  # ")[0] for run in grid] if len(grid) <= _SHOWN else [f"... {len(grid)} runs"]
        what = f"[{', '.join(shown)}]"
    else:
        what = repr(str(grid))
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in given.items()}
    arguments = [f"{name}={value!r}" for name, value in plain.items()]
    return f"rme.sweep({', '.join([what, *arguments])})"


# ---------------------------------------------------------------------- around the sweep
def _console() -> Console:
    console = Console(stderr=True, emoji=False)
    if console.is_jupyter:
        # plain lines: rich's live display needs ipywidgets, and the kernel claims to be a terminal with colours
        return Console(file=sys.stdout, emoji=False, force_jupyter=False, force_terminal=False)
    return console


_rays_folders: list[str] = []
"""What Ray has put on the path, for its own packages: needed again by the next sweep."""


@contextmanager
def _unchanged() -> Iterator[None]:
    """Undo what the block changes for the whole program: torch's threads, and what Ray sets as it is imported."""
    threads, breakpoints, path, excepthook = (
        torch.get_num_threads(), os.environ.get("PYTHONBREAKPOINT"), list(sys.path), sys.excepthook
    )  # fmt: skip
    sys.path += [folder for folder in _rays_folders if folder not in path]
    try:
        yield
    finally:
        _rays_folders[:] = [folder for folder in sys.path if folder not in path]
        sys.path[:], sys.excepthook = path, excepthook
        torch.set_num_threads(threads)
        if breakpoints is None:
            os.environ.pop("PYTHONBREAKPOINT", None)
        else:
            os.environ["PYTHONBREAKPOINT"] = breakpoints


def _finished(grid: Grid, options: Options, storage: Storage) -> pd.DataFrame:
    """The frame of the grid's own finished runs."""
    keys = {run.key for run in grid.runs}
    if options.inline:
        from analysis.stored import stored

        return stored(storage.root, keys)[0] if (storage.root / "runs").is_dir() else frame_of([])
    from analysis.collect import collect

    frame = collect(options.tracking_uri, grid.name)
    frame = frame[frame["run_key"].isin(keys)].reset_index(drop=True)
    return frame.drop(columns=[name for name in frame if name not in COLUMNS and frame[name].isna().all()])


def _shortfall(swept: Swept, grid: Grid, finished: int, options: Options, storage: Storage) -> str:
    """Why not all runs of the grid are finished, and what to do."""
    done = f"{finished} of {len(grid.runs)} runs are done"
    if not swept.failed:
        over = "the time is over: " if swept.status == OUT_OF_TIME else ""
        return f"{over}{done}; the same call resumes"
    names = {run.key: run.run_name for run in grid.with_parents()}
    key, reason = next(iter(swept.failed.items()))
    count = "1 run failed" if len(swept.failed) == 1 else f"{len(swept.failed)} runs failed, the first"
    where = (
        f"their tracebacks are in {storage.failures_folder}"
        if options.inline
        else f"analysis.collect.failures({options.tracking_uri!r}, {grid.name!r}) lists them"
    )
    again = "retry_failed=True" if storage.failures(swept.failed.keys()) else "the same call"
    return f"{done}; {count}: {names[key]}: {reason}; {where}, and {again} trains them again"
