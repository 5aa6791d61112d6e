"""Hyperparameter search for one cell: Ray Tune's OptunaSearch (TPE) with ASHA, on validation scores alone.

A sample is judged by its validation IWAE, the mean over the runs that the grid leaves; while it trains, ASHA stops it
when its validation ELBO is not among the better third of what others had at the same epoch. What is known of the
samples lies on the storage; Optuna's study and ASHA's rungs are filled from it anew by each command.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import shlex
import shutil
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tune import cluster  # sets Ray's environment, so it comes before Ray

os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")  # only a sample's last report has its score

import optuna
import ray
import ray.tune
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search.optuna import OptunaSearch
from rich.console import Console

from rme import data
from rme.config import RunSpec
from tune import space as spaces
from tune.grid import Grid, GridError, Trial
from tune.sample_trainable import ERROR_FILE, sample_job, train_sample
from tune.samples import Outcome, Sample, Samples
from tune.search_tracking import SearchTracker
from tune.storage import Storage, StorageError

log = logging.getLogger(__name__)

REDUCTION = 3
"""ASHA lets about one in so many go on at each of its rungs, which lie at 1/9 and 1/3 of the training."""

_STUDY = "search"


def search(
    options: argparse.Namespace, grid: Grid, storage: Storage, console: Console, train_parents: Callable[[Grid], int]
) -> int:
    """Carry out `--search`. `train_parents` sweeps a grid; returns the exit status, as the sweep's.

    Raises GridError (SpaceError), StorageError, DataError, TrackingError or ClusterError before anything starts.
    """
    runs = _one_cell(grid)
    space = spaces.load(options.space, runs[0])
    storage.check_writable()
    data.get(runs[0].dataset).prepare(options.data_dir)
    tracker = SearchTracker(options.tracking_uri, f"{grid.name}-search")
    parents = {spec.parent.key: spec.parent for spec in runs if spec.parent is not None}
    if parents and (status := train_parents(Grid(grid.name, grid.description, tuple(parents.values()), ()))):
        return status
    samples = Samples(storage, runs, space)
    if not storage.locks.take([f"search {samples.key}"]):  # held until this process ends
        raise StorageError(f"--storage {storage.root}: another process is making this very search there")
    if not samples.all and (own := space.own_values(runs[0])) is not None:
        samples.add(own)  # what the grid says now is the first to beat
    wanted = _wanted(samples, options.samples)
    began = time.monotonic()
    ended = sum(not sample.missing for sample in samples.all)
    if ended:
        console.print(f"{runs[0].cell}: {ended} samples are there already", highlight=False)
    with _Recording(tracker, samples) as recording:
        interrupted = False
        if ended < wanted:
            interrupted = _run(options, samples, wanted, recording, console)
    return _farewell(options, console, samples, recording, interrupted, time.monotonic() - began)


def _one_cell(grid: Grid) -> list[RunSpec]:
    """The grid's runs by seed, which must be of one cell."""
    cells = {spec.cell_key: spec.cell for spec in grid.runs}
    if len(cells) != 1:
        names = list(cells.values())
        listed = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
        raise GridError(f"--search is for one cell, and these are left: {listed}; keep one with --only method=... etc.")
    return sorted(grid.runs, key=lambda spec: spec.seed)


def _wanted(samples: Samples, asked: int) -> int:
    """How many samples there are to be; of choices that are no more than that, each is tried once, and none twice."""
    every = samples.space.combinations
    if every is None or len(every) > asked:
        return asked
    known = [sample.values for sample in samples.all]
    for values in every:
        if values not in known:
            samples.add(values)
    return len(samples.all)


