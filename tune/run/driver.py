"""The driver of a sweep: plans it, trains missing runs, records them in MLflow, and prints a summary."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from rme import hooks
from rme.config import RunSpec
from tune.plan.conflicts import check_settings
from tune.plan.grid import Grid
from tune.plan.plan import Plan, make_plan, with_children
from tune.plan.trials import ArraySize, Trial
from tune.record.unrecorded import Unrecorded
from tune.run.dispatcher import Dispatcher
from tune.run.display import Display
from tune.run.images import prepare_images
from tune.run.options import Options
from tune.run.other_sweeps import OtherSweeps
from tune.run.schedule import Schedule
from tune.run.stopping import Stopping, without_sigterm
from tune.store.errors import CommandError
from tune.store.failure import Failure
from tune.store.storage import Storage

if TYPE_CHECKING:
    from tune.record.recorder import Recorder

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Swept:
    """What a sweep has done.

    Attributes:
        status: the exit status: 0 all runs are done (and recorded, unless inline), 1 some are not, or one of
            `tune.run.stopping`'s.
        failed: why runs failed, were skipped or are not recorded yet, by key, of runs that others start from, too.
    """

    status: int
    failed: Mapping[str, str]


def sweep(options: Options, grid: Grid, array_size: ArraySize, storage: Storage, console: Console) -> Swept:
    """Train and record the grid's runs. Raises CommandError, DataError or HookError before anything starts."""
    hooks.on_epoch()  # a wrong hook is reported here once, not by each worker
    if options.register is not None:
        from tune.record.register import check_one_cell  # late, as the tracker

        check_one_cell(options.register, grid.runs)
    storage.check_writable()
    if not storage.locks.supported:
        console.print(f"--storage {storage.root} has no file locks: let one sweep at a time use it", style="yellow")
    if not options.record:
        prepare_images(grid, options.data_dir, console)
    plan = _checked_plan(options, grid, array_size, storage)
    for key in plan.retried or ():
        storage.forget_failure(key)
    return _carry_out(options, plan, storage, console)


def _checked_plan(options: Options, grid: Grid, array_size: ArraySize, storage: Storage) -> Plan:
    """The plan; raises SettingsError. A function, so that MLflow's large answer is freed before the sweep starts."""
    recorded: set[str] = set()
    if not options.inline:
        from tune.record.tracking import Tracker, run_keys  # late: an inline sweep needs no MLflow

        # two sweeps that create the database at the same time would break it
        with storage.locks.holding(f"opening {options.tracking_uri}", patience_s=600):
            tracker = Tracker(options.tracking_uri, grid.name)
        finished = tracker.finished()
        check_settings(grid, finished)
        recorded = run_keys(finished)
    return make_plan(grid, array_size, recorded, storage, options.retry_failed)


def _recorder(options: Options, experiment: str, storage: Storage, display: Display) -> Recorder | Unrecorded:
    if options.inline:
        return Unrecorded(storage, display.recorded)
    from tune.record.recorder import Recorder
    from tune.record.writer import Writer

    return Recorder(Writer(options.tracking_uri, experiment, options.command, storage), display.recorded)


