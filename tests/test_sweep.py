"""The sweep as a user runs it: real Ray, a real MLflow database, and what happens when it is broken off."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from sweeping import Sweep, processes_of, short_folder, write_grid, write_npz

from rme.config import RunSpec
from tune.storage import Storage

ROWS = [{"method": "vae"}, {"method": "rme", "order": 2}]
EPOCHS = {"epochs": 150, "stage_epochs": 30}
"""Long enough that a first trial is still under way for seconds after its first checkpoint."""


@pytest.fixture(scope="module")
def ray_folder():
    with short_folder() as folder:
        yield folder


@pytest.fixture(scope="module")
def grid(tmp_path_factory) -> Path:
    """Three seeds of a VAE and of the RME(2) that starts from it: four trials."""
    folder = tmp_path_factory.mktemp("grid")
    dataset = write_npz(folder / "spots.npz")
    return write_grid(folder / "spots.yaml", ROWS, dataset=str(dataset), seed="0-2", **EPOCHS)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, grid, ray_folder) -> Sweep:
    sweep = Sweep(tmp_path_factory.mktemp("undisturbed"), grid, ray_folder)
    done = sweep.run()
    assert done.returncode == 0, done.stderr
    return sweep


def assert_same(sweep: Sweep, reference: Sweep) -> None:
    """Every run once, none running, and the numbers of the reference bit for bit."""
    runs = sweep.runs()
    assert len({run.data.tags["run_key"] for run in runs}) == len(runs) == len(reference.runs())
    assert {run.info.status for run in runs + sweep.runs(children=False)} == {"FINISHED"}
    assert sweep.scores() == reference.scores()
    ours, theirs = sweep.test_scores(), reference.test_scores()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    # what a killed driver leaves of its own makes no second point of any curve
    for run in runs:
        client_history = sweep.history(run, "train/val_elbo")
        assert [m.step for m in client_history] == sorted({m.step for m in client_history})


def test_a_sweep_trains_and_records_every_run(undisturbed):
    runs = undisturbed.runs()
    names = sorted(run.info.run_name for run in runs)
    assert names == sorted(f"spots d3 {method} seed {s}" for method in ("VAE", "RME(2)") for s in range(3))
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert sorted(run.info.run_name for run in undisturbed.runs(children=False)) == ["spots d3 RME(2)", "spots d3 VAE"]
    assert not list((undisturbed.storage / "trials").glob("*")), "checkpoints of finished trials are not needed"


def test_rme_started_from_its_own_vae(undisturbed):
    """An RME that has learnt at a moderate rate is still near the VAE of its seed, and of no other."""
    storage = Storage(undisturbed.storage)
    specs = {}
    for folder in (undisturbed.storage / "runs").iterdir():
        spec = RunSpec.of(json.loads((folder / "result.json").read_text())["spec"])
        specs[spec.method, spec.seed] = spec
    for seed in range(3):
        (child,) = storage.models(specs["rme", seed])
        distance = {}
        for other in range(3):
            (parent,) = storage.models(specs["vae", other])
            name = "trunk.0.weight"
            distance[other] = (child[f"components.0.{name}"] - parent[f"encoder.{name}"]).norm().item()
        assert min(distance, key=lambda s: distance[s]) == seed


def test_the_same_command_again_finds_all_done(undisturbed):
    before = [run.to_dictionary() for run in undisturbed.runs() + undisturbed.runs(children=False)]
    again = undisturbed.run()
    assert again.returncode == 0
    assert "6 runs are done already" in again.stderr and "started" not in again.stderr
    assert [run.to_dictionary() for run in undisturbed.runs() + undisturbed.runs(children=False)] == before


def test_a_plan_sees_what_is_done(undisturbed):
    plan = json.loads(undisturbed.run("--plan", "--json").stdout)
    assert (plan["cells"], plan["runs"], plan["done_runs"], plan["to_train_runs"]) == (2, 6, 6, 0)
    assert plan["hours"] == 0
    more = json.loads(undisturbed.run("--plan", "--json", "--set", "kl_max=6").stdout)
    # another bound makes other runs of RME, and leaves the VAEs what they are
    assert (more["done_runs"], more["to_train_runs"]) == (3, 3)
    assert more["hours"] > 0


def test_a_new_database_is_filled_from_the_storage(undisturbed, tmp_path, grid, ray_folder):
    """As when the tracking server was lost: nothing is trained again."""
    other = Sweep(tmp_path / "other", grid, ray_folder)
    done = other.run("--storage", str(undisturbed.storage))
    assert done.returncode == 0 and "started" not in done.stderr
    assert other.scores() == undisturbed.scores()


def test_a_killed_driver_costs_nothing(undisturbed, tmp_path, grid, ray_folder):
    """kill -9 in mid-training."""
    sweep = Sweep(tmp_path / "killed", grid, ray_folder)
    assert stop_in_mid_training(sweep, signal.SIGKILL, ray_folder) == -signal.SIGKILL
    done = sweep.run()
    assert done.returncode == 0, done.stderr
    assert_same(sweep, undisturbed)


@pytest.mark.slow
def test_a_driver_killed_at_random_moments_costs_nothing(undisturbed, tmp_path, grid, ray_folder):
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed of the moments: {seed}")
    moments = random.Random(seed)
    sweep = Sweep(tmp_path / "killed", grid, ray_folder)
    kills = 0
    while kills < 8:
        driver = sweep.start()
        time.sleep(moments.uniform(6, 40))
        if driver.poll() is not None:
            break
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        kills += 1
        wait_for(lambda: not processes_of(ray_folder))
    assert kills, "the sweep ended before the first kill"
    done = sweep.run()
    assert done.returncode == 0, done.stderr
    assert_same(sweep, undisturbed)


@pytest.mark.slow
def test_ctrl_c_stops_tidily_and_is_resumed(undisturbed, tmp_path, grid, ray_folder):
    sweep = Sweep(tmp_path / "stopped", grid, ray_folder)
    assert stop_in_mid_training(sweep, signal.SIGINT, ray_folder) == 130
    done = sweep.run()
    assert done.returncode == 0, done.stderr
    assert_same(sweep, undisturbed)


@pytest.mark.slow
def test_a_killed_worker_goes_on_from_its_checkpoint(undisturbed, tmp_path, grid, ray_folder):
    sweep = Sweep(tmp_path / "worker", grid, ray_folder)
    driver = sweep.start()
    wait_for(lambda: checkpoints(sweep), driver)
    workers = [pid for pid in descendants(driver.pid) if b"ray::ImplicitFunc" in cmdline(pid)]
    assert workers
    os.kill(workers[0], signal.SIGKILL)
    assert driver.wait(timeout=900) == 0, (sweep.folder / "output.txt").read_text()
    assert_same(sweep, undisturbed)


def test_a_run_that_fails_is_named_and_the_rest_go_on(tmp_path, ray_folder):
    """A rate so high that the losses are not numbers soon; the children are skipped, the other cell is trained."""
    dataset = write_npz(tmp_path / "spots.npz")
    rows = [
        {"method": "vae", "learning_rate": 0.9},
        {"method": "rme", "order": 2, "learning_rate": 0.9},
        {"method": "vae", "dim": 2},
    ]
    grid = write_grid(tmp_path / "mixed.yaml", rows, dataset=str(dataset), seed=0, epochs=40)
    sweep = Sweep(tmp_path / "failing", grid, ray_folder)
    done = sweep.run()
    assert done.returncode == 1
    for name in ("spots d3 VAE seed 0", "spots d3 RME(2) seed 0"):
        assert f"failed: {name}" in done.stderr
    runs = {run.info.run_name: run for run in sweep.runs()}
    assert runs["spots d2 VAE seed 0"].info.status == "FINISHED"
    assert runs["spots d3 VAE seed 0"].info.status == "FAILED"
    assert "finite" in runs["spots d3 VAE seed 0"].data.tags["failure"]
    assert "spots d3 VAE seed 0" in runs["spots d3 RME(2) seed 0"].data.tags["failure"]


def checkpoints(sweep: Sweep) -> list[Path]:
    return list(sweep.storage.glob("trials/*/epoch-*.safetensors"))


def stop_in_mid_training(sweep: Sweep, signum: int, ray_folder: Path) -> int:
    """Send the driver a signal once there is a checkpoint; wait until its Ray has ended too. Returns its status."""
    driver = sweep.start()
    wait_for(lambda: checkpoints(sweep), driver)
    driver.send_signal(signum)
    status = driver.wait(timeout=600)
    wait_for(lambda: not processes_of(ray_folder))
    assert checkpoints(sweep), "it was to be stopped before its trials were done"
    return status


def wait_for(condition, driver=None, patience_s: float = 600) -> None:
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, "what was waited for did not come"
        assert driver is None or driver.poll() is None, "the sweep ended before what was waited for"
        time.sleep(0.02)


def cmdline(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def descendants(pid: int) -> list[int]:
    """Ids of a process's children and theirs."""
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
