"""Files of runs: they are read back exactly, from MLflow, a storage or other files, and errors name the line."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.entities import Metric

import rme
from analysis import collect as collecting
from analysis.collect import collect, curves
from analysis.curve_frame import curve_frame
from analysis.evidence import curves_path, merge, read_points, read_runs, runs_csv, write_runs
from analysis.report import build_report, main, report_of_file
from analysis.runs import AmbiguousRuns, CollectError
from rme import RunSpec
from rme.timing import Timing, TimingSpec
from tests import ROOT
from tests.analysis.test_collect import Store
from tests.databases import blank_database
from tests.sweeping import SMALL
from tests.tiny import write_npz
from tune.record.tracking import Tracker
from tune.store.storage import Storage


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A sweep of nineteen runs with values that a CSV file could get wrong: commas, quotes, NaN, tiny numbers."""
    store = Store(tmp_path_factory)
    rng = np.random.default_rng(3)
    for seed in range(6):
        common = {"label": 'My "set", the first', "dataset": "/data/my set.npz"}
        tags = {
            "starts_from": "vae",
            "kept_epoch": str(seed),
            "updates": "6",
            "parameters": "1234567",
            "command": "a 'b'",
        }
        store.run("sweep", "vae", None, seed, 100 + rng.normal(), **common)
        store.run("sweep", "vae-more", None, seed, 1e-17 + 103 + rng.normal(), tags=tags, keep="best", **common)
        run = store.run("sweep", "rme", 2, seed, 102 + rng.normal(), tags=tags, keep="best", **common)
        for epoch in range(1, 4):
            values = {"val_elbo": 1 / 3 + epoch, "kl_1": 2.0 * epoch, "alpha_0": 0.5, "loss_q": 7.0}
            points = [Metric(f"train/{name}", value, 1000 * epoch, epoch) for name, value in values.items()]
            store.client.log_batch(run, metrics=points)
    store.run("sweep", "rme", 2, 0, float("nan"), variant="kl 20, ε", kl_max=20.0, **common)
    return store


def collected(path, *arguments):
    assert collecting.main([*map(str, arguments), "--out", str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def file(store, tmp_path_factory):
    path = tmp_path_factory.mktemp("evidence") / "study" / "runs.csv"
    return collected(path, "--experiment", "sweep", "--tracking-uri", store.uri)


def without_mlflow_ids(frame):
    return frame.drop(columns=["mlflow_run_id", "mlflow_parent_id", "curves", "epochs_before"])


def test_read_runs_returns_what_was_written(store, file):
    ours = collect(store.uri, "sweep")
    pd.testing.assert_frame_equal(without_mlflow_ids(read_runs(file)), without_mlflow_ids(ours), check_exact=True)
    pd.testing.assert_frame_equal(
        curve_frame(read_points(curves_path(file)), read_runs(file)), curves(store.uri, "sweep"), check_exact=True
    )
    assert len(file.read_text().splitlines()) == 1 + len(ours) == 20
    assert runs_csv(read_runs(file)) == file.read_text()


def test_where_selects_runs(store, file, tmp_path):
    chosen = collected(tmp_path / "a.csv", "--runs", file, "--where", "variant=kl 20, ε")
    assert read_runs(chosen)["method_label"].tolist() == ["RME(2), kl 20, ε"]
    assert read_points(curves_path(chosen)).empty
    assert read_runs(file, {"kl_max": "20"})["variant"].tolist() == ["kl 20, ε"]
    with pytest.raises(CollectError, match="where klmax=1: no run has that field"):
        read_runs(file, {"klmax": "1"})


# ---------------------------------------------------------------------- the report from a file
def test_report_of_a_file_equals_report_of_its_experiment(store, file, tmp_path):
    of_store = build_report("sweep", tmp_path / "store", store.uri)
    assert main(["--runs", str(file), "--out", str(tmp_path / "file")]) == 0
    names = {path.relative_to(tmp_path / "store") for path in of_store.files}
    assert {path.parent.name for path in names} == {"", "tables", "figures"} and Path("tables/answer.txt") in names
    assert any(path.name.startswith("val_elbo-by-epoch") for path in names)  # the curves were read too
    for name in names - {Path("index.html")}:
        assert (tmp_path / "file" / name).read_bytes() == (tmp_path / "store" / name).read_bytes(), name
    found = {path.relative_to(tmp_path / "file") for path in (tmp_path / "file").rglob("*.*")}
    assert found - {Path("fingerprint.txt")} == names  # the fingerprint names the runs' origin


def test_page_depends_only_on_the_file(file, tmp_path):
    """The same page from another process, time zone and folder, with the lines in another order."""
    moved = tmp_path / "moved" / "study"
    moved.mkdir(parents=True)
    header, *lines = file.read_text().splitlines(keepends=True)
    (moved / "runs.csv").write_text("".join([header, *lines[::-1]]))
    command = [
        sys.executable,
        "-m",
        "analysis.report",
        "--runs",
        moved / "runs.csv",
        "--no-figures",
        "--out",
        moved / "out",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={"TZ": "Asia/Tokyo"})
    assert done.returncode == 0, done.stderr
    report_of_file(file, tmp_path / "here", draw=False)
    for path in (moved / "out").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "here" / path.relative_to(moved / "out")).read_bytes(), path


@pytest.mark.parametrize("study", sorted(ROOT.glob("docs/results/*/runs.csv")), ids=lambda path: path.parent.name)
def test_a_committed_study_has_the_tables_of_its_runs(study, tmp_path):
    report_of_file(study, tmp_path, draw=False)
    made, kept = (
        {path.name: path.read_bytes() for path in (folder / "tables").iterdir()} for folder in (tmp_path, study.parent)
    )
    assert kept == made


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--runs", "none.csv"], "none.csv does not exist"),
        (
            ["--runs", "FILE", "--where", "seed=99"],
            "where seed=99: no finished run has that value; valid values are 0, 1",
        ),
    ],
)
def test_errors_are_one_line_and_exit_code_2(file, tmp_path, capsys, arguments, message):
    arguments = [str(file) if word == "FILE" else word for word in arguments]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments", [[], ["--runs", "a.csv", "--models"]], ids=["no source", "models of a file"])
