"""`--register NAME`: which run's model becomes a version, that it becomes one once, and what is refused before."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient
from rich.console import Console

import rme
from analysis.recorded_model import model_file
from rme import RunSpec
from tests.databases import blank_database
from tests.sweeping import SMALL, Sweep, write_grid
from tests.tiny import write_npz
from tune.command_line import check_together, options_of, parse
from tune.plan import grid as grids
from tune.plan.grid import GridError
from tune.plan.grid_options import chosen_grid
from tune.record.register import RegisterError, check_one_cell, register_best
from tune.record.tracking import Tracker
from tune.run import driver
from tune.store.failure import Failure
from tune.store.storage import Storage

BEST = 1
"""The seed whose validation IWAE is highest; its test IWAE is not."""


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    path = write_npz(tmp_path_factory.mktemp("data") / "spots.npz")
    return rme.fit(RunSpec.of({"method": "vae", "dataset": str(path), **SMALL, "epochs": 1}))


@pytest.fixture(scope="module")
def results(result):
    """Of three seeds, with made-up scores."""
    return [
        replace(
            result,
            spec=result.spec.model_copy(update={"seed": seed}),
            val_iwae=result.val_iwae + float(seed == BEST),
            test_iwae=result.test_iwae - float(seed == BEST),
        )
        for seed in range(3)
    ]


@pytest.fixture(scope="module")
def uri(tmp_path_factory) -> str:
    return blank_database(tmp_path_factory.mktemp("mlflow") / "mlflow.db")


def versions(uri: str, name: str) -> list:
    return sorted(MlflowClient(uri).search_model_versions(f"name = '{name}'"), key=lambda v: int(v.version))


def test_the_best_run_by_validation_becomes_a_version_once(results, uri):
    tracker = Tracker(uri, "best")
    specs = [result.spec for result in results]
    assert register_best(uri, "best", specs, "best") is None and register_best(uri, "none", specs, "best") is None
    tracker.record(results[0])
    first = register_best(uri, "best", specs, "best")
    assert first is not None and first.new
    assert (first.uri, first.run_name, first.recorded) == ("models:/best/1", "spots d3 VAE seed 0", 1)
    for result in results[1:]:
        tracker.record(result)
    for new in (True, False):
        found = register_best(uri, "best", specs, "best")
        assert found is not None and (found.uri, found.new, found.recorded) == ("models:/best/2", new, 3)
    _, version = versions(uri, "best")
    assert version.tags == {"run_key": specs[BEST].key}
    assert "spots d3 VAE" in version.description and "seed 1" in version.description
    assert f"{results[BEST].test_iwae.mean().item():.2f} nats" in version.description
    assert model_file("models:/best/2", uri).spec == specs[BEST]
    assert register_best(uri, "best", [specs[2]], "best").run_name == "spots d3 VAE seed 2", "only those asked for"


def test_a_run_that_an_earlier_version_recorded_is_refused(results, uri):
    tracker = Tracker(uri, "early")
    tracker.record(results[0])
    (run,) = tracker.finished()
    folder = Path(run.info.artifact_uri.removeprefix("file://"))
    (folder / "model").rename(folder / "elsewhere")
    with pytest.raises(RegisterError, match=r"earlier version.*--experiment"):
        register_best(uri, "early", [results[0].spec], "early")
    assert versions(uri, "early") == []


def test_a_name_that_mlflow_refuses_is_named_in_one_line(results, uri):
    Tracker(uri, "refused").record(results[0])
    MlflowClient(uri).register_prompt("greeting", "Hello")
    with pytest.raises(RegisterError, match=r"^--register greeting: MLflow has a prompt of this name"):
        register_best(uri, "refused", [results[0].spec], "greeting")


def test_several_cells_are_named():
    cells = [RunSpec(method="vae", dataset="digits", dim=dim, seed=seed) for dim in range(1, 16) for seed in (0, 1)]
    check_one_cell("x", cells[:2])
    with pytest.raises(RegisterError, match=r"--register x.*has 2: digits d1 VAE, digits d2 VAE; .*--only"):
        check_one_cell("x", cells[:4])
    with pytest.raises(RegisterError, match=r"has 15: .* d12 VAE and 3 more;"):
        check_one_cell("x", cells)


# ---------------------------------------------------------------------- the command
@pytest.fixture
def sweep(result, tmp_path) -> Sweep:
    """A sweep of two cells, of which nothing is trained."""
    rows = [{"method": "vae"}, {"method": "rme", "order": 2}]
    grid = write_grid(tmp_path / "spots.yaml", rows, dataset=result.spec.dataset, seed="0-2", epochs=1)
    return Sweep(tmp_path / "sweep", grid, tmp_path)


ONE = ("--only", "method=vae", "--record", "--register", "spots")


def store(sweep: Sweep, results: list, count: int) -> None:
    """Leave results of the first seeds on the storage, as a training would."""
    runs = grids.load(str(sweep.folder.parent / "spots.yaml")).runs
    storage = Storage(sweep.storage)
    for spec, result in zip(runs[:count], results, strict=False):
        replace(result, spec=spec).save(storage.run_folder(spec.key))


def carry_out(sweep: Sweep) -> tuple[int, str]:
    """The command with `ONE`, without the report, which takes longer than the rest: its status, and what it says."""
    typed = [*sweep.command[sweep.command.index("--grid") :], *ONE]
    options = replace(options_of(parse(typed)), reports=False)
    grid = chosen_grid(options.grid, options.only, options.overrides, None, None)
    said = io.StringIO()
    done = driver.sweep(options, grid, 2, Storage(options.storage), Console(file=said, width=200))
    return done.status, said.getvalue()


@pytest.mark.slow
def test_the_command_registers_what_it_has_recorded(sweep, results):
    """The best of those that are recorded, when others failed; with all of them, the best of all, once."""
    store(sweep, results, 1)
    cell = grids.load(str(sweep.folder.parent / "spots.yaml")).runs[:3]
    failed, storage, tracker = cell[2], Storage(sweep.storage), Tracker(sweep.tracking, "spots")
    storage.save_failure(failed.key, Failure("loss is NaN", ""))
    status, said = carry_out(sweep)
    assert status == 1
    assert "registered models:/spots/1: spots d3 VAE seed 0, the best of 1 by validation; 2 of the cell's 3" in said
    storage.forget_failure(failed.key)
    store(sweep, results, 3)
    for seed in (1, 2):  # here, because the command would start its process for recording again
        tracker.record(storage.result(cell[seed]))
    status, said = carry_out(sweep)
    assert status == 0 and "registered models:/spots/2: spots d3 VAE seed 1, the best of 3 by validation\n" in said
    status, said = carry_out(sweep)
    assert status == 0 and "models:/spots/2 is registered already: spots d3 VAE seed 1" in said
    assert [version.version for version in versions(sweep.tracking, "spots")] == [1, 2]


def test_without_a_recorded_run_nothing_is_registered(sweep):
    status, said = carry_out(sweep)
    assert status == 1 and "none of the 3 runs of spots d3 VAE is recorded" in said
    assert versions(sweep.tracking, "spots") == []


def test_a_grid_of_several_cells_is_refused_before_anything_starts(sweep, results):
    store(sweep, results, 3)
    done = sweep.call("--record", "--register", "spots")
    assert done.returncode == 2 and "spots d3 VAE, spots d3 RME(2); choose one with --only" in done.stderr
    assert MlflowClient(sweep.tracking).get_experiment_by_name("spots") is None


def test_a_timing_has_no_model(sweep):
    done = sweep.call("--grid", "timing", "--only", "method=vae", "--register", "spots")
    assert done.returncode == 2 and "--register spots: a grid of timings has no models" in done.stderr


@pytest.mark.parametrize("other", [("--inline",), ("--plan",), ("--search", "optuna", "--space", "rme")])
def test_options_that_exclude_it(other):
    asked = parse(["--grid", "demo", "--register", "spots", *other])
    with pytest.raises(GridError, match=f"--register and {other[0]}: give one of them"):
        check_together(asked)


@pytest.mark.parametrize("name", ["a/b", "a:b", "a@b", "it's", ""])
def test_names_that_a_uri_cannot_hold_are_refused(name):
    with pytest.raises(GridError, match=r"^--register "):
        parse(["--grid", "demo", "--register", name])


# ---------------------------------------------------------------------- a server
@pytest.fixture
def server(tmp_path) -> Iterator[str]:
    """The URI of a real tracking server, which keeps the artifacts itself."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--artifacts-destination", str(tmp_path / "files"),
        "--backend-store-uri", blank_database(tmp_path / "server.db"),
    ]  # fmt: skip
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with open(tmp_path / "server.log", "wb") as log:
        process = subprocess.Popen(
            command, env={**os.environ, **quiet}, stdout=log, stderr=log, start_new_session=True, cwd=tmp_path
        )
    uri = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 300
        while True:
            try:
                urllib.request.urlopen(f"{uri}/health", timeout=10).close()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "server.log").read_text()
                time.sleep(0.2)
        yield uri
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.slow
def test_with_a_server(server, results):
    """Recorded, registered and loaded through it, by this project and by MLflow alone."""
    tracker = Tracker(server, "spots")
    for result in results:
        tracker.record(result)
    specs = [result.spec for result in results]
    for new in (True, False):
        found = register_best(server, "spots", specs, "spots")
        assert found is not None and (found.uri, found.new) == ("models:/spots/1", new)
    best = next(run for run in tracker.finished() if run.data.tags["run_key"] == specs[BEST].key)
    for source in ("models:/spots/1", f"runs:/{best.info.run_id}/model"):
        assert model_file(source, server).spec == specs[BEST]
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(server)
    try:
        for source in ("models:/spots/1", f"runs:/{best.info.run_id}/model"):
            model = mlflow.pyfunc.load_model(source)
            scores = model.predict(results[0].test_images.numpy(), params={"k": SMALL["iwae_samples"], "seed": 0})
            np.testing.assert_array_equal(scores, results[0].test_iwae.numpy())
    finally:
        mlflow.set_tracking_uri(before)
