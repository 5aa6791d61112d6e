"""The promises of docs/reliability.md, tested by breaking real parts: Ray, MLflow, disks, and the sweep itself."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from mlflow import MlflowClient

from rme.result import MARKER
from tests.sweeping import (
    PATIENCE_S,
    Hold,
    Sweep,
    assert_same,
    checkpoints,
    cmdline,
    copy_of_the_project,
    descendants,
    end_processes_of,
    finish,
    output,
    processes_of,
    short_folder,
    stop_in_mid_training,
    timed,
    wait_for,
    write_grid,
)
from tests.tiny import write_npz
from tune.run.ray_worker import STOP_EVERY_S

pytestmark = pytest.mark.slow

ROWS = [{"method": "vae"}, {"method": "rme", "order": 2}]
SETTINGS = {"epochs": 150, "finish_epochs": 40, "stage_epochs": 30}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return write_npz(tmp_path_factory.mktemp("data") / "spots.npz")


@pytest.fixture(scope="module")
def grid(tmp_path_factory, dataset) -> Path:
    """Three seeds of a VAE and of the RME(2) that starts from it: four trials, two of them arrays."""
    return write_grid(
        tmp_path_factory.mktemp("grid") / "spots.yaml", ROWS, dataset=str(dataset), seed="0-2", **SETTINGS
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, grid, ray_folder) -> Sweep:
    return timed(Sweep(tmp_path_factory.mktemp("undisturbed"), grid, ray_folder))[0]


# ---------------------------------------------------------------------- killed and stopped
def test_a_killed_worker_s_trial_resumes_from_its_checkpoint(undisturbed, tmp_path, grid, ray_folder, hold):
    sweep = Sweep(tmp_path / "worker", grid, ray_folder, hold=hold)
    hold.after(1)
    driver = sweep.start()
    wait_for(hold.standing, driver)
    worker = hold.standing()[0]
    assert worker in descendants(driver.pid) and b"ray::ImplicitFunc" in cmdline(worker)
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: second_epoch(sweep), driver)
    hold.lift()
    assert driver.wait(timeout=PATIENCE_S) == 0, output(sweep)
    assert_same(sweep, undisturbed)


def second_epoch(sweep: Sweep) -> bool:
    """Whether a trial was resumed from a checkpoint, if each training pauses after its first epoch."""
    return any(path.stem == "epoch-000002" for path in checkpoints(sweep))


CLUSTER = """
import sys
from ray.cluster_utils import Cluster

cluster = Cluster()

def add(cpus):
    while True:
        try:
            return cluster.add_node(num_cpus=cpus, object_store_memory=100 << 20)
        except Exception as error:  # on a busy machine a node may need more than Ray's 30 s
            if "timed out" not in str(error):
                raise

add(0)
nodes = [add(1)]
print(cluster.address, flush=True)
for line in sys.stdin:
    if line == "remove\\n":
        cluster.remove_node(nodes.pop(), allow_graceful=False)
    elif line == "add\\n":
        nodes.append(add(2))  # for the lost trial, and for a waiting one, which may start before it
    print("done", flush=True)
