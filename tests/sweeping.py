"""Helpers of the tests that run sweeps: small grids, the real command, paused trainings, comparisons."""

from __future__ import annotations

import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import torch
import yaml
from mlflow import MlflowClient
from mlflow.entities import Metric, Run

from tests import ROOT, standing
from tests.databases import blank_database
from tune.run.ray_worker import STOP_EVERY_S, StopLock
from tune.store.storage import Storage

PATIENCE_S = 1800
"""Time limit of `wait_for`, s; long, because a machine may be busy."""

SMALL = {
    "dim": 3, "restarts": 1, "epochs": 2, "batch_size": 11, "iwae_samples": 4, "learning_rate": 0.001,
    "stage_learning_rate": 0.001, "kl_max": 5.0,
}  # fmt: skip


def write_grid(path: Path, rows: list[dict], **defaults) -> Path:
    """Write a grid named like its file."""
    path.write_text(yaml.safe_dump({"name": path.stem, "defaults": {**SMALL, **defaults}, "rows": rows}))
    return path


class Sweep:
    """`python tune/sweep.py` with its own folder, Ray and database."""

    def __init__(
        self, folder: Path, grid: Path, ray_folder: Path, root: Path = ROOT, prefix: tuple[str, ...] = (),
        database: bool = True, hold: Hold | None = None,
    ) -> None:  # fmt: skip
        """Set up a sweep.

        Args:
            folder: for storage, database and output.
            grid: the grid's file.
            ray_folder: for Ray's files; with a short path.
            root: the project's folder, or a copy's.
            prefix: a command that runs the sweep's command.
            database: whether to create the database; otherwise the sweep does.
            hold: pauses its trainings.
        """
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.tracking = blank_database(folder / "mlflow.db") if database else f"sqlite:///{folder / 'mlflow.db'}"
        self.storage = folder / "storage"
        self.experiment = grid.stem
        self.command = [
            *prefix, sys.executable, str(root / "tune" / "sweep.py"), "--grid", str(grid),
            "--storage", str(self.storage), "--tracking-uri", self.tracking,
        ]  # fmt: skip
        self.environment = {
            **os.environ,
            "RAY_TMPDIR": str(ray_folder),
            "XDG_CACHE_HOME": str(folder / "cache"),
            "PYTHONPATH": os.pathsep.join(dict.fromkeys((str(root), str(ROOT)))),
            "RAY_worker_niceness": "0",  # with Ray's default priority, workers hardly run on a busy machine
            **(hold.environment if hold else {}),
        }

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.command, *arguments], cwd=self.folder, env=self.environment, capture_output=True, text=True
        )

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """As `run`, in this process, which is faster; for commands that train nothing."""
        from tune import sweep

        stdout, stderr = io.StringIO(), io.StringIO()
        command = [*self.command[self.command.index("--grid") :], *arguments]
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(stdout), redirect_stderr(stderr):
            patch.chdir(self.folder)
            for name in ("XDG_CACHE_HOME", "RAY_TMPDIR"):
                patch.setenv(name, self.environment[name])
            status = sweep.main(command)
        return subprocess.CompletedProcess(command, status, stdout.getvalue(), stderr.getvalue())

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        with open(self.folder / "output.txt", "ab") as output:
            return subprocess.Popen(
                [*self.command, *arguments], cwd=self.folder, env=self.environment, stdout=output, stderr=output
            )

    def runs(self, children: bool = True) -> list[Run]:
        """The MLflow runs, children or parents."""
        client = MlflowClient(tracking_uri=self.tracking)
        experiment = client.get_experiment_by_name(self.experiment)
        assert experiment is not None
        found = client.search_runs([experiment.experiment_id], max_results=1000)
        return [run for run in found if ("run_key" in run.data.tags) == children]

    def history(self, run: Run, metric: str) -> list[Metric]:
        return MlflowClient(tracking_uri=self.tracking).get_metric_history(run.info.run_id, metric)

    def scores(self) -> dict[str, dict[str, float]]:
        """By run name, all metrics but times: those that must not depend on interruptions."""
        return {
            run.info.run_name: {k: v for k, v in run.data.metrics.items() if not k.startswith("time/")}
            for run in self.runs()
        }

    def test_scores(self) -> dict[str, torch.Tensor]:
        """The test images' scores on the storage, by run key."""
        from rme.result import Result

        return {folder.name: Result.load(folder).test_iwae for folder in (self.storage / "runs").iterdir()}


