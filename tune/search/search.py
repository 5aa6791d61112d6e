"""Hyperparameter search for one cell: Ray Tune's OptunaSearch (TPE) with ASHA, on validation scores alone.

A sample's score is the mean validation IWAE of the grid's runs. ASHA stops a sample whose validation ELBO is not in the
best third of the samples at the same epoch. Early in training, that favours samples that start fast: `--early-stopping
none` trains each to its end. The samples are on the storage. Each command fills Optuna's study and ASHA's rungs from
there.
"""

from __future__ import annotations

import json
import logging
import shlex
import shutil
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from analysis.words import counted
from tune.run import cluster  # sets Ray's environment, so it comes before Ray

# isort: split
import ray
import ray.tune
from rich.console import Console

from rme.config import RunSpec
from rme.errors import first_line
from tune.plan.grid import Grid, GridError
from tune.plan.kinds import TRAINING
from tune.run.doing import say
from tune.run.images import prepare_images
from tune.run.machine import check_machine
from tune.run.options import Options
from tune.run.protocol import Job
from tune.run.resources import gpus_of
from tune.run.searcher import Watcher
from tune.run.stopping import Stopping
from tune.run.trials import experiment_name, resources_of, run_config, stopping_ray
from tune.search import space as spaces
from tune.search.halving import Halving, halving_of
from tune.search.samples import Sample, Samples, Status
from tune.search.searcher import SampleSearcher
from tune.search.study import study_file, write_study
from tune.search.tracking import SearchTracker
from tune.search.trainable import train_sample
from tune.store.storage import Storage, StorageError

log = logging.getLogger(__name__)


def search(
    options: Options, grid: Grid, storage: Storage, console: Console, train_parents: Callable[[Grid], int]
) -> int:
    """Carry out `--search`, and return the exit status, with the same meaning as a sweep's.

    `train_parents` trains the VAEs that the runs start from. Raises CommandError or DataError before anything starts.
    """
    asked = options.search
    assert asked is not None
    runs = _one_cell(grid)
    space = spaces.load(asked.space, runs[0])
    storage.check_writable()
    prepare_images(grid, options.data_dir, console)
    tracker = SearchTracker(options.tracking_uri, f"{grid.name}-search")
    of_parents = {spec.parent.key for spec in runs if spec.parent is not None}
    parents = tuple(spec for spec in grid.with_parents() if spec.key in of_parents)
    if parents and (status := train_parents(replace(grid, runs=parents))):
        return status
    samples = Samples(storage, runs, space, early_stopping=asked.early_stopping)
    if not storage.locks.take([f"search {samples.key}"]):  # held until this process ends
        raise StorageError(f"--storage {storage.root}: another process is running the same search")
    if not samples.all and (own := space.own_values(runs[0])) is not None:
        samples.add(own)  # start with the grid's own values
    wanted = _wanted(samples, asked.samples)
    began = time.monotonic()
    ended = sum(not sample.missing for sample in samples.all)
    if ended:
        console.print(f"{runs[0].cell}: {ended} samples have ended already", highlight=False)
    stopping = Stopping(lambda line: console.print(line, highlight=False), limit=options.limit)
    with _Recording(tracker, samples) as recording:
        interrupted = False
        if ended < wanted:
            interrupted = _run(options, samples, wanted, recording, console, stopping)
        elif not study_file(samples).exists():  # the search of an earlier version
            write_study(samples)
    stopped = stopping.status if interrupted else None
    return _summary(options, console, samples, recording, stopped, time.monotonic() - began)


def _one_cell(grid: Grid) -> list[RunSpec]:
    """The grid's runs, sorted by seed. Raises GridError if they are not of one cell."""
    cells = {spec.cell_key: spec.cell for spec in grid.runs}
    if len(cells) != 1:
        names = list(cells.values())
        listed = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
        raise GridError(f"--search needs one cell, the grid has {listed}; choose one with --only method=... etc.")
    return sorted(grid.runs, key=lambda spec: spec.seed)


def _wanted(samples: Samples, asked: int) -> int:
    """How many samples the search needs. If the space has at most `asked` combinations, add each of them once."""
    every = samples.space.combinations
    if every is None or len(every) > asked:
        return asked
    known = [sample.values for sample in samples.all]
    for values in every:
        if values not in known:
            samples.add(values)
    return len(samples.all)


def _run(
    options: Options, samples: Samples, wanted: int, recording: _Recording, console: Console, stopping: Stopping
) -> bool:
    """Train samples until `wanted` have ended. Returns whether it was interrupted."""
    resources, runs = options.resources, samples.runs
    check_machine(resources, TRAINING)
    cluster.connect(resources.address)
    name = experiment_name()
    try:
        gpus = gpus_of(resources, TRAINING, [runs])(runs)

        def job(sample: Sample) -> Job:
            return Job(
                key=samples.name_of(sample),
                name=f"{runs[0].cell} sample {sample.number}",
                runs=tuple(samples.runs_of(sample)),
                storage=samples.storage.root,
                folder=samples.training_folder(sample),
                data_dir=options.data_dir,
                threads=resources.cpus,
                device="cuda" if gpus else "cpu",
                gpus=gpus,
                sweep=name,
            )

        def on_end(sample: Sample) -> None:
            recording.add(sample)
            _print_sample(console, samples, sample, wanted)

        halving = halving_of(samples)
        searcher = SampleSearcher(
            samples,
            job,
            was_stopped=lambda trial_id: isinstance(halving, Halving) and trial_id in halving.stopped,
            on_end=on_end,
            stopping=stopping,
        )
        tuner = ray.tune.Tuner(
            ray.tune.with_resources(train_sample, resources_of),
            tune_config=ray.tune.TuneConfig(
                search_alg=searcher,
                scheduler=halving,
                num_samples=wanted - sum(not sample.missing for sample in samples.all),
                # a sample that waits for resources would be chosen without the scores of those that run
                max_concurrent_trials=_slots(resources.cpus, gpus),
                reuse_actors=False,
            ),
            run_config=run_config(name, samples.storage, Watcher()),
        )
        with stopping_ray(stopping, samples.storage, name), suppress(KeyboardInterrupt):
            tuner.fit()
        shutil.rmtree(samples.storage.ray_folder / name, ignore_errors=True)
        return stopping.requested and sum(not sample.missing for sample in samples.all) < wanted
    finally:
        cluster.disconnect()