cluster.shutdown()
"""


def test_a_lost_node_s_trials_resume_on_a_new_one(undisturbed, tmp_path, grid, ray_folder, hold):
    sweep = Sweep(tmp_path / "node", grid, ray_folder, hold=hold)
    hold.after(1)
    cluster = subprocess.Popen(
        [sys.executable, "-c", CLUSTER], env=sweep.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert cluster.stdin is not None and cluster.stdout is not None
    try:
        address = next(line.strip() for line in cluster.stdout if ":" in line and " " not in line.strip())
        driver = sweep.start("--address", address)
        wait_for(hold.standing, driver)
        for order in ("remove", "add"):
            assert not second_epoch(sweep)
            print(order, file=cluster.stdin, flush=True)
            wait_for(lambda: cluster.stdout.readline() == "done\n", driver)
        wait_for(lambda: second_epoch(sweep), driver)
        hold.lift()
        assert driver.wait(timeout=PATIENCE_S) == 0, output(sweep)
    finally:
        cluster.stdin.close()
        cluster.wait(timeout=PATIENCE_S)
        end_processes_of(ray_folder)
    assert_same(sweep, undisturbed)


@pytest.mark.parametrize("to_all", [False, True], ids=["driver", "all"])
def test_sigterm_stops_cleanly(undisturbed, tmp_path, grid, ray_folder, hold, to_all):
    """Also if Slurm or systemd sends it to every process."""
    sweep = Sweep(tmp_path / "stopped", grid, ray_folder, hold=hold)
    status = stop_in_mid_training(sweep, hold, signal.SIGTERM, ray_folder, to_all=to_all, epochs=3)
    assert status == 143, output(sweep)
    assert "the same command resumes" in output(sweep)
    assert "epoch-000003" in {path.stem for path in checkpoints(sweep)}, output(sweep)
    finish(sweep)
    assert_same(sweep, undisturbed)


def test_the_end_of_the_time_stops_cleanly(undisturbed, tmp_path, grid, ray_folder, hold):
    """A training that does not end its epoch is left where it is."""
    sweep = Sweep(tmp_path / "minutes", grid, ray_folder, hold=hold)
    hold.after(1)
    driver = sweep.start("--minutes", "0.25")
    assert driver.wait(timeout=PATIENCE_S) == 124, output(sweep)
    wait_for(lambda: not processes_of(ray_folder))
    hold.lift()
    assert "the time is over: stopping" in output(sweep)
    finish(sweep)
    assert_same(sweep, undisturbed)


def test_ctrl_c_stops_cleanly_and_a_damaged_checkpoint_is_ignored(undisturbed, tmp_path, grid, ray_folder, hold):
    sweep = Sweep(tmp_path / "stopped", grid, ray_folder, hold=hold)
    assert stop_in_mid_training(sweep, hold, signal.SIGINT, ray_folder) == 130
    assert "the same command resumes" in output(sweep)
    newest = max(checkpoints(sweep), key=lambda path: path.stat().st_mtime)
    newest.write_bytes(newest.read_bytes()[:-1000])
    done = finish(sweep)
    assert "checkpoint ignored: " in done.stderr and newest.name in done.stderr
    assert_same(sweep, undisturbed)


def test_ctrl_c_twice_stops_at_once(undisturbed, tmp_path, grid, ray_folder, hold):
    sweep = Sweep(tmp_path / "twice", grid, ray_folder, hold=hold)
    hold.after(1)
    driver = sweep.start()
    wait_for(hold.standing, driver)
    driver.send_signal(signal.SIGINT)
    time.sleep(0.3)
    driver.send_signal(signal.SIGINT)
    assert driver.wait(timeout=PATIENCE_S) == 130, output(sweep)
    assert "Traceback" not in output(sweep)
    wait_for(lambda: not processes_of(ray_folder))
    hold.lift()
    assert checkpoints(sweep), "the sweep ended before it was stopped"
    finish(sweep)
    assert_same(sweep, undisturbed)


# ---------------------------------------------------------------------- two at once
def another(sweep: Sweep, grid: Path, ray_folder: Path, folder: Path, hold: Hold) -> Sweep:
    """A second sweep with the same storage and database."""
    second = Sweep(folder, grid, ray_folder, hold=hold)
    second.command += ["--storage", str(sweep.storage), "--tracking-uri", sweep.tracking]
    second.storage, second.tracking = sweep.storage, sweep.tracking
    return second


def test_two_sweeps_at_once_train_each_run_once(undisturbed, tmp_path, grid, dataset, ray_folder, hold):
    """Three sweeps start at once: two of one grid, and one of an overlapping grid that groups its runs differently."""
    first = Sweep(tmp_path / "first", grid, ray_folder, hold=hold)
    same = another(first, grid, ray_folder, tmp_path / "same", hold)
    overlapping = write_grid(tmp_path / "others.yaml", ROWS, dataset=str(dataset), seed="2-3", **SETTINGS)
    other = another(first, overlapping, ray_folder, tmp_path / "other", hold)
    sweeps = (first, same, other)
    # paused until one sweep finds a run locked: else they might never meet
    hold.after(1)
    drivers = [first.start(), same.start(), other.start("--seeds-per-trial", "1")]
    wait_for(
        lambda: (
            any("another sweep is training it" in output(sweep) for sweep in sweeps)
            or any(driver.poll() is not None for driver in drivers)
        )
    )
    hold.lift()
    for driver, sweep in zip(drivers, sweeps, strict=True):
        assert driver.wait(timeout=PATIENCE_S) == 0, output(sweep)
    times = Counter(hold.trainings)
    assert set(times.values()) == {1}, "a run was trained twice"
    assert len(times) == 2 * 4
    assert "another sweep is training it" in "".join(output(sweep) for sweep in sweeps)
    # each experiment has each of its runs once, with the same numbers in both
    assert sorted(run.info.run_name for run in other.runs()) == sorted(
        f"spots d3 {method} seed {seed}" for method in ("VAE", "RME(2)") for seed in (2, 3)
    )
    ours, theirs = first.scores(), other.scores()
    assert all(ours[name] == theirs[name] for name in ours.keys() & theirs.keys())
    first.storage = only(first, tmp_path / "own")
    assert_same(first, undisturbed)


def only(sweep: Sweep, folder: Path) -> Path:
    """A storage with only the results of this sweep's experiment."""
    (folder / "runs").mkdir(parents=True)
    for run in sweep.runs():
        key = run.data.tags["run_key"]
        (folder / "runs" / key).symlink_to(sweep.storage / "runs" / key)
    return folder


