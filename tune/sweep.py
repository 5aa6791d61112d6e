"""The sweep's command line: `python tune/sweep.py --grid demo`.

The same command again goes on where it was. Exit status: 0 all runs are recorded, 1 some failed or are not recorded,
2 the command cannot be carried out, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# `python tune/sweep.py` puts this folder, not the project's, on the path
_ROOT = str(Path(__file__).resolve().parent.parent)
if _ROOT not in sys.path:
    sys.path.insert(0, _ROOT)
sys.path[:] = [entry for entry in sys.path if entry != str(Path(__file__).resolve().parent)]

import yaml
from rich.console import Console

from rme import data
from rme.config import SpecError
from tune import grid as grids
from tune.grid import Grid, GridError, Trial
from tune.plan import Plan, make_plan
from tune.storage import Storage, StorageError

DEFAULT_TRACKING = "sqlite:///mlflow.db"


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, handlers=[logging.NullHandler()])
    console = Console(stderr=True)
    try:
        return _run(options, console)
    except _expected_errors() as error:
        console.print(f"sweep: {error}", markup=False, highlight=False, soft_wrap=True, style="red")
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tune/sweep.py", description="Train a grid of runs and record them in MLflow."
    )
    add = parser.add_argument
    add("--grid", required=True, metavar="NAME|FILE.yaml", help="a grid of tune/grids/ by name, or a file")
    add("--only", action="append", default=[], metavar="FIELD=A,B", help="keep the runs whose FIELD is A or B")
    add("--set", action="append", default=[], metavar="FIELD=VALUE", help="set a field of every run")
    add("--dataset", metavar="NAME|FILE.npz", help="short for --set dataset=...")
    add("--data-dir", type=Path, default=Path("data"), metavar="DIR", help="where data sets are (default: data)")
    add("--storage", default="storage", metavar="DIR", help="results and checkpoints; on a cluster a folder that all "
        "nodes share (default: storage)")  # fmt: skip
    add("--tracking-uri", default=os.environ.get("MLFLOW_TRACKING_URI", DEFAULT_TRACKING), metavar="URI",
        help=f"where MLflow records (default: $MLFLOW_TRACKING_URI or {DEFAULT_TRACKING})")  # fmt: skip
    add(
        "--report",
        type=Path,
        metavar="DIR",
        help="write the report there at the end (default: report/NAME OF THE GRID)",
    )
    add("--address", metavar="auto|HOST:PORT", help="a running Ray cluster (default: start Ray here)")
    add("--cpus-per-trial", type=_positive(int), default=1, metavar="N", help="cores of a trial (default: 1)")
    add("--gpus-per-trial", type=_positive(float, zero=True), metavar="F",
        help="GPUs of a trial, or a fraction (default: 1 if there are any, else 0)")  # fmt: skip
    add("--seeds-per-trial", type=_positive(int), default=2, metavar="N", help="runs trained as one array (default: 2)")
    add("--plan", action="store_true", help="start nothing: print what would run, what is done, and the hours")
    add("--json", action="store_true", help="with --plan: as one JSON object")
    return parser


def _positive(kind: type, zero: bool = False):
    def parse(text: str):
        value = kind(text)
        if value < 0 or (value == 0 and not zero):
            raise argparse.ArgumentTypeError(f"{text} must be {'0 or more' if zero else 'more than 0'}")
        return value

    parse.__name__ = kind.__name__  # argparse names it in its errors
    return parse


def _assignments(option: str, texts: Sequence[str]) -> dict[str, str]:
    found = {}
    for text in texts:
        field, sign, value = text.partition("=")
        if not sign or not field or not value:
            raise GridError(f"{option} {text}: say FIELD=VALUE")
        found[field] = value
    return found


def _load_grid(options: argparse.Namespace) -> Grid:
    only = {field: value.split(",") for field, value in _assignments("--only", options.only).items()}
    overrides: dict[str, Any] = {}
    for field, text in _assignments("--set", options.set).items():
        try:
            overrides[field] = yaml.safe_load(text)
        except yaml.YAMLError:
            overrides[field] = text
    if options.dataset:
        overrides["dataset"] = options.dataset
    return grids.load(options.grid, only, overrides)


def _run(options: argparse.Namespace, console: Console) -> int:
    if options.json and not options.plan:
        raise GridError("--json goes with --plan")
    grid = _load_grid(options)
    storage = Storage(options.storage)
    if options.plan:
        from tune.tracking import recorded_without_creating

        recorded = recorded_without_creating(options.tracking_uri, grid.name)
        _print_plan(make_plan(grid, options.seeds_per_trial, recorded, storage), options)
        return 0
    if grid.absent:
        raise GridError(_refusal(grid))

    from tune.tracking import Tracker

    storage.check_writable()
    for name in dict.fromkeys(spec.dataset for spec in grid.runs):
        data.get(name).prepare(options.data_dir)
    tracker = Tracker(options.tracking_uri, grid.name)
    plan = make_plan(grid, options.seeds_per_trial, tracker.recorded(), storage)
    return _sweep(options, plan, storage, tracker, console)


def _sweep(options: argparse.Namespace, plan: Plan, storage: Storage, tracker, console: Console) -> int:
    from tune.display import Display
    from tune.recorder import Recorder
    from tune.schedule import Schedule

    began = time.monotonic()
    to_train = plan.to_train
    training = {spec.key for trial in to_train for spec in trial.runs}
    schedule = Schedule.of(to_train, plan.on_storage - training)
    done = sum(len(t.runs) for t in plan.trials) - len(training)
    display = Display(schedule, done, console)
    if done:
        console.print(f"{plan.grid.name}: {done} runs are done already", highlight=False)
    told: set[str] = set()
    runs = {spec.key: spec for trial in to_train for spec in trial.runs}

    def on_end(trial: Trial, failures: dict[str, str]) -> None:
        display.ended(trial)
        for spec in trial.runs:
            if spec.key not in failures:
                recorder.result(spec)
        # the trial's own failures, and what was skipped because of them
        for key in schedule.failed_runs.keys() - told:
            told.add(key)
            display.failed(runs[key], schedule.failed_runs[key])
            recorder.failure(runs[key], schedule.failed_runs[key])

    interrupted = False
    with display.live(), Recorder(tracker, storage, display.recorded) as recorder:
        for spec in plan.to_record:
            if spec.key not in training:
                recorder.result(spec)
        if to_train:
            from tune.cluster import run_trials

            interrupted = run_trials(options, schedule, storage, display, on_end)
    failed = schedule.failed_runs | recorder.failures
    _write_report(console, plan.grid.name, options)
    return _farewell(console, plan, failed, recorder.left, interrupted, time.monotonic() - began)


def _write_report(console: Console, experiment: str, options: argparse.Namespace) -> None:
    """Of whatever is recorded by now; that there is none yet, or of two settings at once, is no fault of the sweep."""
    from analysis.collect import CollectError
    from analysis.report import build_report

    try:
        report = build_report(experiment, options.report or Path("report") / experiment, options.tracking_uri)
        console.print(f"report: {report.index}", markup=False, highlight=False, soft_wrap=True)
    except (CollectError, OSError) as error:
        console.print(f"no report: {error}", markup=False, highlight=False, soft_wrap=True)


def _farewell(
    console: Console, plan: Plan, failed: dict[str, str], left: list, interrupted: bool, seconds: float
) -> int:
    """Say how it ended; the exit status."""
    runs = {spec.key: spec for trial in plan.trials for spec in trial.runs}
    for key, reason in failed.items():
        console.print(f"failed: {runs[key].run_name}: {reason}", markup=False, highlight=False, style="red")
    for spec in left:
        console.print(f"not recorded yet: {spec.run_name}", highlight=False, style="red")
    if interrupted:
        console.print("stopped; the same command goes on where this one was", highlight=False)
        return 130
    text = f"{plan.grid.name}: {len(runs) - len(failed)} of {len(runs)} runs are done, in {seconds:.0f} s"
    console.print(text, highlight=False)
    if left:
        console.print("the results are safe on the storage; the same command again records them", highlight=False)
    return 1 if failed or left else 0


def _refusal(grid: Grid) -> str:
    cells: dict[str, int] = defaultdict(int)
    for cell in grid.absent:
        cells[cell.reason] += 1
    reasons = "; ".join(f"{reason} ({count} cells)" for reason, count in cells.items())
    return (
        f"the grid {grid.name} cannot be run whole: {reasons}. Keep what can be run with --only, e.g. {_example(grid)}"
    )


def _example(grid: Grid) -> str:
    if not grid.runs:
        return "--only method=vae"
    methods = ",".join(dict.fromkeys(spec.method for spec in grid.runs))
    datasets = ",".join(dict.fromkeys(spec.dataset for spec in grid.runs))
    return f"--only method={methods} --only dataset={datasets}"


def _print_plan(plan: Plan, options: argparse.Namespace) -> None:
    from tune import estimate

    counts = plan.counts()
    hours = estimate.hours(plan.to_train)
    absent = sorted({cell.reason for cell in plan.grid.absent})
    if options.json:
        by_kind = [{"dataset": d, "method": m, "hours": round(h, 3)} for (d, m), h in sorted(hours.items())]
        about = {
            "grid": plan.grid.name, **counts, "hours": round(sum(hours.values()), 3), "hours_by": by_kind,
            "cells_without_estimate": len(plan.grid.absent), "absent": absent,
        }  # fmt: skip
        print(json.dumps(about))
        return
    from rich.table import Table

    out = Console()
    total = "{cells} cells, {runs} runs, {trainings} trainings in {trials} trials".format(**counts)
    out.print(f"{plan.grid.name}: {plan.grid.description}\n{total}", highlight=False)
    out.print(
        "{done_runs} runs are done; {to_train_trials} trials with {to_train_runs} runs are to be trained".format(
            **counts
        )
    )
    if counts["starting_points"]:
        out.print("{starting_points} runs more are trained as starting points".format(**counts))
    if hours:
        datasets = list(dict.fromkeys(dataset for dataset, _ in hours))
        title = "hours on one slot of this machine, from step times measured here"
        table = Table("", *datasets, title=title, show_footer=True)
        table.columns[0].footer = "all"
        for column, dataset in zip(table.columns[1:], datasets, strict=True):
            column.justify = "right"
            column.footer = f"{sum(value for (d, _), value in hours.items() if d == dataset):,.1f}"
        for method in dict.fromkeys(method for _, method in hours):
            values = [hours.get((dataset, method)) for dataset in datasets]
            table.add_row(method, *("" if value is None else f"{value:,.1f}" for value in values))
        out.print(table)
    for reason in absent:
        out.print(f"not there yet: {reason}", highlight=False)


def _expected_errors() -> tuple[type[Exception], ...]:
    """What says of itself what is wrong; from the modules that import MLflow and Ray too, if they were imported."""
    late = {"tune.tracking": "TrackingError", "tune.cluster": "ClusterError"}
    imported = [getattr(sys.modules[module], name) for module, name in late.items() if module in sys.modules]
    return (GridError, SpecError, StorageError, data.DataError, *imported)


if __name__ == "__main__":
    sys.exit(main())