def test_malformed_arguments(arguments, capsys):
    with pytest.raises(SystemExit) as raised:
        main([*arguments, "--out", "x"])
    assert raised.value.code == 2 and "--experiment E" in capsys.readouterr().err


# ---------------------------------------------------------------------- invalid files
HEADER = "run_key,method,order,dataset,dim,decoder,seed,method_label,dataset_label,test_iwae,start_time\n"
LINE = "k0,vae,,mnist,10,conv,0,VAE,MNIST,1.5,2026-01-02T03:04:05+00:00\n"


def test_required_columns_are_enough(tmp_path):
    (tmp_path / "a.csv").write_text(HEADER + LINE)
    (run,) = read_runs(tmp_path / "a.csv").to_dict("records")
    assert (run["test_iwae"], run["dim"], run["start_time"]) == (1.5, 10, pd.Timestamp("2026-01-02T03:04:05Z"))
    assert pd.isna(run["order"]) and pd.isna(run["variant"]) and pd.isna(run["stage_epochs"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        (HEADER.replace("decoder,", "").replace("seed,", ""), "has no column decoder, seed"),
        (HEADER.replace("test_iwae", "dim"), "has the column dim more than once"),
        (HEADER + LINE + "k1,vae,,mnist,10\n", "line 3: 5 fields where the header has 11"),
        (HEADER + LINE.replace(",10,", ",ten,"), "line 2: dim='ten' is not a whole number"),
        (HEADER + LINE.replace(",1.5,", ",much,"), "line 2: test_iwae='much' is not a number"),
        (HEADER + LINE.replace("2026-01", "soon"), "line 2: start_time='soon-02T03:04:05.00:00' is not a time"),
        (HEADER + LINE + LINE, "line 3: run k0 is already on line 2"),
        (HEADER + LINE.replace("k0", ""), "line 2: run_key is missing"),
        (HEADER + LINE + '"k1,vae\n', "line 3: unexpected end of data"),
        (HEADER + "\x00", "line 2: "),
    ],
)
def test_invalid_runs(tmp_path, text, message):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(CollectError, match=message) as raised:
        read_runs(tmp_path / "a.csv")
    assert str(tmp_path / "a.csv") in str(raised.value) and "\n" not in str(raised.value)


