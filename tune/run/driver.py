"""The driver of a sweep: plans it, trains missing runs, records them in MLflow, and prints a summary."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from rme import data, hooks
from rme.config import RunSpec
from tune.plan.conflicts import check_settings
from tune.plan.grid import Grid
from tune.plan.plan import Plan, make_plan, with_children
from tune.plan.trials import ArraySize, Trial
from tune.record.recorder import Recorder
from tune.record.tracking import Tracker, run_keys
from tune.record.writer import Writer
from tune.run.display import Display
from tune.run.options import Options
from tune.run.schedule import Schedule
from tune.store.failure import Failure
from tune.store.storage import Storage

log = logging.getLogger(__name__)

INTERRUPTED = 130
"""Exit status after Ctrl-C."""


def sweep(options: Options, grid: Grid, array_size: ArraySize, storage: Storage, console: Console) -> int:
    """Train and record the grid's runs.

    Returns the exit status: 0 all runs are recorded, 1 some failed or are not recorded, 130 interrupted. Raises
    CommandError, DataError or HookError before anything starts.
    """
    hooks.on_epoch()  # a wrong hook is reported here once, not by each worker
    storage.check_writable()
    if not storage.locks.supported:
        console.print(f"--storage {storage.root} has no file locks: let one sweep at a time use it", style="yellow")
    for name in dict.fromkeys(spec.dataset for spec in grid.runs):
        data.get(name).prepare(options.data_dir)
    # two sweeps that create the database at the same time would break it
    with storage.locks.holding(f"opening {options.tracking_uri}", patience_s=600):
        tracker = Tracker(options.tracking_uri, grid.name)
    plan = _checked_plan(options, grid, array_size, tracker, storage)
    for key in plan.retried or ():
        storage.forget_failure(key)
    return _carry_out(options, plan, storage, console)


def _checked_plan(options: Options, grid: Grid, array_size: ArraySize, tracker: Tracker, storage: Storage) -> Plan:
    """The plan; raises SettingsError. A function, so that MLflow's large answer is freed before the sweep starts."""
    finished = tracker.finished()
    check_settings(grid, finished)
    return make_plan(grid, array_size, run_keys(finished), storage, options.retry_failed)


def _carry_out(options: Options, plan: Plan, storage: Storage, console: Console) -> int:
    began = time.monotonic()
    to_train = plan.to_train
    training = {spec.key: spec for trial in to_train for spec in trial.runs}
    schedule = Schedule.of(to_train, plan.on_storage - training.keys())
    done = sum(plan.is_done(spec) for t in plan.trials for spec in t.runs if spec.key not in training)
    display = Display(schedule, done, console)
    if done:
        console.print(f"{plan.grid.name}: {done} runs are done already", highlight=False)
    reported: set[str] = set()

    def on_end(trial: Trial, failures: dict[str, Failure]) -> None:
        display.ended(trial)
        for spec in trial.runs:
            if spec.key not in failures:
                recorder.result(spec)
        # the trial's own failures, and the runs skipped because of them
        for key in schedule.failed_runs.keys() - reported:
            reported.add(key)
            failure = failures.get(key) or Failure(schedule.failed_runs[key])
            display.failed(training[key], failure.reason)
            recorder.failure(training[key], failure)
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
            from tune.run.trials import run_trials  # late: imports Ray, which a sweep that only records does not need

            interrupted = run_trials(
                options.resources, options.data_dir, schedule, storage, display, on_end, plan.grid.kind
            )
    failed = schedule.failed_runs | recorder.failures
    if plan.grid.kind.trains and options.search is None:
        _write_report(options, plan.grid.name, console)
    return _farewell(plan, storage, console, failed, recorder.left, interrupted, time.monotonic() - began)


def _keep(failure: Failure, key: str, storage: Storage) -> None:
    try:
        storage.save_failure(key, failure)
    except OSError as error:  # no reason to stop: the same command will only try the run again
        log.warning("the failure is not saved, so the same command tries the run again: %s", error)


def _write_report(options: Options, experiment: str, console: Console) -> None:
    """Write the report of all runs recorded so far. If that is impossible, say why; the sweep has not failed."""
    from analysis.collect import CollectError
    from analysis.report import build_report

    try:
        report = build_report(experiment, options.report or Path("report") / experiment, options.tracking_uri)
        console.print(f"report: {report.index}", markup=False, highlight=False, soft_wrap=True)
    except (CollectError, OSError) as error:
        console.print(f"no report: {error}", markup=False, highlight=False, soft_wrap=True)


def _farewell(
    plan: Plan,
    storage: Storage,
    console: Console,
    failed: Mapping[str, str],
    left: list[RunSpec],
    interrupted: bool,
    seconds: float,
) -> int:
    """Print how the sweep ended, and return the exit status."""

    def say(text: str, style: str | None = None) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True, style=style)

    runs = {spec.key: spec for trial in plan.trials for spec in trial.runs}
    for key, failure in plan.held_back.items():
        say(f"failed before: {runs[key].run_name}: {failure.reason}", "red")
    for key, reason in failed.items():
        say(f"failed: {runs[key].run_name}: {reason}", "red")
    for spec in left:
        say(f"not recorded yet: {spec.run_name}", "red")
    if interrupted:
        say("interrupted; the same command resumes")
        return INTERRUPTED
    training = {spec.key for trial in plan.to_train for spec in trial.runs}
    undone = {key for key, spec in runs.items() if key in failed or not (plan.is_done(spec) or key in training)}
    say(f"{plan.grid.name}: {len(runs) - len(undone)} of {len(runs)} runs are done, in {seconds:.0f} s")
    lasting = storage.failures(undone)
    stuck = with_children(lasting, runs.values(), runs.keys() - undone)
    if lasting:
        say("--retry-failed trains the failed runs again; their tracebacks are in MLflow")
    if others := len(undone - stuck.keys()):
        plain = "the same command" if plan.retried is None else "the command without --retry-failed"
        say(f"{plain} continues with the other {others}")
    if left:
        say("the results are safe on the storage; the same command records them")
    return 1 if undone or left else 0