def _slots(cpus: int, gpus: float) -> int:
    """How many samples fit on the cluster now; at least one, because the cluster may grow."""
    available = ray.cluster_resources()
    room = [available.get(name, 0) / wanted for name, wanted in (("CPU", cpus), ("GPU", gpus)) if wanted]
    return max(1, int(min(room)))


# ---------------------------------------------------------------------- recording and printing
class _Recording:
    """Records samples in MLflow from a thread and, at the end, those that are not recorded yet."""

    def __init__(self, tracker: SearchTracker, samples: Samples) -> None:
        self.tracker = tracker
        self.samples = samples
        self.error = ""
        self._thread = ThreadPoolExecutor(1, "recording")

    def add(self, sample: Sample) -> None:
        self._thread.submit(self._record, sample)

    def _record(self, sample: Sample) -> None:
        try:
            self.tracker.record_sample(self.samples, sample)
        except Exception as error:  # the sample is safe on the storage
            log.warning("sample %d is not recorded yet: %s", sample.number, error)

    def __enter__(self) -> _Recording:
        return self

    def __exit__(self, *raised: object) -> None:
        self._thread.shutdown()
        try:
            self.tracker.record_search(self.samples)
        except Exception as error:
            self.error = first_line(error)


def _print_sample(console: Console, samples: Samples, sample: Sample, wanted: int) -> None:
    values = ", ".join(f"{name}={_short(value)}" for name, value in sample.values.items())
    last = f"validation ELBO {sample.curve[-1][1]:.1f} at epoch {sample.curve[-1][0]}" if sample.curve else ""
    text = {
        Status.DONE: f"validation IWAE {sample.val_iwae or 0:.2f}",
        Status.STOPPED: f"stopped early: {last}",
        Status.DIVERGED: f"diverged: {sample.reason}",
        Status.FAILED: f"FAILED: {sample.reason}",
    }.get(sample.outcome, "")
    star = " (best so far)" if samples.best is sample else ""
    ended = sum(not s.missing for s in samples.all)
    say(console, f"sample {sample.number} ({ended} of {wanted} ended): {values}: {text}{star}")


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _summary(
    options: Options,
    console: Console,
    samples: Samples,
    recording: _Recording,
    status: int | None,
    seconds: float,
) -> int:
    """Print how the search ended, and return the exit status: `status` if it was stopped."""
    tell = partial(say, console)
    for sample in samples.all:
        if sample.outcome is Status.FAILED:
            tell(f"failed: sample {sample.number}: {sample.reason}", "red")
    counts = {outcome: sum(s.outcome is outcome for s in samples.all) for outcome in Status}
    listed = ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count)
    tell(f"{samples.runs[0].cell}: {len(samples.all)} samples ({listed}), in {seconds:.0f} s")
    tell(f"Optuna's view of it: {shlex.join(['optuna-dashboard', str(study_file(samples))])}")
    best = samples.best
    if best is not None:
        tell(f"best validation IWAE: {best.val_iwae:.3f} nats, mean of {counted(len(samples.runs), 'seed')}, with")
        for name, value in best.values.items():
            tell(f"  {name} = {value!r}")
        tell("to run these rows of the grid with these values, at all of its seeds, in an experiment of their own:")
        print(command_line(options, best.values), flush=True)
    if recording.error:
        tell(f"not all samples are recorded: {recording.error}; the same command records them", "red")
    if status is not None:
        tell("interrupted; the same command resumes")
        return status
    return 1 if counts[Status.FAILED] or recording.error or best is None else 0


def command_line(options: Options, values: Mapping[str, Any]) -> str:
    """The command that runs the grid with these values, at the grid's own seeds instead of the search's.

    It repeats the other `--only` and `--set`, and each typed option that says what runs where. Its experiment is not
    the grid's, which may hold the same cells with the grid's settings.
    """
    words = [*options.program, "--grid", options.grid]
    for only in options.only:
        if not only.startswith("seed="):
            words += ["--only", only]
    searched = tuple(f"{name}=" for name in ("seed", *values))
    for text in options.overrides:
        if not text.startswith(searched):
            words += ["--set", text]
    for name, value in values.items():
        words += ["--set", f"{name}={json.dumps(value)}"]
    name = options.given.get("--experiment") or Path(options.grid).stem
    for option, text in {**options.given, "--experiment": f"{name}-searched"}.items():
        words += [option, text]
    return shlex.join(words)
