"""The sweep as a user runs it, with real Ray and a real MLflow database, uninterrupted and interrupted."""

from __future__ import annotations

import json
import signal
import subprocess

import pandas as pd
import pytest
import torch
from mlflow.entities import Run

from rme.result import MARKER, Result
from tests.sweeping import Sweep, assert_same, finish, stop_in_mid_training, write_grid
from tests.tiny import write_npz
from tune.store.storage import Storage

ROWS = [{"method": "vae"}, {"method": "rme", "order": 2}]
EPOCHS = {"epochs": 20, "stage_epochs": 6}

TWO = {"seed": "0-1"}
OTHERS = [
    {"method": "vae-more", **TWO},
    {"method": "vae", "variant": "finish", "epochs": 5, "finish_epochs": 2, **TWO},
    {"method": "rme", "order": 2, "variant": "kl 20", "kl_max": 20, "stage_patience": 1, **TWO},
    {"method": "svi", "order": 10, **TWO},
]
"""With two seeds: the control, two variants, and a method that trains nothing."""

FAILING = [{**row, "dim": 2, "seed": 0, "epochs": 40, "learning_rate": 0.9} for row in ROWS]
"""Runs with a learning rate so high that the losses soon are not finite."""

GOOD = ("--only", "dim=3")
"""The runs that do not fail."""

LABELS = {"VAE": 3, "RME(2)": 3, "VAE-more": 2, "VAE, finish": 2, "RME(2), kl 20": 2, "SVI(10)": 2}
"""The labels of the runs that do not fail, and how many seeds each has."""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> str:
    return str(write_npz(tmp_path_factory.mktemp("data") / "spots.npz"))


@pytest.fixture(scope="module")
def first(tmp_path_factory, dataset, ray_folder) -> tuple[Sweep, subprocess.CompletedProcess[str]]:
    """A sweep of six good cells and two that fail, in a database that the sweep creates."""
    folder = tmp_path_factory.mktemp("undisturbed")
    grid = write_grid(folder / "spots.yaml", ROWS + OTHERS + FAILING, dataset=dataset, seed="0-2", **EPOCHS)
    sweep = Sweep(folder, grid, ray_folder, database=False)
    return sweep, sweep.run()


@pytest.fixture(scope="module")
def undisturbed(first) -> Sweep:
    return first[0]


def finished(sweep: Sweep) -> list[Run]:
    return [run for run in sweep.runs() if run.info.status == "FINISHED"]


def test_a_sweep_trains_and_records_every_run(undisturbed):
    names = sorted(run.info.run_name for run in finished(undisturbed))
    assert names == sorted(f"spots d3 {label} seed {s}" for label, seeds in LABELS.items() for s in range(seeds))
    cells = [run.info.run_name for run in undisturbed.runs(children=False) if run.info.run_name.startswith("spots d3")]
    assert sorted(cells) == sorted(f"spots d3 {label}" for label in LABELS)
    assert not list((undisturbed.storage / "trials").glob("*")), "checkpoints of finished trials are not needed"


def test_a_run_that_fails_is_named_and_the_rest_go_on(first):
    """So is its child, which is skipped."""
    undisturbed, done = first
    assert done.returncode == 1, done.stderr
    runs = {run.info.run_name: run for run in undisturbed.runs() if run.info.status == "FAILED"}
    assert runs.keys() == {"spots d2 VAE seed 0", "spots d2 RME(2) seed 0"}
    assert all(f"failed: {name}" in done.stderr for name in runs)
    assert "finite" in runs["spots d2 VAE seed 0"].data.tags["failure"]
    assert "spots d2 VAE seed 0" in runs["spots d2 RME(2) seed 0"].data.tags["failure"]


def test_rme_started_from_its_own_vae(undisturbed):
    """The weights of an RME after a short stage are closest to those of its own seed's VAE."""
    storage = Storage(undisturbed.storage)
    specs = {}
    for folder in (undisturbed.storage / "runs").iterdir():
        if (folder / MARKER).exists() and not (spec := Result.load(folder).spec).variant:
            specs[spec.method, spec.seed] = spec
    for seed in range(3):
        (child,) = storage.models(specs["rme", seed])
        distance = {}
        for other in range(3):
            (parent,) = storage.models(specs["vae", other])
            name = "trunk.0.weight"
            distance[other] = (child[f"components.0.{name}"] - parent[f"encoder.{name}"]).norm().item()
        assert min(distance, key=lambda s: distance[s]) == seed


def test_variants_the_control_and_an_untrained_method_are_rows_of_their_own(undisturbed):
    """Nothing starts from the VAE with a finish, which is a variant."""
    trained = {run.data.tags["method_label"]: run.data.tags for run in finished(undisturbed)}
    starts = {label: tags["starts_from"] for label, tags in trained.items()}
    assert starts == {label: "scratch" if label in ("VAE", "VAE, finish") else "vae" for label in LABELS}
    assert {label: int(tags["updates"]) for label, tags in trained.items()} == {
        "VAE": 1, "VAE-more": 1, "VAE, finish": 1, "RME(2)": 4, "RME(2), kl 20": 4, "SVI(10)": 0
    }  # fmt: skip
    tables = undisturbed.folder / "report" / "spots" / "tables"
    scores = pd.concat(pd.read_csv(path) for path in tables.glob("test_iwae-spots-*.csv"))
    assert sorted(scores["label"].unique()) == sorted(LABELS)
    assert set(pd.read_csv(tables / "claims.csv")["Status"]) <= {"not enough runs", "not run"}, "only 2 or 3 seeds"