def _run(options: argparse.Namespace, samples: Samples, wanted: int, recording: _Recording, console: Console) -> bool:
    """Train the samples that are missing of those wanted. Returns whether it was interrupted."""
    cluster.check_resources(options, "training")
    cluster.connect(options.address)
    try:
        array = Trial(tuple(samples.runs))
        gpus = cluster.gpus(options, "training", [array])(array)
        resources = {"cpu": float(options.cpus_per_trial), "gpu": gpus}
        device = "cuda" if resources["gpu"] else "cpu"
        halving = _halving(samples)

        def on_end(sample: Sample) -> None:
            recording.add(sample)
            _tell(console, samples, sample, wanted)

        searcher = SampleSearcher(
            samples,
            job=lambda sample: sample_job(samples, sample, options.data_dir, options.cpus_per_trial, device),
            was_stopped=lambda trial_id: isinstance(halving, Halving) and trial_id in halving.stopped,
            on_end=on_end,
        )
        ended = sum(not sample.missing for sample in samples.all)
        name = time.strftime("%Y%m%d-%H%M%S") + f"-{os.getpid()}"
        tuner = ray.tune.Tuner(
            ray.tune.with_resources(train_sample, resources),
            tune_config=ray.tune.TuneConfig(
                search_alg=searcher,
                scheduler=halving,
                num_samples=wanted - ended,
                # a sample that only waits for a slot was chosen without what its betters learn
                max_concurrent_trials=_slots(resources),
                reuse_actors=False,
            ),
            run_config=ray.tune.RunConfig(
                name=name,
                storage_path=str(samples.storage.ray_folder),
                failure_config=ray.tune.FailureConfig(max_failures=cluster.MAX_FAILURES),
                verbose=0,
            ),
        )
        interrupted = False
        try:
            tuner.fit()
        except KeyboardInterrupt:
            interrupted = True
        shutil.rmtree(samples.storage.ray_folder / name, ignore_errors=True)
        return interrupted or searcher.open > 0
    finally:
        cluster.disconnect()


def _slots(resources: Mapping[str, float]) -> int:
    """How many samples the cluster has room for now; one at least, for which it may grow."""
    there = ray.cluster_resources()
    room = [there.get(name.upper(), 0) / wanted for name, wanted in resources.items() if wanted]
    return max(1, int(min(room)))


# ---------------------------------------------------------------------- Optuna's side
class NumberedTPE(BaseSampler):
    """TPE with a random stream for each sample, fixed by its number.

    With one stream for a study, a driver that goes on would begin it anew, and draw the first samples again.
    """

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        self._tpe = TPESampler(seed=trial.number)
        return self._tpe.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> Any:
        return self._tpe.sample_relative(study, trial, search_space)

    def sample_independent(self, study: optuna.Study, trial: FrozenTrial, name: str, distribution: Any) -> Any:
        return self._tpe.sample_independent(study, trial, name, distribution)