def copy_of_the_project(folder: Path) -> Path:
    """A copy of the code, for tests that add a method."""
    for room in ("rme", "tune", "analysis"):
        shutil.copytree(ROOT / room, folder / room, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@contextmanager
def short_folder() -> Iterator[Path]:
    """A folder with a short path: Ray's sockets must fit into 107 characters."""
    folder = Path(tempfile.mkdtemp(prefix="rme", dir="/tmp"))
    try:
        yield folder
    finally:
        end_processes_of(folder)
        shutil.rmtree(folder, ignore_errors=True)


def processes_of(folder: Path) -> list[int]:
    """Ids of the processes whose command line names the folder, such as a killed driver's Ray."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if str(folder).encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return [pid for pid in found if pid != os.getpid()]


def end_processes_of(folder: Path, patience_s: float = 20) -> None:
    """Wait for a folder's processes to end by themselves, then kill those that remain."""
    deadline = time.monotonic() + patience_s
    while processes_of(folder) and time.monotonic() < deadline:
        time.sleep(0.5)
    for pid in processes_of(folder):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def assert_same(sweep: Sweep, reference: Sweep, part: int | None = None) -> None:
    """Each run is recorded once and finished, with the reference's numbers, bit for bit.

    `part`: how many of the reference's runs the sweep has; None: all.
    """
    runs = sweep.runs()
    assert len({run.data.tags["run_key"] for run in runs}) == len(runs) == (part or len(reference.runs()))
    assert {run.info.status for run in runs + sweep.runs(children=False)} == {"FINISHED"}
    scores, expected = sweep.scores(), reference.scores()
    ours, theirs = sweep.test_scores(), reference.test_scores()
    if part is not None:
        expected = {name: expected[name] for name in scores}
        theirs = {key: theirs[key] for key in ours}
    assert scores == expected
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    # no curve has two points at one epoch, even if a killed driver had recorded part of it
    for run in runs:
        client_history = sweep.history(run, "train/val_elbo")
        assert [m.step for m in client_history] == sorted({m.step for m in client_history})


def checkpoints(sweep: Sweep) -> list[Path]:
    return list(sweep.storage.glob("trials/*/epoch-*.safetensors"))


class Hold:
    """Pauses the trainings of a sweep for as long as a test needs, however fast the machine is.

    With the variables of `environment` set, each training pauses once, after a number of epochs in its process. It
    keeps its worker and its locks; its first epoch has left a checkpoint. When the block ends, all continue.

    Args:
        folder: through which the test and the trainings communicate.
        there: the folder's path on the trainings' machines, if different.
    """

    def __init__(self, folder: Path, there: Path | None = None) -> None:
        self.folder = folder
        self.environment = standing.environment(there or folder)
        folder.mkdir()

    def __enter__(self) -> Hold:
        return self

    def __exit__(self, *_: object) -> None:
        self.lift()

    @property
    def trainings(self) -> list[str]:
        """A run's key for each time that its training was started or resumed."""
        return (self.folder / standing.TRAININGS).read_text().split()

    def after(self, epochs: int) -> None:
        """Let trainings pause after so many epochs from now on; paused ones stay paused."""
        new = self.folder / "new"
        new.write_text(str(epochs))
        new.replace(self.folder / "limit")

    def lift(self) -> None:
        """Let all trainings continue, and pause no more."""
        (self.folder / "limit").unlink(missing_ok=True)

    def standing(self, host: str | None = None) -> list[int]:
        """Ids of the processes with a paused training; on another machine including processes that died meanwhile."""
        signs = [path.name.split() for path in self.folder.iterdir() if " " in path.name]
        here = [int(pid) for where, pid, _ in signs if where == (host or socket.gethostname())]
        return here if host else [pid for pid in here if cmdline(pid)]

    def let_go(self) -> None:
        """Let one paused training of this machine continue."""
        here = self.standing()
        next(path for path in self.folder.iterdir() if " " in path.name and int(path.name.split()[1]) in here).unlink()


def stop_in_mid_training(
    sweep: Sweep, hold: Hold, signum: int, ray_folder: Path, *, to_all: bool = False, epochs: int = 1
) -> int:
    """Send the driver a signal once a training has paused, and wait for its Ray to end. Returns its exit status.

    Args:
        sweep: to start.
        hold: its trainings'.
        signum: the signal.
        ray_folder: of its Ray.
        to_all: whether to send it to all processes that the driver has started, too.
        epochs: after how many the trainings pause.
    """
    hold.after(epochs)
    driver = sweep.start()
    wait_for(hold.standing, driver)
    for pid in [driver.pid, *(descendants(driver.pid) if to_all else [])]:
        os.kill(pid, signum)
    if signum != signal.SIGKILL:
        wait_for(lambda: is_stopping(sweep), driver)
        time.sleep(STOP_EVERY_S)  # then a training asks at its next epoch
        hold.lift()
    status = driver.wait(timeout=PATIENCE_S)
    wait_for(lambda: not processes_of(ray_folder))
    hold.lift()
    assert checkpoints(sweep), "the sweep ended before it was stopped"
    return status


def is_stopping(sweep: Sweep) -> bool:
    """Whether the driver has told its workers to stop."""
    locks = Storage(sweep.storage).locks
    return any(StopLock(locks, folder.name).is_held() for folder in (sweep.storage / "ray").iterdir())


def wait_for(condition, driver=None, patience_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, f"waited for {patience_s:g} s in vain"
        assert driver is None or driver.poll() is None, "the sweep ended while a test waited for it"
        time.sleep(0.02)


def cmdline(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def descendants(pid: int) -> list[int]:
    """Ids of a process's children, their children, and so on."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found, front = [], [pid]
    while front:
        front = [child for child, parent in parents.items() if parent in front]
        found += front
    return found


def timed(sweep: Sweep) -> tuple[Sweep, float, float]:
    """Run the sweep; returns it, the seconds to its first checkpoint, and the seconds from there to its end."""
    began = time.monotonic()
    driver = sweep.start()
    wait_for(lambda: checkpoints(sweep), driver)
    first = time.monotonic()
    assert driver.wait(timeout=PATIENCE_S) == 0, output(sweep)
    return sweep, first - began, time.monotonic() - first


def output(sweep: Sweep) -> str:
    """What all `start`s of this sweep have printed."""
    return (sweep.folder / "output.txt").read_text()


def finish(sweep: Sweep, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command again, to the end; fails if its status is not 0."""
    done = sweep.run(*arguments)
    assert done.returncode == 0, done.stderr
    return done
