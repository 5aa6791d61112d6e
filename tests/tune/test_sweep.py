"""The sweep as a user runs it: real Ray, a real MLflow database, and what happens when it is broken off."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pandas as pd
import pytest

from rme.result import Result
from tests.sweeping import Hold, Sweep, assert_same, stop_in_mid_training, write_grid, write_npz
from tune.storage import Storage

ROWS = [{"method": "vae"}, {"method": "rme", "order": 2}]
EPOCHS = {"epochs": 20, "stage_epochs": 6}


@pytest.fixture(scope="module")
def grid(tmp_path_factory) -> Path:
    """Three seeds of a VAE and of the RME(2) that starts from it: four trials."""
    folder = tmp_path_factory.mktemp("grid")
    dataset = write_npz(folder / "spots.npz")
    return write_grid(folder / "spots.yaml", ROWS, dataset=str(dataset), seed="0-2", **EPOCHS)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, grid, ray_folder) -> Sweep:
    sweep = Sweep(tmp_path_factory.mktemp("undisturbed"), grid, ray_folder, database=False)
    done = sweep.run()
    assert done.returncode == 0, done.stderr
    return sweep


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
        spec = Result.load(folder).spec
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
    more = json.loads(undisturbed.run("--plan", "--json", "--set", "kl_max=6", "--set", "stage_epochs=2000").stdout)
    # another bound and a longer stage make other runs of RME, and leave the VAEs what they are
    assert (more["done_runs"], more["to_train_runs"]) == (3, 3)
    assert more["hours"] > 0


def test_other_settings_of_the_same_runs_are_refused_and_named(undisturbed):
    before = len(undisturbed.runs())
    refused = undisturbed.run("--set", "epochs=21")
    assert refused.returncode == 2
    assert "6 finished runs" in refused.stderr and "epochs 20 -> 21" in refused.stderr
    assert "--experiment" in refused.stderr and "started" not in refused.stderr
    assert len(undisturbed.runs()) == before
    plan = json.loads(undisturbed.run("--plan", "--json", "--set", "epochs=21", "--experiment", "longer").stdout)
    assert plan["grid"] == "longer" and plan["other_settings"] is None and plan["to_train_runs"] == 6


def test_a_new_database_is_filled_from_the_storage(undisturbed, tmp_path, grid, ray_folder):
    """As when the tracking server was lost: nothing is trained again."""
    other = Sweep(tmp_path / "other", grid, ray_folder)
    done = other.run("--storage", str(undisturbed.storage))
    assert done.returncode == 0 and "started" not in done.stderr
    assert other.scores() == undisturbed.scores()


def test_a_killed_driver_costs_nothing(undisturbed, tmp_path, grid, ray_folder):
    """kill -9 in mid-training."""
    with Hold(tmp_path / "hold") as hold:
        sweep = Sweep(tmp_path / "killed", grid, ray_folder, hold.project(tmp_path / "project"))
        assert stop_in_mid_training(sweep, hold, signal.SIGKILL, ray_folder) == -signal.SIGKILL
    done = sweep.run()
    assert done.returncode == 0, done.stderr
    assert_same(sweep, undisturbed)


def test_variants_a_control_and_what_is_not_trained_are_rows_of_their_own(tmp_path, ray_folder):
    """Of one's own images, two seeds; the VAE with a finish is a variant from which nothing starts."""
    rows = [
        {"method": ["vae", "vae-more"]},
        {"method": "vae", "variant": "finish", "epochs": 5, "finish_epochs": 2},
        {"method": "rme", "order": 2},
        {"method": "rme", "order": 2, "variant": "kl 20", "kl_max": 20, "stage_patience": 1},
        {"method": "svi", "order": 10},
    ]
    dataset = write_npz(tmp_path / "spots.npz")
    settings = {"dataset": str(dataset), "seed": "0-1", "epochs": 3, "stage_epochs": 2}
    sweep = Sweep(tmp_path / "variants", write_grid(tmp_path / "variants.yaml", rows, **settings), ray_folder)
    plan = json.loads(sweep.run("--plan", "--json").stdout)
    labels = ["VAE", "VAE-more", "VAE, finish", "RME(2)", "RME(2), kl 20", "SVI(10)"]
    assert [row["method"] for row in plan["rows"]] == labels
    assert (plan["cells"], plan["control_cells"], plan["runs"], plan["starting_points"]) == (6, 1, 12, 0)
    assert plan["hours_if_patience_ends_all"] <= plan["hours"], "a row has a patience"
    done = sweep.run()
    assert done.returncode == 0, done.stderr
    runs = sweep.runs()
    assert sorted(run.info.run_name for run in runs) == sorted(
        f"spots d3 {lb} seed {s}" for lb in labels for s in (0, 1)
    )
    assert sorted(run.info.run_name for run in sweep.runs(children=False)) == sorted(f"spots d3 {lb}" for lb in labels)
    trained = {run.data.tags["method_label"]: run.data.tags for run in runs}
    starts = {label: tags["starts_from"] for label, tags in trained.items()}
    assert starts == {label: "scratch" if label in ("VAE", "VAE, finish") else "vae" for label in labels}
    assert {label: int(tags["updates"]) for label, tags in trained.items()} == {
        "VAE": 1, "VAE-more": 1, "VAE, finish": 1, "RME(2)": 4, "RME(2), kl 20": 4, "SVI(10)": 0
    }  # fmt: skip
    again = sweep.run()
    assert again.returncode == 0 and "12 runs are done already" in again.stderr and "started" not in again.stderr
    tables = sweep.folder / "report" / "variants" / "tables"
    (scores,) = tables.glob("test_iwae-spots-*.csv")
    assert sorted(pd.read_csv(scores)["label"]) == sorted(labels)
    assert set(pd.read_csv(tables / "claims.csv")["Status"]) <= {"not enough runs", "not run"}, "of two seeds"


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