def test_a_sweep_takes_over_the_trials_of_a_killed_one(undisturbed, tmp_path, grid, ray_folder, hold):
    with short_folder() as own_ray:
        killed = Sweep(tmp_path / "killed", grid, own_ray, hold=hold)
        hold.after(1)
        driver = killed.start()
        wait_for(hold.standing, driver)
        heir = another(killed, grid, ray_folder, tmp_path / "heir", hold)
        heir_driver = heir.start()
        wait_for(lambda: "another sweep is training it" in output(heir), heir_driver)
        for pid in [driver.pid, *descendants(driver.pid)]:
            os.kill(pid, signal.SIGKILL)
        driver.wait()
        wait_for(lambda: second_epoch(killed), heir_driver)
        hold.lift()
        assert heir_driver.wait(timeout=PATIENCE_S) == 0, output(heir)
    assert_same(heir, undisturbed)


# ---------------------------------------------------------------------- runs that fail
BROKEN = """
from typing import ClassVar
import torch
from rme.methods.vae import VAE

class Broken(VAE):
    name: ClassVar[str] = "broken"
    label: ClassVar[str] = "BROKEN"
    orders = (1, 2)
    order_means = "ways to fail"

    def loss(self, step):
        if self.spec.order == 1:
            raise ZeroDivisionError("the new idea\\ndoes not work")
        if self.spec.order == 2:
            torch.empty(2**50)
        return super().loss(step)
"""


def test_a_failed_run_is_tried_again_only_with_retry_failed(tmp_path, dataset, ray_folder):
    root = copy_of_the_project(tmp_path / "project")
    method = root / "rme" / "methods" / "broken.py"
    method.write_text(BROKEN)
    rows = [{"method": "broken", "order": [1, 2]}, {"method": "vae"}]
    sweep = Sweep(
        tmp_path / "failing", write_grid(tmp_path / "mixed.yaml", rows, dataset=str(dataset)), ray_folder, root
    )
    done = sweep.run()
    assert done.returncode == 1
    reasons = {"spots d3 BROKEN(1) seed 0": "ZeroDivisionError: the new idea", "spots d3 BROKEN(2) seed 0": "memory"}
    runs = {run.info.run_name: run for run in sweep.runs()}
    assert runs["spots d3 VAE seed 0"].info.status == "FINISHED"
    client = MlflowClient(tracking_uri=sweep.tracking)
    for name, reason in reasons.items():
        assert f"failed: {name}" in done.stderr
        assert runs[name].info.status == "FAILED" and reason in runs[name].data.tags["failure"]
        text = Path(client.download_artifacts(runs[name].info.run_id, "traceback.txt", str(tmp_path))).read_text()
        assert "broken.py" in text and reason.partition(":")[0] in text

    again = sweep.run()
    assert again.returncode == 1 and "started" not in again.stderr
    assert all(f"failed before: {name}" in again.stderr for name in reasons) and "--retry-failed" in again.stderr

    method.write_text(BROKEN.replace("raise ZeroDivisionError", "ZeroDivisionError"))
    retried = sweep.run("--retry-failed")
    assert retried.returncode == 1, "one of them still fails"
    assert "started    spots d3 BROKEN(1)" in retried.stderr and "started    spots d3 VAE" not in retried.stderr
    runs = {run.info.run_name: run for run in sweep.runs()}
    assert len(runs) == len(sweep.runs()) == 3
    mended = runs["spots d3 BROKEN(1) seed 0"]
    assert mended.info.status == "FINISHED" and "failure" not in mended.data.tags
    assert "traceback.txt" not in {artifact.path for artifact in client.list_artifacts(mended.info.run_id)}
    assert runs["spots d3 BROKEN(2) seed 0"].info.status == "FAILED"


GPU_DANGERS = """
import os
import torch

def endanger(engine):
    method = engine.spec.method
    with open(os.environ["DANGERS"], "a") as notes:
        notes.write(f"{method} {os.getpid()} {len(engine.members)}\\n")
    if method == "me":
        raise RuntimeError("CUDA error: device-side assert triggered")
    if method == "hf" and len(engine.members) > 1:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
"""


