"""Measures a sweep's overhead, which is all but training: `python -m bench.sweep_overhead --trials 1000`.

The trials train nothing and report five times, but use all parts of a real sweep: schedule, searcher, Ray workers,
reports, results on the storage, recorder, MLflow in sqlite. Measured per trial:

    driver CPU      ms of the driver process with all its threads, from before Ray starts until all runs are recorded
    driver memory   growth in KB of the driver's resident set, from the end of the first trial, when Ray is loaded, to
                    its peak; the size before is printed, too
    writer CPU      ms of the process that writes to MLflow, including its start; its peak resident set is printed, too,
                    most of which are libraries that it shares with the driver
    files           number of files in the storage and MLflow's artifacts at the end, plus the database

A trial has `--runs-per-trial` runs. Each writes a real result file, with an untrained VAE and the scores of 360 test
images. Ray's log files, in its temporary folder, are not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from rme import data
from rme.config import RunSpec
from rme.engine import member_parameters
from rme.result import Result
from rme.untrained import untrained
from tune.plan.kinds import TRAINING
from tune.plan.trials import Trial, trials
from tune.record.recorder import Recorder
from tune.record.tracking import Tracker
from tune.record.writer import Writer
from tune.record.writer_process import WriterProcess
from tune.run.dispatcher import Dispatcher
from tune.run.display import Display
from tune.run.options import Resources
from tune.run.other_sweeps import OtherSweeps
from tune.run.protocol import Job, Outcome
from tune.run.ray_worker import carry_out_in_ray
from tune.run.schedule import Schedule, State
from tune.run.stopping import Stopping
from tune.run.trials import run_trials
from tune.run.worker import Link
from tune.store.failure import Failure
from tune.store.storage import Storage

TARGETS = {"driver_cpu_ms": 30.0, "driver_rss_kb": 60.0, "files": 6.0}
"""Upper limits per trial on 2 cores; the command's status is 1 if one is exceeded."""

