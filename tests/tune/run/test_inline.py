"""A sweep in its own process, without Ray and MLflow: it stops, resumes and fails as one through Ray does."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch

from rme import hooks, nets
from rme.engine import Engine
from rme.result import MARKER, Result
from tests.sweeping import write_grid
from tests.tiny import write_npz
from tests.tune.store.test_locks import Owner
from tune import sweep
from tune.run import inline, stopping
from tune.store.storage import Storage

ROWS = [{"method": "vae"}, {"method": "rme", "order": 2}]


class Command:
    """The command in this process; `status` and `text` of the last call.

    Args:
        folder: where it runs, with the data set and the grid.
        monkeypatch: pytest's.
        capsys: pytest's.
    """

    def __init__(self, folder: Path, monkeypatch, capsys) -> None:
        monkeypatch.chdir(folder)
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder))  # FLOPs of the networks below are of no use to others
        self.monkeypatch, self.capsys = monkeypatch, capsys
        tables = nets.convolutions
        # few channels, which train several times as fast
        monkeypatch.setattr(nets, "convolutions", lambda shape: (tables(shape)[0], [2] * len(tables(shape)[1]), 8))
        dataset = write_npz(folder / "spots.npz")
        self.grid = write_grid(
            folder / "spots.yaml", ROWS, dataset=str(dataset), seed="0-1", epochs=4, stage_epochs=6, finish_epochs=0
        )

    def __call__(self, *arguments: str, storage: str = "storage", on_epoch=None) -> int:
        """Run it with a function that is called after each epoch."""
        self.monkeypatch.setattr(hooks, "on_epoch", lambda: on_epoch)
        self.storage = Storage(storage)
        self.status = sweep.main(["--grid", str(self.grid), "--inline", "--storage", storage, *arguments])
        self.text = self.capsys.readouterr().err
        return self.status

    def scores(self) -> dict[str, torch.Tensor]:
        folders = (self.storage.root / "runs").glob(f"*/{MARKER}")
        return {path.parent.name: Result.load(path.parent).test_iwae for path in folders}


@pytest.fixture
def command(tmp_path, monkeypatch, capsys) -> Command:
    return Command(tmp_path, monkeypatch, capsys)


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in theirs)


def at(epoch: int, method: str, act):
    """A function called after each epoch that acts once, after this epoch of this method's training."""
    done = []

    def on_epoch(engine: Engine) -> None:
        if engine.epoch == epoch and engine.spec.method == method and not done:
            done.append(True)
            act(engine)

    return on_epoch


def test_all_runs_are_trained_once(command):
    assert command() == 0, command.text
    assert "4 of 4 runs are done" in command.text
    # before training: two seeds, and a stage without its control
    assert "warning: all rows: too few seeds: 2 seeds" in command.text
    assert command.text.index("warning: RME(2): no control") < command.text.index("started")
    assert len(command.scores()) == 4 and not list(command.storage.root.glob("trials/*"))
    assert command(on_epoch=lambda engine: pytest.fail("trained again")) == 0
    assert "4 runs are done already" in command.text and "started" not in command.text
    assert "warning" not in command.text
    assert not Path("mlflow.db").exists() and not (command.storage.root / "ray").exists()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_a_checkpoint_and_the_same_command_resumes(command, signum):
    assert command(storage="undisturbed") == 0
    undisturbed = command.scores()
    assert command(on_epoch=at(2, "rme", lambda engine: os.kill(os.getpid(), signum))) == 128 + signum
    assert "stopping: saving checkpoints" in command.text
    assert "2 of 4 runs done; the same command resumes" in command.text
    assert {path.stem for path in command.storage.root.glob("trials/*/*")} == {"epoch-000001", "epoch-000002"}
    epochs: list[int] = []
    assert command(on_epoch=lambda engine: epochs.append(engine.epoch)) == 0
    assert epochs == [3, 4, 5, 6] and same(command.scores(), undisturbed)


def test_the_end_of_the_time_saves_a_checkpoint_and_the_same_command_resumes(command, monkeypatch):
    monkeypatch.setattr(stopping, "GRACE_S", 0.05)
    assert command(storage="undisturbed") == 0
    undisturbed = command.scores()
    assert command("--minutes", "0.01", on_epoch=at(1, "vae", lambda engine: time.sleep(1))) == 124
    assert "the time is over" in command.text and "0 of 4 runs done" in command.text
    assert command() == 0 and same(command.scores(), undisturbed)