def test_a_lost_gpu_and_a_full_one_cost_no_other_trial(tmp_path, dataset, ray_folder):
    """Two trials at a time: each raises what a GPU's driver makes torch raise, at the same places as on a GPU."""
    (tmp_path / "dangers.py").write_text(GPU_DANGERS)
    rows = [{"method": "me", "order": 2}, {"method": "hf", "order": 1}, {"method": "vae"}]
    grid = write_grid(tmp_path / "dangerous.yaml", rows, dataset=str(dataset), seed="0-1", epochs=20)
    sweep = Sweep(tmp_path / "dangers", grid, ray_folder)
    notes = tmp_path / "notes"
    sweep.environment |= {"RME_ON_EPOCH": "dangers:endanger", "DANGERS": str(notes)}
    sweep.environment["PYTHONPATH"] += os.pathsep + str(tmp_path)
    done = sweep.run()
    assert done.returncode == 1 and "4 of 6 runs are done" in done.stderr
    status = {run.info.run_name: run.info.status for run in sweep.runs()}
    assert {name for name, state in status.items() if state == "FAILED"} == {f"spots d3 ME(2) seed {s}" for s in (0, 1)}
    assert "device-side assert triggered" in done.stderr
    epochs = [line.split() for line in notes.read_text().splitlines()]
    lost = [i for i, (method, _, _) in enumerate(epochs) if method == "me"]
    assert len(lost) == 4
    assert all(epochs[i][1] not in {pid for _, pid, _ in epochs[i + 1 :]} for i in lost), "a worker was used again"
    assert {int(members) for method, _, members in epochs if method == "hf"} == {2, 1}
    assert "continuing with 1 of 2 members" in done.stderr
    sweep.environment["RME_ON_EPOCH"] = ""
    finish(sweep)  # the machine failed, not the runs


# ---------------------------------------------------------------------- disks
@pytest.fixture
def small_disk(tmp_path):
    """(pid, folder): in this process's mount namespace, a small disk is mounted at the folder."""
    folder = tmp_path / "full" / "storage"
    folder.mkdir(parents=True)
    mount = f"mount -t tmpfs -o size=256m tmpfs '{folder}' && echo mounted && exec sleep infinity"
    holder = subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", mount],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert holder.stdout is not None
    if holder.stdout.readline() != "mounted\n":
        pytest.skip(f"no private mount here: {holder.communicate()[1].strip()}")
    yield holder.pid, folder
    holder.kill()
    holder.wait()


def fill(ballast: Path, leave: int = 0) -> None:
    """Fill the disk up to `leave` bytes."""
    with open(ballast, "wb", buffering=0) as file:
        try:
            while shutil.disk_usage(ballast.parent).free > leave:
                file.write(bytes(1 << 20))
        except OSError:
            pass


@pytest.mark.parametrize("what", ["checkpoint", "result"])
def test_a_full_disk_fails_the_trial_and_keeps_existing_files(
    undisturbed, tmp_path, grid, ray_folder, small_disk, hold, what
):
    pid, folder = small_disk
    inside = ("nsenter", f"--mount=/proc/{pid}/ns/mnt", f"--wd={folder}")
    sweep = Sweep(folder.parent, grid, ray_folder, prefix=inside, hold=hold)
    sweep.storage = Path(f"/proc/{pid}/root{folder}")  # the disk's path in this process's namespace
    hold.after(1 if what == "checkpoint" else SETTINGS["epochs"])  # before another checkpoint, or only the result
    driver = sweep.start()
    wait_for(hold.standing, driver)
    assert checkpoints(sweep)
    fill(sweep.storage / "ballast")
    hold.lift()
    assert driver.wait(timeout=PATIENCE_S) == 1, output(sweep)
    failed = [run.data.tags["failure"] for run in sweep.runs() if run.info.status == "FAILED"]
    # whichever comes first: a write that fails, or the look at the free space every ten seconds
    assert any("No space left" in reason for reason in failed) or "is nearly full" in output(sweep), output(sweep)
    assert checkpoints(sweep), "earlier checkpoints were lost"
    (sweep.storage / "ballast").unlink()
    done = finish(sweep)
    assert "ignored: " not in done.stderr, "an earlier checkpoint is damaged"
    assert_same(sweep, undisturbed)