REPORTS = 5
EPOCHS = 5
SEEDS = 10
TEST_IMAGES = 360


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.sweep_overhead", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=1000, metavar="N", help="number of trials (default: 1000)")
    parser.add_argument("--runs-per-trial", type=int, default=1, metavar="N", help="runs per trial (default: 1)")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where to work (default: a temporary folder)")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="also write the figures to this file")
    parser.add_argument("--profile", type=Path, metavar="FILE", help="write cProfile's statistics to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="overhead", dir="/tmp") as temporary:
        folder = options.folder or Path(temporary)
        figures = measure(options.trials, options.runs_per_trial, folder, options.profile)
    print(json.dumps(figures, indent=1))
    if options.out:
        options.out.write_text(json.dumps(figures, indent=1) + "\n")
    return 0 if all(figures[name] <= most for name, most in TARGETS.items()) else 1


def measure(count: int, runs_per_trial: int, folder: Path, profile: Path | None = None) -> dict[str, Any]:
    """The figures of a sweep of `count` trials; most are per trial."""
    folder.mkdir(parents=True, exist_ok=True)
    storage = Storage(folder / "storage")
    storage.check_writable()
    tracker = Tracker(f"sqlite:///{folder / 'mlflow.db'}", "overhead")
    runs = [
        RunSpec(method="vae", dataset="digits", dim=1 + cell, seed=seed, epochs=EPOCHS, restarts=1)
        for cell in range(-(-count * runs_per_trial // SEEDS))
        for seed in range(SEEDS)
    ]
    wanted = trials(runs[: count * runs_per_trial], runs_per_trial)
    began, cpu, own = time.monotonic(), time.process_time(), time.thread_time()
    first: list[float] = []  # the resident set in KB at the end of the first trial
    schedule = Schedule.of(wanted)
    display = Display(schedule, 0)
    writer = Writer(tracker.uri, tracker.experiment, "", storage)
    with _Peak() as peak, Recorder(writer, display.recorded) as recorder, _profiled(profile):
        peak.writer = recorder.writer

        def on_end(trial: Trial, failures: dict[str, Failure]) -> None:
            display.ended(trial)
            if not first:
                first.append(resident_kb())
            for spec in trial.runs:
                recorder.result(spec)

        dispatcher = Dispatcher(OtherSweeps(schedule, storage, display.left_to_another, on_end))
        run_trials(dispatcher, Resources(gpus=0.0), folder, display, Stopping(print), TRAINING, trainable=train_nothing)
    wall, cpu, own = time.monotonic() - began, time.process_time() - cpu, time.thread_time() - own
    (before,) = first
    recorded = len(tracker.recorded())
    assert recorded == len(schedule.entries) * runs_per_trial == schedule.count(State.DONE), "not all runs are recorded"
    files = [path for part in ("storage", "mlartifacts") for path in (folder / part).rglob("*") if path.is_file()]
    return {
        "trials": len(wanted),
        "runs_per_trial": runs_per_trial,
        "reports_per_trial": REPORTS,
        "driver_cpu_ms": round(1e3 * cpu / len(wanted), 2),
        "of_it_ray_loop_ms": round(1e3 * own / len(wanted), 2),
        "driver_rss_kb": round((peak.kb - before) / len(wanted), 1),
        "driver_rss_end_kb": round((resident_kb() - before) / len(wanted), 1),
        "files": round((len(files) + 1) / len(wanted), 2),
        "wall_s": round(wall, 1),
        "wall_ms": round(1e3 * wall / len(wanted), 1),
        "mlflow_db_kb": round((folder / "mlflow.db").stat().st_size / 1024 / len(wanted), 1),
        "driver_rss_before_mb": round(before / 1024),
        "driver_rss_peak_mb": round(peak.kb / 1024),
        "writer_cpu_ms": round(1e3 * peak.writer_cpu_s / len(wanted), 2),
        "writer_rss_peak_mb": round(peak.writer_kb / 1024),
        "cores": len(os.sched_getaffinity(0)),
        "load": [round(value, 1) for value in os.getloadavg()],
        "targets": TARGETS,
    }


def train_nothing(config: dict[str, Any]) -> None:
    """A worker that takes locks and reports as a real one does, and writes results with made-up numbers."""
    carry_out_in_ray(config, _nothing)


def _nothing(job: Job, storage: Storage, link: Link) -> Outcome:
    last = Outcome(REPORTS, EPOCHS, len(job.runs), seconds=0.1, val_elbo=1.0)
    for epoch in range(1, REPORTS):
        link.report(replace(last, epoch=epoch))
    for spec in job.runs:
        made_up(spec).save(storage.run_folder(spec.key))
    return replace(last, ended=dict.fromkeys(spec.key for spec in job.runs))


def made_up(spec: RunSpec) -> Result:
    """A result with the right shapes and made-up numbers."""
    scores = torch.full((1,), 600.0 + spec.seed, dtype=torch.float64)
    shape = data.get(spec.dataset).shape
    images = torch.zeros(16, *shape, dtype=torch.uint8)
    return Result(
        spec=spec,
        chosen=0,
        models=[member_parameters(untrained([spec], shape), 0)],
        val_iwae=scores,
        val_elbo=scores - 10,
        kept_epochs=torch.full((1,), EPOCHS),
        test_iwae=torch.full((TEST_IMAGES,), 600.0, dtype=torch.float64),
        test_elbo=torch.full((TEST_IMAGES,), 590.0, dtype=torch.float64),
        inference_ms=1.0,
        train_s=1.0,
        updates=["vae"],
        losses=torch.zeros(EPOCHS, 1, 1, dtype=torch.float64),
        history_elbo=torch.zeros(EPOCHS, 1, dtype=torch.float64),
        diagnostics={},
        finished_at=torch.arange(EPOCHS, dtype=torch.float64) + time.time(),
        reconstructions=torch.stack([images, images]),
        samples=images,
        test_images=torch.zeros(64, *shape, dtype=torch.uint8),
        environment={"device": "none", "torch": torch.__version__, "members": "1"},
    )


def resident_kb(pid: int | str = "self") -> float:
    """A process's resident set in KB; 0 if the process does not exist."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize() / 1024
    except OSError:
        if pid != "self" or sys.platform == "linux":
            return 0.0
        # not Linux: the peak so far
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "darwin" else 1)


def cpu_s(pid: int) -> float:
    """CPU time in s that a process has used, in all threads; 0 if the process does not exist."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class _Peak:
    """Samples peak resident sets of driver and writer, and the writer's CPU time, ten times a second in the block."""

    def __init__(self) -> None:
        self.kb = resident_kb()
        self.writer: WriterProcess | None = None
        self.writer_kb = 0.0
        self.writer_cpu_s = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> _Peak:
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._over.wait(0.1):
            self.kb = max(self.kb, resident_kb())
            pid = self.writer.pid if self.writer is not None else None
            if pid is not None:
                self.writer_kb = max(self.writer_kb, resident_kb(pid))
                self.writer_cpu_s = max(self.writer_cpu_s, cpu_s(pid))

    def __exit__(self, *raised: object) -> None:
        self._over.set()
        self._thread.join()


class _profiled:
    def __init__(self, path: Path | None) -> None:
        self.path = path

    def __enter__(self) -> None:
        if self.path is not None:
            import cProfile

            self.profile = cProfile.Profile()
            self.profile.enable()

    def __exit__(self, *raised: object) -> None:
        if self.path is not None:
            self.profile.disable()
            self.profile.dump_stats(self.path)


if __name__ == "__main__":
    sys.exit(main())