def test_an_epoch_that_takes_too_long_is_left_and_resumed_from_the_one_before(command, monkeypatch):
    monkeypatch.setattr(stopping, "GRACE_S", 0.05)
    monkeypatch.setattr("rme.training.CHECKPOINT_SHARE", 1e9)  # a checkpoint after each epoch

    def hang(engine: Engine) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(600)

    assert command(on_epoch=at(3, "vae", hang)) == 143
    epochs: list[int] = []
    assert command(on_epoch=lambda engine: epochs.append(engine.epoch)) == 0
    assert epochs == [4, 1, 2, 3, 4, 5, 6]


def test_a_lost_gpu_fails_its_trial_and_ends_the_sweep_and_the_same_command_goes_on(command):
    attempts: list[int] = []

    def lose(engine: Engine) -> None:
        attempts.append(engine.epoch)
        raise RuntimeError("CUDA error: device-side assert triggered\nCUDA kernel errors might be ...")

    assert command(on_epoch=lose) == 1
    assert attempts == [1], "nothing else runs on that GPU in this process"
    assert "failed: spots d3 VAE seed 0: RuntimeError: CUDA error: device-side assert triggered" in command.text
    assert "lost its GPU" in command.text and "0 of 4 runs are done" in command.text
    assert "the same command continues with the other 4" in command.text
    assert command() == 0, "the machine failed, not the run"


def test_a_method_that_raises_is_tried_as_often_as_in_ray_and_only_again_with_retry_failed(command):
    attempts: list[int] = []

    def fail(engine: Engine) -> None:
        if engine.spec.method == "rme":
            attempts.append(engine.epoch)
            raise ZeroDivisionError("a new idea")

    assert command(on_epoch=fail) == 1
    assert len(attempts) == 4 and "2 of 4 runs are done" in command.text
    assert "--retry-failed" in command.text
    assert command() == 1 and "failed before: spots d3 RME(2) seed 0: ZeroDivisionError" in command.text
    assert command("--retry-failed") == 0


def test_out_of_memory_halves_the_array_of_one_trial_alone(command):
    sizes: dict[str, set[int]] = {"vae": set(), "rme": set()}

    def strained(engine: Engine) -> None:
        sizes[engine.spec.method].add(len(engine.members))
        if engine.spec.method == "vae" and len(engine.members) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")

    assert command(on_epoch=strained) == 0
    assert sizes == {"vae": {2, 1}, "rme": {2}}


def test_a_run_that_another_sweep_is_training_is_left_to_it(command, monkeypatch):
    """It is trained here once that sweep is gone."""
    monkeypatch.setattr(inline, "LOOK_EVERY_S", 0.01)
    monkeypatch.setattr("tune.run.other_sweeps.LOOK_EVERY_S", 0.0)
    assert command(storage="undisturbed") == 0
    undisturbed = command.scores()
    (vae, *_) = sorted(key for key, result in undisturbed.items())
    owner = Owner(Storage("storage").locks.path, vae)
    slept = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        owner.kill()

    monkeypatch.setattr(inline.time, "sleep", sleep)
    assert command() == 0
    assert slept and "another sweep is training it" in command.text
    assert same(command.scores(), undisturbed)


@pytest.mark.parametrize(("arguments", "named"), [
    (("--inline", "--search", "optuna", "--space", "rme"), "--inline and --search"),
    (("--inline", "--address", "auto"), "--inline and --address"),
    (("--inline", "--tracking-uri", "sqlite:///x.db"), "--inline and --tracking-uri"),
    (("--inline", "--record"), "--inline and --record"),
    (("--inline", "--gpus-per-trial", "auto"), "--gpus-per-trial auto"),
    (("--inline", "--gpus-per-trial", "2"), "--gpus-per-trial 2"),
    (("--inline", "--cpus-per-trial", "100000"), "--cpus-per-trial 100000"),
    (("--record", "--retry-failed"), "--record and --retry-failed"),
    (("--minutes", "3", "--plan"), "--minutes and --plan"),
])  # fmt: skip
def test_options_that_exclude_each_other_are_refused(command, capsys, arguments, named):
    status = sweep.main(["--grid", str(command.grid), *arguments])
    assert status == 2 and named in capsys.readouterr().err
    assert not list(Path("storage").glob("runs/*"))


def test_in_another_thread_a_sweep_runs_and_ends_in_time(command, monkeypatch):
    """There no handler of signals can be set."""
    monkeypatch.setattr(stopping, "GRACE_S", 0.05)
    statuses = []

    def run() -> None:
        statuses.append(command("--minutes", "0.01", on_epoch=at(1, "vae", lambda engine: time.sleep(1))))
        statuses.append(command())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert statuses == [124, 0]