def test_a_disk_that_fills_up_stops_the_sweep_while_checkpoints_can_be_saved(
    undisturbed, tmp_path, grid, ray_folder, small_disk, hold
):
    pid, folder = small_disk
    inside = ("nsenter", f"--mount=/proc/{pid}/ns/mnt", f"--wd={folder}")
    sweep = Sweep(folder.parent, grid, ray_folder, prefix=inside, hold=hold)
    sweep.storage = Path(f"/proc/{pid}/root{folder}")  # the disk's path in this process's namespace
    hold.after(1)
    driver = sweep.start()
    wait_for(hold.standing, driver)
    before = {path: path.stat().st_mtime_ns for path in checkpoints(sweep)}
    fill(sweep.storage / "ballast", leave=40 << 20)  # two checkpoints of 15 MB fit
    wait_for(lambda: "is nearly full" in output(sweep), driver)
    time.sleep(2 * STOP_EVERY_S)  # then a training asks at its next epoch
    hold.lift()
    assert driver.wait(timeout=PATIENCE_S) == 1, output(sweep)
    printed = output(sweep)
    assert "the same command resumes" in printed and "No space left" not in printed
    assert {path: path.stat().st_mtime_ns for path in checkpoints(sweep)} != before, "no checkpoint was saved"
    refused = sweep.run()
    assert refused.returncode == 2 and "MB are free" in refused.stderr and str(folder) in refused.stderr
    (sweep.storage / "ballast").unlink()
    finish(sweep)
    assert_same(sweep, undisturbed)


# ---------------------------------------------------------------------- MLflow
@contextmanager
def tracking_server(folder: Path, port: int):
    """A real tracking server; at the end all of its processes are killed (SIGKILL)."""
    store = [
        "--backend-store-uri",
        f"sqlite:///{folder / 'server.db'}",
        "--artifacts-destination",
        str(folder / "artifacts"),
    ]
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        *store,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    with open(folder / "server.txt", "ab") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, cwd=folder)
    try:
        wait_for(lambda: answers(port), server)
        yield
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def answers(port: int) -> bool:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
    except OSError:
        return False
    return True


def test_a_tracking_server_killed_between_two_writes_has_every_metric_once(
    undisturbed, tmp_path, grid, ray_folder, hold
):
    """The server stays down for a minute, during which training continues."""
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    sweep = Sweep(tmp_path / "server", grid, ray_folder, hold=hold)
    sweep.tracking = f"http://127.0.0.1:{port}"
    sweep.command += ["--tracking-uri", sweep.tracking]
    database = tmp_path / "server.db"

    def execute(statement: str) -> list:
        with closing(sqlite3.connect(database, timeout=30)) as store, store:
            return store.execute(statement).fetchall()

    def half_written() -> bool:
        query = "SELECT 1 FROM runs JOIN metrics USING (run_uuid) WHERE status = 'RUNNING' LIMIT 1"
        return bool(execute(query))

    def results() -> int:
        return len(list(sweep.storage.glob(f"runs/*/{MARKER}")))

    hold.after(SETTINGS["stage_epochs"])  # a VAE pauses during training, an RME at its end
    with tracking_server(tmp_path, port):
        # lets a run's metrics be written, but not its status, so that the server is killed between the two
        execute(
            "CREATE TRIGGER unfinished BEFORE UPDATE ON runs WHEN NEW.status = 'FINISHED' "
            "AND EXISTS (SELECT 1 FROM metrics WHERE run_uuid = NEW.run_uuid) BEGIN SELECT RAISE(ABORT, 'not yet'); END"
        )
        driver = sweep.start()
        wait_for(hold.standing, driver)
        hold.let_go()
        wait_for(half_written, driver)
    down = time.monotonic()
    execute("DROP TRIGGER unfinished")
    wait_for(hold.standing, driver)
    before = results()
    hold.let_go()
    wait_for(lambda: results() > before, driver)
    wait_for(lambda: "is not recorded yet" in output(sweep), driver)
    time.sleep(max(0, down + 60 - time.monotonic()))
    assert driver.poll() is None, "a sweep outlives its tracking server"
    with tracking_server(tmp_path, port):
        hold.lift()
        assert driver.wait(timeout=PATIENCE_S) == 0, output(sweep)
        assert_same(sweep, undisturbed)


def test_a_locked_database_is_waited_for(undisturbed, tmp_path, grid, ray_folder, hold):
    sweep = Sweep(tmp_path / "locked", grid, ray_folder, hold=hold)
    hold.after(SETTINGS["epochs"])
    driver = sweep.start()
    wait_for(hold.standing, driver)
    with closing(sqlite3.connect(sweep.folder / "mlflow.db", timeout=30, isolation_level=None)) as database:
        database.execute("BEGIN EXCLUSIVE")
        hold.lift()
        wait_for(lambda: "database is locked" in output(sweep), driver)
        database.execute("ROLLBACK")
    assert driver.wait(timeout=PATIENCE_S) == 0, output(sweep)
    assert_same(sweep, undisturbed)