def test_invalid_curves(file, tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text(file.read_text())
    curves_path(path).write_text("run_key,metric,component,epoch,value\nk0,kl,1,1,2.0\nk0,kl,1,x,2.0\n")
    with pytest.raises(CollectError, match=r"runs.curves.csv, line 3: epoch='x' is not a whole number"):
        report_of_file(path, tmp_path / "out")


def test_two_settings_in_one_cell_are_refused(tmp_path):
    other = LINE.replace("k0", "k1").replace(",0,", ",1,").strip() + ",9\n"
    (tmp_path / "a.csv").write_text(HEADER.strip() + ",kl_max\n" + LINE.strip() + ",8\n" + other)
    with pytest.raises(AmbiguousRuns, match=r"kl_max 8 or 9.*--where kl_max=8; .* a `variant`"):
        read_runs(tmp_path / "a.csv")
    assert read_runs(tmp_path / "a.csv", {"kl_max": "9"})["seed"].tolist() == [1]


# ---------------------------------------------------------------------- merging
def test_merged_parts_equal_the_whole(file, tmp_path):
    parts = [
        collected(tmp_path / f"{name}.csv", "--runs", file, "--where", f"method={name}")
        for name in ("rme", "vae", "vae-more")
    ]
    twice = [*parts, parts[1]]
    whole = collected(tmp_path / "whole.csv", *(word for part in twice for word in ("--runs", part)))
    assert whole.read_text() == file.read_text()
    assert curves_path(whole).read_text() == curves_path(file).read_text()


def test_merge_keeps_the_newest_of_a_run_in_two_sources():
    one = pd.DataFrame({"run_key": ["a"], "method": "vae", "order": None, "dataset": "mnist", "dim": 10,
                        "decoder": "conv", "seed": 0, "start_time": pd.Timestamp("2026-01-01", tz="UTC"),
                        "test_iwae": 1.0})  # fmt: skip
    other = one.assign(start_time=pd.Timestamp("2026-01-02", tz="UTC"), test_iwae=2.0)
    point = {"metric": "val_elbo", "component": pd.NA, "epoch": 1}
    points = [pd.DataFrame([{"run_key": "a", **point, "value": value}]) for value in (3.0, 4.0)]
    for order in (1, -1):
        runs, found = merge([(one, points[0]), (other, points[1])][::order])
        assert runs["test_iwae"].tolist() == [2.0] and found["value"].tolist() == [4.0]


# ---------------------------------------------------------------------- from a storage
@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A VAE, a variant of RME(2), SVI(10) and a timing, in MLflow and in a storage."""
    folder = tmp_path_factory.mktemp("swept")
    path = write_npz(folder / "spots.npz")
    common = {"dataset": str(path), **SMALL, "restarts": 2}
    vae = rme.fit(RunSpec.of({"method": "vae", **common}))
    mixture = rme.fit(RunSpec.of({"method": "rme", "order": 2, "variant": "kl 5", **common}), parent=vae)
    svi = rme.fit(RunSpec.of({"method": "svi", "order": 10, **common}), parent=vae)
    spec = TimingSpec.of({"method": "vae", "dataset": str(path), "dim": 2, "repeats": 2})
    times = (torch.tensor(values, dtype=torch.float64) for values in ([1.0, 1.5], [1.0, 1.0]))
    timing = Timing(spec, *times, vae.environment)
    tracker = Tracker(blank_database(folder / "mlflow.db"), "swept")
    storage = Storage(folder / "storage")
    for result in (vae, mixture, svi):
        result.save(storage.run_folder(result.spec.key))
        tracker.record(result)
    timing.save(storage.run_folder(spec.key))
    tracker.record_timing(timing)
    return tracker.uri, storage, mixture


def test_storage_and_mlflow_give_the_same_runs(swept, tmp_path):
    uri, storage, mixture = swept
    of_mlflow = collected(tmp_path / "mlflow.csv", "--experiment", "swept", "--tracking-uri", uri)
    of_storage = collected(tmp_path / "storage.csv", "--storage", storage.root)
    a, b = read_runs(of_mlflow), read_runs(of_storage)
    unknown = ["git_commit", "command", "start_time"]  # a storage has only the last, and only of trainings
    pd.testing.assert_frame_equal(a.drop(columns=unknown), b.drop(columns=unknown), check_exact=True)
    trained = a["method"].isin(["vae", "rme"]) & a["ratio_to_vae"].isna()
    assert trained.sum() == 2 and (a["start_time"] == b["start_time"])[trained].all()
    assert curves_path(of_mlflow).read_text() == curves_path(of_storage).read_text()
    assert "elbo_q,1,2," in curves_path(of_storage).read_text()
    run = b.set_index("method_label").loc["RME(2), kl 5"]
    assert run["test_iwae"] == mixture.metrics["test/iwae"] and run["kept_epoch"] == mixture.kept_epochs[mixture.chosen]
    assert (run["starts_from"], run["updates"]) == ("vae", 4)  # q_0, q_1, its impact, the decoder
    assert run["parameters"] == sum(parameter.numel() for parameter in mixture.method.parameters())
    svi = b.set_index("method_label").loc["SVI(10)"]
    assert (svi["updates"], svi["kept_epoch"]) == (0, 0) and pd.isna(svi["stage_epochs"])
    both = collected(tmp_path / "both.csv", "--storage", storage.root, "--experiment", "swept", "--tracking-uri", uri)
    assert read_runs(both)["run_key"].tolist() == a["run_key"].tolist()


def test_a_storage_without_results_of_this_version(swept, tmp_path, caplog, capsys):
    _, storage, mixture = swept
    arguments = ["--storage", str(tmp_path), "--out", str(tmp_path / "a.csv")]
    assert collecting.main(arguments) == 2 and "is no storage of a sweep" in capsys.readouterr().err
    mixture.save(tmp_path / "runs" / "0123456789abcdef")  # a key of an earlier version
    assert collecting.main(arguments) == 2 and "no finished run was found" in capsys.readouterr().err
    assert "passed over" in caplog.text and "0123456789abcdef" in caplog.text
    whole = next((storage.root / "runs").glob("*/*.safetensors"))
    (tmp_path / "runs" / "f").mkdir()
    (tmp_path / "runs" / "f" / whole.name).write_bytes(whole.read_bytes()[:-9])
    assert collecting.main(arguments) == 2
    error = capsys.readouterr().err
    assert str(tmp_path / "runs" / "f" / whole.name) in error and error.count("\n") == 1


def test_the_newest_result_of_two_storages_is_kept(swept, tmp_path):
    """In either order of the sources."""
    _, storage, mixture = swept
    later = replace(mixture, finished_at=mixture.finished_at + 60, test_iwae=mixture.test_iwae + 1)
    later.save(tmp_path / "runs" / mixture.spec.key)
    path = collected(tmp_path / "a.csv", "--storage", tmp_path, "--storage", storage.root)
    run = read_runs(path).set_index("method_label").loc["RME(2), kl 5"]
    assert run["test_iwae"] == later.metrics["test/iwae"]


def test_write_runs_creates_folders_and_reports_what_it_cannot_write(store, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    arguments = ["--experiment", "sweep", "--tracking-uri", store.uri, "--out", str(tmp_path / "file" / "a.csv")]
    assert collecting.main(arguments) == 2 and capsys.readouterr().err.count("\n") == 1
    write_runs(collect(store.uri, "sweep"), tmp_path / "new" / "a.csv")
    assert (tmp_path / "new" / "a.csv").is_file()


def test_merge_refuses_two_scores_for_one_recording(store, tmp_path):
    own = collected(tmp_path / "a.csv", "--experiment", "sweep", "--tracking-uri", store.uri, "--no-curves")
    runs = read_runs(own)
    key = runs.loc[runs["method"] == "vae", "run_key"].iloc[0]
    other = runs.assign(test_iwae=runs["test_iwae"].where(runs["run_key"] != key, 7.5))
    nothing = read_points(tmp_path / "none.csv")
    with pytest.raises(CollectError, match=rf"{key}.*two values of test_iwae.*7\.5"):
        merge([(runs, nothing), (other, nothing)])
    merged, _ = merge([(runs, nothing), (runs, nothing)])
    assert runs_csv(merged) == runs_csv(runs)