class SampleSearcher(OptunaSearch):
    """Ray's OptunaSearch over the samples of a storage: it knows those that ended, and asks first for those missing.

    Args:
        samples: of one search.
        job: a sample's configuration for its worker.
        was_stopped: whether the scheduler ended this Ray trial early.
        on_end: called with each sample that ended.
    """

    def __init__(
        self,
        samples: Samples,
        job: Callable[[Sample], dict[str, Any]],
        was_stopped: Callable[[str], bool],
        on_end: Callable[[Sample], object],
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        # in memory: what is kept is the samples, and a database on a shared folder would not be safe
        storage = optuna.storages.InMemoryStorage()
        study = optuna.create_study(storage=storage, study_name=_STUDY, direction="maximize")
        for sample in samples.all:  # in their order: TPE weighs newer ones more
            if sample.missing:
                study.enqueue_trial(sample.values)
            else:
                study.add_trial(_frozen(sample, samples.space.fields))
        super().__init__(
            space=dict(samples.space.fields), metric="val_iwae", mode="max", sampler=NumberedTPE(), storage=storage,
            study_name=_STUDY,
        )  # fmt: skip
        self.samples = samples
        self.job = job
        self.was_stopped = was_stopped
        self.on_end = on_end
        self._waiting = [sample for sample in samples.all if sample.missing]
        self._running: dict[str, Sample] = {}

    @property
    def open(self) -> int:
        """Samples that are neither ended nor failed."""
        return sum(sample.outcome is Outcome.OPEN for sample in self.samples.all)

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        values = dict(super().suggest(trial_id) or {})
        sample = self._waiting.pop(0) if self._waiting else self.samples.add(values)
        assert sample.values == values, f"sample {sample.number} was to be {sample.values}, Optuna asks for {values}"
        sample.curve.clear()  # its worker reports it from the beginning
        sample.outcome, sample.reason = Outcome.OPEN, ""
        self._running[trial_id] = sample
        return self.job(sample)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        if "val_elbo" not in result:
            return
        sample = self._running[trial_id]
        epoch = int(result["epoch"])
        if not sample.curve or epoch > sample.curve[-1][0]:  # a worker that was started again repeats its curve
            sample.curve.append((epoch, float(result["val_elbo"])))
            super().on_trial_result(trial_id, {self.metric: result["val_elbo"], "training_iteration": epoch})

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        result = result or {}
        self.on_trial_result(trial_id, result)  # Ray shows a searcher the result at which a trial was stopped only here
        sample = self._running.pop(trial_id)
        sample.ended_at = time.time()
        if error:
            sample.outcome, sample.reason = Outcome.FAILED, _why(self.samples.training_folder(sample))
        elif "diverged" in result:
            # told as the worst there is: as failed, Optuna would learn nothing from it and try the like again
            sample.outcome, sample.reason = Outcome.DIVERGED, result["diverged"]
            result = {self.metric: -math.inf}
        elif self.metric in result:
            sample.outcome, sample.val_iwae = Outcome.DONE, float(result[self.metric])
            sample.val_iwae_by_seed = {
                str(spec.seed): score for spec, score in zip(self.samples.runs, result["val_iwae_by_seed"], strict=True)
            }
            sample.train_s = float(result["seconds"])
        elif self.was_stopped(trial_id):
            sample.outcome = Outcome.STOPPED
        else:
            return  # ended with the driver: it is missing still
        super().on_trial_complete(trial_id, None if error else result, error)
        self.samples.note(sample)
        self.on_end(sample)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: a search goes on from its samples, never from Ray's state."""

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("give the search's command again")

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray writes a pickle of its Tuner beside each experiment


def _frozen(sample: Sample, fields: Mapping[str, BaseDistribution]) -> FrozenTrial:
    """A sample that ended, as it was told to Optuna then."""
    value = {Outcome.DONE: sample.val_iwae, Outcome.DIVERGED: -math.inf}.get(sample.outcome)
    return optuna.trial.create_trial(
        state=TrialState.PRUNED if sample.outcome is Outcome.STOPPED else TrialState.COMPLETE,
        value=value,
        params=sample.values,
        distributions=dict(fields),
        intermediate_values=dict(sample.curve),
    )


# ---------------------------------------------------------------------- ASHA's side
class Halving(AsyncHyperBandScheduler):
    """ASHA on the validation ELBO by epoch, which remembers whom it stopped."""

    def __init__(self, epochs: int) -> None:
        # no rung at the end: a training that got there is scored
        super().__init__(
            time_attr="epoch", metric="val_elbo", mode="max", max_t=epochs - 1, grace_period=math.ceil(epochs / 9),
            reduction_factor=REDUCTION, stop_last_trials=False,
        )  # fmt: skip
        self.stopped: set[str] = set()

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        action = super().on_trial_result(tune_controller, trial, result)
        if action == TrialScheduler.STOP:
            self.stopped.add(trial.trial_id)
        return action


def _halving(samples: Samples) -> TrialScheduler:
    """ASHA with what is known of the samples that ended; nothing is stopped where trainings are too short for it."""
    longest = max(_longest(samples), 1)
    if longest < 3:
        return FIFOScheduler()
    halving = Halving(longest)
    nobody: Any = None  # ASHA asks the controller for nothing
    for sample in samples.all:
        if not sample.missing:
            stub: Any = SimpleNamespace(trial_id=f"sample {sample.number}")
            halving.on_trial_add(nobody, stub)
            for epoch, elbo in sample.curve:
                halving.on_trial_result(nobody, stub, {"epoch": epoch, "val_elbo": elbo})
            halving.on_trial_remove(nobody, stub)
    return halving


def _longest(samples: Samples) -> int:
    """The epochs of the longest training that the space allows."""
    run = samples.runs[0]
    values = {}
    for name in ("epochs", "stage_epochs"):
        if (distribution := samples.space.fields.get(name)) is not None:
            values[name] = max(spaces._ends(distribution))
    return samples.space.apply(run, values).training_epochs


def _why(folder: Path) -> str:
    """The last line of what the worker left, or that it left nothing."""
    with suppress(OSError, IndexError):
        return f"{(folder / ERROR_FILE).read_text().strip().splitlines()[-1]} (see {folder / ERROR_FILE})"
    return f"its worker died {cluster.MAX_FAILURES + 1} times without a word: killed, or out of memory"


# ---------------------------------------------------------------------- what is recorded and said
class _Recording:
    """Records samples in MLflow from a thread; at the end, whatever is not recorded yet."""

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
        except Exception as error:  # whatever MLflow's stores raise, the sample is safe on the storage
            log.warning("sample %d is not recorded yet: %s", sample.number, error)

    def __enter__(self) -> _Recording:
        return self

    def __exit__(self, *raised: object) -> None:
        self._thread.shutdown()
        try:
            self.tracker.record_search(self.samples)
        except Exception as error:
            self.error = str(error).strip().splitlines()[0]


def _tell(console: Console, samples: Samples, sample: Sample, wanted: int) -> None:
    values = ", ".join(f"{name}={_short(value)}" for name, value in sample.values.items())
    last = f"validation ELBO {sample.curve[-1][1]:.1f} at epoch {sample.curve[-1][0]}" if sample.curve else ""
    text = {
        Outcome.DONE: f"validation IWAE {sample.val_iwae or 0:.2f}",
        Outcome.STOPPED: f"stopped early: {last}",
        Outcome.DIVERGED: f"diverged: {sample.reason}",
        Outcome.FAILED: f"FAILED: {sample.reason}",
    }.get(sample.outcome, "")
    star = " (best so far)" if samples.best is sample else ""
    ended = sum(not s.missing for s in samples.all)
    line = f"sample {sample.number} ({ended} of {wanted} ended): {values}: {text}{star}"
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _farewell(
    options: argparse.Namespace,
    console: Console,
    samples: Samples,
    recording: _Recording,
    interrupted: bool,
    seconds: float,
) -> int:
    def say(text: str, style: str | None = None) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True, style=style)

    for sample in samples.all:
        if sample.outcome is Outcome.FAILED:
            say(f"failed: sample {sample.number}: {sample.reason}", "red")
    counts = {outcome: sum(s.outcome is outcome for s in samples.all) for outcome in Outcome}
    listed = ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count)
    say(f"{samples.runs[0].cell}: {len(samples.all)} samples ({listed}), in {seconds:.0f} s")
    best = samples.best
    if best is not None:
        seeds = len(samples.runs)
        say(f"best validation IWAE: {best.val_iwae:.3f} nats, mean of {seeds} seed{'s' if seeds > 1 else ''}, with")
        for name, value in best.values.items():
            say(f"  {name} = {value!r}")
        say("to run the grid with it (leave out --only to run all of it):")
        print(command_line(options, best.values), flush=True)
    if recording.error:
        say(f"not all is recorded: {recording.error}; the same command records it", "red")
    if interrupted:
        say("stopped; the same command goes on where this one was")
        return 130
    return 1 if counts[Outcome.FAILED] or recording.error or best is None else 0


def command_line(options: argparse.Namespace, values: Mapping[str, Any]) -> str:
    """The command that runs the grid with these values, all seeds of it."""
    words = ["python", "tune/sweep.py", "--grid", options.grid]
    for only in options.only:
        if not only.startswith("seed="):
            words += ["--only", only]
    searched = tuple(f"{name}=" for name in values)
    for text in options.set:
        if not text.startswith(searched):
            words += ["--set", text]
    for name, value in values.items():
        words += ["--set", f"{name}={json.dumps(value)}"]
    plain = {
        "--dataset": options.dataset, "--data-dir": options.data_dir, "--storage": options.storage,
        "--tracking-uri": options.tracking_uri, "--address": options.address,
    }  # fmt: skip
    defaults = {"--data-dir": "data", "--storage": "storage", "--tracking-uri": "sqlite:///mlflow.db"}
    for option, given in plain.items():
        if given is not None and str(given) != defaults.get(option):
            words += [option, str(given)]
    return shlex.join(words)
