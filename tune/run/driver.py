"""The driver of a sweep: plans it, trains missing runs, records them in MLflow, and prints a summary."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console

from tune.plan.cautions import cautions_of
from tune.plan.conflicts import check_settings
from tune.plan.grid import Grid
from tune.plan.plan import Plan, make_plan
from tune.plan.trials import ArraySize, Trial
from tune.record.unrecorded import Unrecorded
from tune.run.disk import watch
from tune.run.dispatcher import Dispatcher
from tune.run.display import Display
from tune.run.doing import doing, say
from tune.run.ending import Ending, conclude, runs_are
from tune.run.images import needs_images, prepare_images
from tune.run.open_files import allow_many_open_files
from tune.run.options import Options
from tune.run.other_sweeps import OtherSweeps
from tune.run.schedule import Schedule
from tune.run.stopping import Stopping, without_sigterm
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
    """Train and record the grid's runs, once `check_start` has passed. Raises CommandError before anything starts."""
    allow_many_open_files()
    storage.check_writable()
    if not storage.locks.supported:
        say(console, f"--storage {storage.root} has no file locks: let one sweep at a time use it", "yellow")
    if needs_images(options, grid, storage):
        with doing("checking the data sets", console, options.began):
            prepare_images(grid, options.data_dir, console)
    mlflow = "" if options.inline else "loading MLflow and "
    with doing(f"{mlflow}looking up which runs are done", console, options.began):
        plan = _checked_plan(options, grid, array_size, storage)
    for key in plan.retried or ():
        storage.forget_failure(key)
    if plan.to_train and not options.record:
        _warn(options, grid, console)
    return _carry_out(options, plan, storage, console)


def _warn(options: Options, grid: Grid, console: Console) -> None:
    """Print warnings about settings that are likely to mislead; not about the starting points of a search."""
    for caution in cautions_of(grid) if options.search is None else ():
        say(console, f"warning: {caution}", "yellow", wrap=True)


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
    with doing("ordering the trials", console, options.began) if to_train else nullcontext():
        schedule = Schedule.of(to_train, plan.on_storage - training.keys())
    done = sum(plan.is_done(spec) for t in plan.trials for spec in t.runs if spec.key not in training)
    display = Display(schedule, done, console, options.began)
    if done and not options.record:
        say(console, f"{plan.grid.name}: {runs_are(done)} done already")
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

    def warn(line: str) -> None:
        say(console, line, "yellow")

    stopping = Stopping(display.stopping, limit=options.limit)
    space = watch(options, storage, to_train, plan.to_record, stopping, warn) if to_train else nullcontext()
    with ExitStack() as stack:
        with without_sigterm():  # their threads
            stack.enter_context(display.live())
            recorder = _recorder(options, plan.grid.name, storage, display)
            stack.enter_context(space)
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
                display.doing("loading Ray")
                from tune.run.trials import run_trials as run  # late: imports Ray, which not every sweep needs
            run(dispatcher, options.resources, options.data_dir, display, stopping, plan.grid.kind)
        if not options.inline and (to_train or plan.to_record):
            display.doing("recording in MLflow")
    ending = Ending(
        failed=schedule.failed_runs | recorder.failures,
        unfinished=schedule.unfinished,
        left=recorder.left,
        status=stopping.status if schedule.unfinished else None,
        seconds=time.monotonic() - began,
    )
    failed = {key: failure.reason for key, failure in plan.held_back.items()} | dict(ending.failed)
    failed |= {spec.key: "not recorded yet" for spec in ending.left if spec.key not in failed}
    return Swept(conclude(options, plan, storage, console, ending), failed)


def _keep(failure: Failure, key: str, storage: Storage) -> None:
    try:
        storage.save_failure(key, failure)
    except OSError as error:  # no reason to stop: the same command will only try the run again
        log.warning("the failure is not saved, so the same command tries the run again: %s", error)
