"""The end of a sweep: its report and tables, how many runs are done, why others are not, and where to look next."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from analysis.duration import duration
from analysis.tracking_uri import default_tracking_uri
from rme.config import RunSpec
from tune.plan.grid import Grid
from tune.plan.plan import Plan, with_children
from tune.run.doing import doing, say
from tune.run.options import Options
from tune.store.errors import CommandError
from tune.store.storage import Storage

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Ending:
    """How a sweep ended.

    Attributes:
        failed: reasons of the runs that failed or were skipped, by key.
        unfinished: keys of the runs that were to be trained and were not.
        left: runs that are not recorded yet.
        status: the exit status if it was stopped before all were trained; else None.
        seconds: how long it took.
    """

    failed: Mapping[str, str]
    unfinished: Collection[str]
    left: Collection[RunSpec]
    status: int | None
    seconds: float


def conclude(options: Options, plan: Plan, storage: Storage, console: Console, ending: Ending) -> int:
    """Write the report, print how the sweep ended, register a model if asked to, and return the exit status."""
    ended = ending.status is None  # a stopped sweep has little time left: after SIGTERM comes SIGKILL
    runs = None
    if ended and plan.grid.kind.trains and options.reports:
        runs = _report(options, plan.grid.name, console)
    status = _farewell(options, plan, storage, console, ending)
    if ended and options.register is not None:
        status = _register(options, options.register, plan.grid, storage, console) or status
    if runs is not None:
        page = _page(options.tracking_uri, plan.grid.name)
        _look_next(options, plan.grid.name, runs, page, console)
    return status


def report_folder(options: Options, experiment: str) -> Path:
    return options.report or Path("report") / experiment


def _report(options: Options, experiment: str, console: Console) -> pd.DataFrame | None:
    """Bring the report of all runs recorded so far up to date, print its summary, and return the runs.

    If that is impossible, say why and return None; the sweep has not failed.
    """
    from analysis.collect import CollectError, collect, failures  # late: an inline sweep needs no MLflow
    from analysis.freshness import is_fresh
    from analysis.summary import print_summary

    out = report_folder(options, experiment)
    try:
        with doing("reading the runs", console, options.began):
            runs = collect(options.tracking_uri, experiment)
            fresh = is_fresh(out, runs, failures(options.tracking_uri, experiment), experiment)
        if not fresh:
            with doing(f"writing the report to {out}", console, options.began):
                from analysis.report import build_report  # late: imports matplotlib

                build_report(experiment, out, options.tracking_uri)
        print_summary(runs, out, console)
    except (CollectError, OSError) as error:
        say(console, f"no report: {error}")
        return None
    return runs


def _look_next(options: Options, experiment: str, runs: pd.DataFrame, page: str, console: Console) -> None:
    """Print where the report, MLflow's pages and the best model are; `page` follows the address of MLflow's server."""
    uri = options.tracking_uri
    say(console, f"MLflow: {_served(uri)}{page}")
    if len(runs[["dataset", "dim", "decoder"]].drop_duplicates()) == 1 and runs["val_iwae"].notna().any():
        best = runs.sort_values("val_iwae", na_position="first").iloc[-1]
        where = "" if uri == default_tracking_uri() else f", tracking_uri={uri!r}"
        name = f"{best['method_label']} seed {best['seed']}"
        say(console, f'best by validation, {name}: rme.load("runs:/{best["mlflow_run_id"]}"{where})')
    say(console, f"report: {report_folder(options, experiment) / 'index.html'}")


def _served(uri: str) -> str:
    """The address of MLflow's server; for a database, the command that serves it, and the address after that."""
    if uri.startswith("http"):
        return f"{uri.rstrip('/')}/"
    return f"`mlflow server --backend-store-uri {shlex.quote(uri)}`, then http://localhost:5000/"


def _page(uri: str, experiment: str) -> str:
    """What follows the server's address on the experiment's page; empty if it has no such page yet."""
    from mlflow import MlflowClient  # late: an inline sweep needs no MLflow

    from tune.record.views import CELLS, address

    found = MlflowClient(tracking_uri=uri).get_experiment_by_name(experiment)
    return "" if found is None else address(found.experiment_id, CELLS)


def _register(options: Options, name: str, grid: Grid, storage: Storage, console: Console) -> int:
    """Register the best recorded run's model, and say which. Returns the exit status: 1 if none is registered."""
    from tune.record.register import register_best

    try:
        # two sweeps that register the same run at once would create two versions
        with storage.locks.holding(f"registering {name}", patience_s=600):
            found = register_best(options.tracking_uri, grid.name, grid.runs, name)
    except CommandError as error:
        say(console, f"not registered: {error}", "red")
        return 1
    total = len(grid.runs)
    if found is None:
        cell = grid.runs[0].cell
        say(console, f"not registered: --register {name}: none of the {total} runs of {cell} is recorded", "red")
        return 1
    done = f"registered {found.uri}" if found.new else f"{found.uri} is registered already"
    left = total - found.recorded
    missing = f"; {left} of the cell's {total} runs are not recorded" if left else ""
    say(console, f"{done}: {found.run_name}, the best of {found.recorded} by validation{missing}")
    return 0


def _farewell(options: Options, plan: Plan, storage: Storage, console: Console, ending: Ending) -> int:
    """Print how the sweep ended, and return the exit status."""
    tell = partial(say, console)
    runs = {spec.key: spec for trial in plan.trials for spec in trial.runs}
    for key, failure in plan.held_back.items():
        tell(f"failed before: {runs[key].run_name}: {failure.reason}", "red")
    for key, reason in ending.failed.items():
        tell(f"failed: {runs[key].run_name}: {reason}", "red")
    for spec in ending.left:
        tell(f"not recorded yet: {spec.run_name}", "red")
    training = set() if options.record else {spec.key for trial in plan.to_train for spec in trial.runs}
    undone = {*ending.failed, *ending.unfinished}  # failed also: a result found damaged while it was recorded
    undone |= {key for key, spec in runs.items() if not (key in training or plan.is_done(spec))}
    if ending.status is not None:
        done = f"{len(runs) - len(undone)} of {len(runs)} run{'s' if len(runs) > 1 else ''}"
        tell(f"interrupted with {done} done; the same command resumes")
        return ending.status
    done = f"{len(runs) - len(undone)} of {runs_are(len(runs))}"
    tell(f"{plan.grid.name}: {done} done, in {duration(ending.seconds)}")
    lasting = storage.failures(undone)
    stuck = with_children(lasting, runs.values(), runs.keys() - undone)
    if lasting:
        tracebacks = storage.failures_folder if options.inline else "MLflow"
        tell(f"--retry-failed trains the failed runs again; their tracebacks are in {tracebacks}")
    if others := len(undone - stuck.keys()):
        option = "--retry-failed" if plan.retried is not None else "--record" if options.record else ""
        plain = f"the command without {option}" if option else "the same command"
        tell(f"{plain} continues with the other {others}")
    if ending.left:
        tell("the results are safe on the storage; the same command records them")
    if options.inline and len(undone) < len(runs):
        tell(f"the results are in {storage.root}; the command with --record instead of --inline records them in MLflow")
    return 1 if undone or ending.left else 0


def runs_are(count: int) -> str:
    """`1 run is`, `8 runs are`."""
    return "1 run is" if count == 1 else f"{count} runs are"