def test_the_same_command_skips_finished_runs(undisturbed):
    before = [run.to_dictionary() for run in undisturbed.runs() + undisturbed.runs(children=False)]
    page = undisturbed.folder / "report" / "spots" / "index.html"
    written = page.stat().st_mtime_ns
    again = undisturbed.call(*GOOD)
    assert again.returncode == 0
    assert "14 runs are done already" in again.stderr and "started" not in again.stderr
    assert page.stat().st_mtime_ns == written, "the report is of the same runs"
    assert "RME(2), kl 20" in again.stderr and str(page.relative_to(undisturbed.folder)) in again.stderr
    assert [run.to_dictionary() for run in undisturbed.runs() + undisturbed.runs(children=False)] == before


def test_a_plan_counts_finished_runs(undisturbed):
    plan = json.loads(undisturbed.call(*GOOD, "--plan", "--json").stdout)
    assert [row["method"] for row in plan["rows"]] == list(LABELS)
    assert (plan["cells"], plan["control_cells"], plan["starting_points"]) == (6, 1, 0)
    assert (plan["runs"], plan["done_runs"], plan["to_train_runs"], plan["hours"]) == (14, 14, 0, 0)
    more = json.loads(undisturbed.call(*GOOD, "--plan", "--json", "--set", "stage_epochs=2000").stdout)
    # a longer stage makes new runs of the methods that train a stage, and leaves the others unchanged
    assert (more["done_runs"], more["to_train_runs"]) == (7, 7)
    assert 0 < more["hours_if_patience_ends_all"] < more["hours"], "one row has a patience"


def test_other_settings_of_the_same_runs_are_refused_and_named(undisturbed):
    before = len(undisturbed.runs())
    other = ("--set", "batch_size=10")
    refused = undisturbed.call(*GOOD, *other)
    assert refused.returncode == 2
    assert "14 finished runs" in refused.stderr and "batch_size 11 -> 10" in refused.stderr
    assert "--experiment" in refused.stderr and "started" not in refused.stderr
    assert len(undisturbed.runs()) == before
    plan = json.loads(undisturbed.call(*GOOD, "--plan", "--json", *other, "--experiment", "other").stdout)
    assert plan["grid"] == "other" and plan["other_settings"] is None and plan["to_train_runs"] == 14


def test_a_new_database_is_filled_from_the_storage(undisturbed, tmp_path, ray_folder):
    """After a lost tracking server, nothing is trained again."""
    other = Sweep(tmp_path / "other", undisturbed.folder / "spots.yaml", ray_folder)
    done = other.call("--storage", str(undisturbed.storage), *GOOD)
    assert done.returncode == 0 and "started" not in done.stderr
    assert other.scores() == {
        run.info.run_name: undisturbed.scores()[run.info.run_name] for run in finished(undisturbed)
    }


def test_an_inline_sweep_has_the_same_numbers_and_is_recorded_without_training(undisturbed, tmp_path, ray_folder):
    inline = Sweep(tmp_path / "inline", undisturbed.folder / "spots.yaml", ray_folder)
    asked = (*GOOD, "--only", "method=vae,rme")  # both seeds, so that the arrays are the same
    done = subprocess.run(
        [*inline.command[: inline.command.index("--tracking-uri")], *asked, "--inline"],
        cwd=inline.folder, env=inline.environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ours, theirs = inline.test_scores(), undisturbed.test_scores()
    assert len(ours) == 10 and all(torch.equal(scores, theirs[key]) for key, scores in ours.items())
    recorded = inline.call(*asked, "--record")
    assert recorded.returncode == 0 and "10 of 10 runs are done" in recorded.stderr, recorded.stderr
    assert "started" not in recorded.stderr
    assert_same(inline, undisturbed, part=10)


def test_record_names_what_is_missing(undisturbed, tmp_path, ray_folder):
    empty = Sweep(tmp_path / "empty", undisturbed.folder / "spots.yaml", ray_folder)
    done = empty.call(*GOOD, "--record")
    assert done.returncode == 1 and "0 of 14 runs are done" in done.stderr
    assert "the command without --record continues with the other 14" in done.stderr


def test_a_killed_driver_costs_nothing(undisturbed, dataset, tmp_path, ray_folder, hold):
    """kill -9 in mid-training of four trials: three seeds of a VAE and of the RME(2) that starts from it."""
    grid = write_grid(tmp_path / "spots.yaml", ROWS, dataset=dataset, seed="0-2", **EPOCHS)
    sweep = Sweep(tmp_path / "killed", grid, ray_folder, hold=hold)
    assert stop_in_mid_training(sweep, hold, signal.SIGKILL, ray_folder) == -signal.SIGKILL
    finish(sweep)
    assert_same(sweep, undisturbed, part=6)


def test_a_missing_hook_is_reported_before_anything_starts(undisturbed, monkeypatch):
    monkeypatch.setenv("RME_ON_EPOCH", "no_such_module:note")
    refused = undisturbed.call()
    assert refused.returncode == 2 and "RME_ON_EPOCH=no_such_module:note: ModuleNotFoundError" in refused.stderr
