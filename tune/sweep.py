"""The sweep's command line: `python tune/sweep.py --grid demo`.

The same command again goes on where it was. Exit status: 0 all runs are recorded, 1 some failed or are not recorded,
2 the command cannot be carried out, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import csv
import gc
import logging
import os
import shlex
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # whoever imports this has a threshold of its own
    gc.set_threshold(100_000)  # imports make a million objects and no garbage; looking for it is a fifth of them

# `python tune/sweep.py` puts this folder, not the project's, on the path
_ROOT = str(Path(__file__).resolve().parent.parent)
if _ROOT not in sys.path:
    sys.path.insert(0, _ROOT)
sys.path[:] = [entry for entry in sys.path if entry != str(Path(__file__).resolve().parent)]

from rich.console import Console

from rme import data, hooks
from rme.config import SpecError
from tune.plan import grid as grids
from tune.plan.grid import ArraySize, Grid, GridError, Trial
from tune.plan.plan import Plan, make_plan, with_children
from tune.plan.yaml_text import YamlError, parse
from tune.store.failure import Failure
from tune.store.locks import LockTimeout
from tune.store.storage import Storage, StorageError

DEFAULT_TRACKING = "sqlite:///mlflow.db"


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    options.command = shlex.join(["python", "tune/sweep.py", *(sys.argv[1:] if arguments is None else arguments)])
    logging.basicConfig(level=logging.WARNING, handlers=[logging.NullHandler()])
    console = Console(stderr=True)
    try:
        return _run(options, console)
    except _expected_errors() as error:
        console.print(f"sweep: {error}", markup=False, highlight=False, soft_wrap=True, style="red")
        return 2
    except KeyboardInterrupt:  # a second time, or before anything was started
        console.print("stopped at once; the same command goes on where this one was", highlight=False)
        return 130


def parser() -> argparse.ArgumentParser:
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
    add("--gpus-per-trial", type=_gpus, metavar="F|auto", help="GPUs of a trial, or a fraction; auto: as many trials "
        "on a GPU as its memory holds, which is measured (default: 1 if there are any, else 0)")  # fmt: skip
    add("--seeds-per-trial", type=_positive(int), metavar="N", help="runs trained as one array (default: 2)")
    add("--members", type=_members, metavar="N|auto", help="instead: models trained as one array, which holds whole "
        "runs; auto: as many as pays on this machine's device, which is measured once")  # fmt: skip
    add("--search", choices=["optuna"], help="choose fields of the one cell that is left by validation, with --space")
    add("--samples", type=_positive(int), metavar="N", help="with --search: how many values to try (default: 20)")
    add("--space", metavar="NAME|FILE.yaml", help="with --search: the fields and where to look, by its name in "
        "tune/spaces or a file")  # fmt: skip
    add("--early-stopping", choices=["asha", "none"], help="with --search: asha stops samples that have fallen behind, "
        "none trains each to its end (default: asha)")  # fmt: skip
    add("--experiment", type=_name, metavar="NAME", help="name of the MLflow experiment (default: the grid's)")
    add("--retry-failed", action="store_true", help="train just those runs again that failed")
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


def _members(text: str) -> int | str:
    return text if text == "auto" else _positive(int)(text)


_members.__name__ = "number of models"


def _gpus(text: str) -> float | str:
    return text if text == "auto" else _positive(float, zero=True)(text)


_gpus.__name__ = "number of GPUs"


def _name(text: str) -> str:
    if not grids.is_plain_name(text):
        raise argparse.ArgumentTypeError(f"{text!r} must be a plain name, without /")  # folders are named after it
    return text


def _assignments(option: str, texts: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        field, sign, value = text.partition("=")
        if not sign or not field or not value:
            raise GridError(f"{option} {text}: say FIELD=VALUE")
        if field in found:
            right = f"{option} {field}={found[field]},{value}" if option == "--only" else "say it once"
            raise GridError(f"{option} {text}: {field} is there twice, first as {found[field]}; {right}")
        found[field] = value
    return found


def _items(field: str, text: str) -> list[str]:
    """As in CSV: a value that has a comma itself is put into double quotes."""
    try:
        (items,) = csv.reader([text], skipinitialspace=True, strict=True)
    except (ValueError, csv.Error):
        items = []
    if not items:
        raise GridError(f"--only {field}={text!r}: say FIELD=A,B, in one line, quotes in pairs")
    return items


def _load_grid(options: argparse.Namespace) -> Grid:
    only = {field: _items(field, text) for field, text in _assignments("--only", options.only).items()}
    overrides: dict[str, Any] = {}
    for field, text in _assignments("--set", options.set).items():
        try:
            overrides[field] = parse(text).value
        except YamlError:
            overrides[field] = text
    if options.dataset:
        overrides["dataset"] = options.dataset
    grid = grids.load(options.grid, only, overrides)
    return replace(grid, name=options.experiment) if options.experiment else grid


def _run(options: argparse.Namespace, console: Console) -> int:
    if options.json and not options.plan:
        raise GridError("--json goes with --plan")
    _check_search(options)
    grid = _load_grid(options)
    storage = Storage(options.storage)
    options.array_size = _array_size(options, grid, storage)
    if options.plan:
        from tune.plan.conflicts import other_settings
        from tune.plan.show_plan import show_plan
        from tune.record.tracking import finished_without_creating, run_keys

        finished = finished_without_creating(options.tracking_uri, grid.name)
        plan = make_plan(grid, options.array_size, run_keys(finished), storage, options.retry_failed)
        show_plan(plan, options.json, other_settings(grid, finished))
        return 0
    if grid.absent:
        raise GridError(_refusal(grid))

    if options.search:
        from tune.search.search import search

        return search(options, grid, storage, console, lambda parents: _train(options, parents, storage, console))
    return _train(options, grid, storage, console)


def _array_size(options: argparse.Namespace, grid: Grid, storage: Storage) -> ArraySize:
    """How many runs an array holds."""
    if options.members is not None and options.seeds_per_trial is not None:
        raise GridError("--members and --seeds-per-trial both say how large an array is: give one of them")
    if grid.kind == "timing":
        return 1  # nothing is timed beside anything else
    if options.members is None:
        return options.seeds_per_trial or 2
    if options.members != "auto":
        return lambda spec: max(1, options.members // spec.restarts)
    from rme.device import pick_device
    from tune.cost import array_size as members

    device = pick_device("cpu" if options.gpus_per_trial == 0 else "auto")
    if options.address is not None and device.type == "cpu" and options.gpus_per_trial != 0:
        raise GridError("--members auto measures on this machine, which has no GPU to measure on: say --members N")
    return members.measured(grid.with_parents(), storage, device, keep=not options.plan)


def _check_search(options: argparse.Namespace) -> None:
    if not options.search:
        for option in ("samples", "space", "early_stopping"):
            if getattr(options, option) is not None:
                raise GridError(f"--{option.replace('_', '-')} goes with --search optuna")
        return
    if options.space is None:
        raise GridError("--search needs --space NAME|FILE.yaml, the fields to choose and where to look")
    if options.plan:
        raise GridError("--plan goes without --search")
    options.samples = options.samples or 20
    options.early_stopping = options.early_stopping or "asha"


def _train(options: argparse.Namespace, grid: Grid, storage: Storage, console: Console) -> int:
    """Sweep the grid."""
    from tune.record.tracking import Tracker

    hooks.on_epoch()  # that it is wrong is better heard here than from each worker
    storage.check_writable()
    if not storage.locks.supported:
        console.print(f"--storage {storage.root} knows no file locks: let one sweep at a time use it", style="yellow")
    for name in dict.fromkeys(spec.dataset for spec in grid.runs):
        data.get(name).prepare(options.data_dir)
    # two that make a new database at once would break it
    with storage.locks.holding(f"opening {options.tracking_uri}", patience_s=600):
        tracker = Tracker(options.tracking_uri, grid.name)
    plan = _checked_plan(options, grid, tracker, storage)
    for key in plan.retried or ():
        storage.forget_failure(key)
    return _sweep(options, plan, storage, console)


def _checked_plan(options: argparse.Namespace, grid: Grid, tracker, storage: Storage) -> Plan:
    """The plan; raises SettingsError. What MLflow gives is large, and let go of before the sweep starts."""
    from tune.plan.conflicts import check_settings
    from tune.record.tracking import run_keys

    finished = tracker.finished()
    check_settings(grid, finished)
    return make_plan(grid, options.array_size, run_keys(finished), storage, options.retry_failed)


def _sweep(options: argparse.Namespace, plan: Plan, storage: Storage, console: Console) -> int:
    from tune.record.recorder import Recorder
    from tune.record.writer import Writer
    from tune.run.display import Display
    from tune.run.schedule import Schedule

    began = time.monotonic()
    to_train = plan.to_train
    training = {spec.key for trial in to_train for spec in trial.runs}
    schedule = Schedule.of(to_train, plan.on_storage - training)
    done = sum(plan.is_done(spec) for t in plan.trials for spec in t.runs if spec.key not in training)
    display = Display(schedule, done, console)
    if done:
        console.print(f"{plan.grid.name}: {done} runs are done already", highlight=False)
    told: set[str] = set()
    runs = {spec.key: spec for trial in to_train for spec in trial.runs}

    def on_end(trial: Trial, failures: dict[str, Failure]) -> None:
        display.ended(trial)
        for spec in trial.runs:
            if spec.key not in failures:
                recorder.result(spec)
        # the trial's own failures, and what was skipped because of them
        for key in schedule.failed_runs.keys() - told:
            told.add(key)
            failure = failures.get(key) or Failure(schedule.failed_runs[key])
            display.failed(runs[key], failure.reason)
            recorder.failure(runs[key], failure)
            if failure.lasting:
                _keep(failure, key, storage)

    interrupted = False
    writer = Writer(options.tracking_uri, plan.grid.name, options.command, storage)
    with display.live(), Recorder(writer, display.recorded) as recorder:
        for spec in plan.to_record:
            if spec.key not in training:
                recorder.result(spec)
        for trial in plan.trials:
            for spec in trial.runs:
                if spec.key in plan.held_back:
                    recorder.failure(spec, plan.held_back[spec.key])
        if to_train:
            from tune.run.cluster import run_trials

            interrupted = run_trials(options, schedule, storage, display, on_end, plan.grid.kind)
    failed = schedule.failed_runs | recorder.failures
    if plan.grid.kind == "training" and not options.search:  # a timing has no scores
        _write_report(console, plan.grid.name, options)
    return _farewell(console, plan, storage, failed, recorder.left, interrupted, time.monotonic() - began)


def _keep(failure: Failure, key: str, storage: Storage) -> None:
    try:
        storage.save_failure(key, failure)
    except OSError as error:  # then the same command tries the run again, which is not what it is worth stopping for
        logging.getLogger(__name__).warning("the failure is not kept: %s", error)


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
    console: Console,
    plan: Plan,
    storage: Storage,
    failed: Mapping[str, str],
    left: list,
    interrupted: bool,
    seconds: float,
) -> int:
    """Say how it ended; the exit status."""
    runs = {spec.key: spec for trial in plan.trials for spec in trial.runs}
    for key, failure in plan.held_back.items():
        _say_failed(console, f"failed before: {runs[key].run_name}: {failure.reason}")
    for key, reason in failed.items():
        _say_failed(console, f"failed: {runs[key].run_name}: {reason}")
    for spec in left:
        console.print(f"not recorded yet: {spec.run_name}", highlight=False, style="red")
    if interrupted:
        console.print("stopped; the same command goes on where this one was", highlight=False)
        return 130
    training = {spec.key for trial in plan.to_train for spec in trial.runs}
    undone = {key for key, spec in runs.items() if key in failed or not (plan.is_done(spec) or key in training)}
    text = f"{plan.grid.name}: {len(runs) - len(undone)} of {len(runs)} runs are done, in {seconds:.0f} s"
    console.print(text, highlight=False)
    lasting = storage.failures(undone)
    stuck = with_children(lasting, runs.values(), runs.keys() - undone)
    if lasting:
        console.print("--retry-failed trains those that failed again; the tracebacks are in MLflow", highlight=False)
    if undone - stuck.keys():
        plain = "the same command" if plan.retried is None else "the command without --retry-failed"
        console.print(f"{plain} goes on with the other {len(undone - stuck.keys())}", highlight=False)
    if left:
        console.print("the results are safe on the storage; the same command again records them", highlight=False)
    return 1 if undone or left else 0


def _say_failed(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True, style="red")


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


def _expected_errors() -> tuple[type[Exception], ...]:
    """What says of itself what is wrong; from the modules that import MLflow and Ray too, if they were imported."""
    late = {
        "tune.record.tracking": "TrackingError",
        "tune.run.cluster": "ClusterError",
        "tune.plan.conflicts": "SettingsError",
    }
    imported = [getattr(sys.modules[module], name) for module, name in late.items() if module in sys.modules]
    return (GridError, SpecError, StorageError, LockTimeout, data.DataError, hooks.HookError, *imported)


if __name__ == "__main__":
    status = main()
    gc.freeze()  # else the interpreter looks at each object once more as it ends, for a second
    sys.exit(status)