def _carry_out(options: Options, plan: Plan, storage: Storage, console: Console) -> Swept:
    began = time.monotonic()
    to_train = [] if options.record else plan.to_train
    training = {spec.key: spec for trial in to_train for spec in trial.runs}
    schedule = Schedule.of(to_train, plan.on_storage - training.keys())
    done = sum(plan.is_done(spec) for t in plan.trials for spec in t.runs if spec.key not in training)
    display = Display(schedule, done, console)
    if done and not options.record:
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

    def say(line: str) -> None:
        console.print(line, highlight=False)

    stopping = Stopping(say, limit=options.limit)
    with ExitStack() as stack:
        with without_sigterm():  # their threads
            stack.enter_context(display.live())
            recorder = _recorder(options, plan.grid.name, storage, display)
        stack.enter_context(recorder)
        if not options.inline:
            for spec in plan.to_record:
                if spec.key not in training:
                    recorder.result(spec)
        for trial in plan.trials:
            for spec in trial.runs:
                if spec.key in plan.held_back:
                    recorder.failure(spec, plan.held_back[spec.key])
        if to_train:
            dispatcher = Dispatcher(OtherSweeps(schedule, storage, display.left_to_another, on_end))
            if options.inline:
                from tune.run.inline import run_inline as run
            else:
                from tune.run.trials import run_trials as run  # late: imports Ray, which not every sweep needs
            run(dispatcher, options.resources, options.data_dir, display, stopping, plan.grid.kind)
    ending = Ending(
        failed=schedule.failed_runs | recorder.failures,
        unfinished=schedule.unfinished,
        left=recorder.left,
        status=stopping.status if schedule.unfinished else None,
        seconds=time.monotonic() - began,
    )
    # a stopped sweep has little time left: after SIGTERM comes SIGKILL
    if plan.grid.kind.trains and options.reports and ending.status is None:
        _write_report(options, plan.grid.name, console)
    failed = {key: failure.reason for key, failure in plan.held_back.items()} | dict(ending.failed)
    failed |= {spec.key: "not recorded yet" for spec in ending.left if spec.key not in failed}
    status = _farewell(options, plan, storage, console, ending)
    if options.register is not None and ending.status is None:
        status = _register(options, options.register, plan.grid, storage, console) or status
    return Swept(status, failed)


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


def _register(options: Options, name: str, grid: Grid, storage: Storage, console: Console) -> int:
    """Register the best recorded run's model, and say which. Returns the exit status: 1 if none is registered."""
    from tune.record.register import register_best

    def say(text: str, style: str | None = None) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True, style=style)

    try:
        # two sweeps that register the same run at once would create two versions
        with storage.locks.holding(f"registering {name}", patience_s=600):
            found = register_best(options.tracking_uri, grid.name, grid.runs, name)
    except CommandError as error:
        say(f"not registered: {error}", "red")
        return 1
    total = len(grid.runs)
    if found is None:
        say(f"not registered: --register {name}: none of the {total} runs of {grid.runs[0].cell} is recorded", "red")
        return 1
    done = f"registered {found.uri}" if found.new else f"{found.uri} is registered already"
    left = total - found.recorded
    missing = f"; {left} of the cell's {total} runs are not recorded" if left else ""
    say(f"{done}: {found.run_name}, the best of {found.recorded} by validation{missing}")
    return 0


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


def _farewell(options: Options, plan: Plan, storage: Storage, console: Console, ending: Ending) -> int:
    """Print how the sweep ended, and return the exit status."""

    def say(text: str, style: str | None = None) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True, style=style)

    runs = {spec.key: spec for trial in plan.trials for spec in trial.runs}
    for key, failure in plan.held_back.items():
        say(f"failed before: {runs[key].run_name}: {failure.reason}", "red")
    for key, reason in ending.failed.items():
        say(f"failed: {runs[key].run_name}: {reason}", "red")
    for spec in ending.left:
        say(f"not recorded yet: {spec.run_name}", "red")
    training = set() if options.record else {spec.key for trial in plan.to_train for spec in trial.runs}
    undone = {*ending.failed, *ending.unfinished}  # failed also: a result found damaged while it was recorded
    undone |= {key for key, spec in runs.items() if not (key in training or plan.is_done(spec))}
    if ending.status is not None:
        say(f"interrupted with {len(runs) - len(undone)} of {len(runs)} runs done; the same command resumes")
        return ending.status
    say(f"{plan.grid.name}: {len(runs) - len(undone)} of {len(runs)} runs are done, in {ending.seconds:.0f} s")
    lasting = storage.failures(undone)
    stuck = with_children(lasting, runs.values(), runs.keys() - undone)
    if lasting:
        tracebacks = storage.failures_folder if options.inline else "MLflow"
        say(f"--retry-failed trains the failed runs again; their tracebacks are in {tracebacks}")
    if others := len(undone - stuck.keys()):
        option = "--retry-failed" if plan.retried is not None else "--record" if options.record else ""
        plain = f"the command without {option}" if option else "the same command"
        say(f"{plain} continues with the other {others}")
    if ending.left:
        say("the results are safe on the storage; the same command records them")
    if options.inline and len(undone) < len(runs):
        say(f"the results are in {storage.root}; the command with --record instead of --inline records them in MLflow")
    return 1 if undone or ending.left else 0
