"""Tables 4 and 6, from timings that are recorded in MLflow as a sweep does."""

from __future__ import annotations

import csv
import io
import re

import pytest
import torch

from analysis import render
from analysis.collect import collect
from analysis.report import build_report, main
from analysis.time_tables import is_timing, summarise_times, time_findings, time_tables
from rme.timing import Timing, TimingSpec
from tests.analysis.test_collect import Store
from tune.record.tracking import Tracker

# (..., ms, the VAE's ms), each of two repeats; the ratio is the median of the repeats' ratios
TIMINGS = [
    ("vae", None, "mnist", 50, "conv", [2.0, 2.0], [2.0, 2.0]),
    ("vae", None, "svhn", 50, "conv", [1.0, 1.0], [1.0, 1.0]),
    ("rme", 2, "mnist", 50, "conv", [2.5, 2.7], [2.0, 2.0]),
    ("rme", 2, "svhn", 50, "conv", [1.5, 1.5], [1.0, 1.0]),
    ("sa", 8, "mnist", 50, "conv", [30.0, 30.0], [2.0, 2.0]),
    ("rme", 2, "mnist", 10, "conv", [3.0, 3.0], [2.0, 2.0]),  # only in the parentheses of Table 6
    ("rme", 2, "mnist", 10, "fc", [4.0, 4.2], [2.0, 2.0]),
    ("rme", 2, "mnist", 50, "fc", [4.5, 4.5], [2.0, 2.0]),
    ("vlae", 4, "mnist", 10, "fc", [9.0, 9.0], [2.0, 2.0]),
]


def record(store, experiment, timings, device="NVIDIA H200"):
    tracker = Tracker(store.uri, experiment)
    for method, order, dataset, dim, decoder, ms, vae_ms in timings:
        about = {"method": method, "order": order, "dataset": dataset, "dim": dim, "decoder": decoder, "repeats": 2}
        environment = {"device": device, "torch": torch.__version__}
        times = (torch.tensor(values, dtype=torch.float64) for values in (ms, vae_ms))
        tracker.record_timing(Timing(TimingSpec.of(about), *times, environment))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = Store(tmp_path_factory)
    record(store, "timing", TIMINGS)
    return store


@pytest.fixture(scope="module")
def runs(store):
    return collect(store.uri, "timing")


@pytest.fixture(scope="module")
def tables(runs):
    return {table.name: table for table in time_tables(runs)}


def words(text):
    return " ".join(text.split())


def test_mean_and_sd_are_over_the_repeats(runs):
    assert is_timing(runs).all()
    cell = summarise_times(runs).query("method == 'rme' and dataset == 'mnist' and dim == 50 and decoder == 'conv'")
    assert cell[["n", "mean"]].iloc[0].tolist() == [1, pytest.approx(2.6)]
    assert cell["sd"].item() == pytest.approx(0.1 * 2**0.5)
    ratio = summarise_times(runs, "ratio_to_vae").query("method == 'sa'")
    assert ratio["mean"].item() == 15 and ratio["sd"].item() == 0


def test_table_4_has_one_dim_and_table_6_both_decoders(tables):
    assert set(tables) == {f"{score}-{x}" for score in ("inference_ms", "ratio_to_vae") for x in ("conv-d50", "fc")}
    four, six = tables["inference_ms-conv-d50"], tables["inference_ms-fc"]
    assert four.headers == ["MNIST", "SVHN"] and four.corner == "" and four.groups == []
    assert [row.label for row in four.rows] == ["VAE", "SA(8)", "RME(2)"]
    text = words(render.to_text(four))
    assert "VAE 2.0 ± 0.0 1.0 ± 0.0 SA(8) 30.0 ± 0.0 – RME(2) 2.6 ± 0.1 1.5 ± 0.0" in text
    assert six.groups == [("MNIST", 2)] and six.headers == ["10", "50"]
    assert "RME(2) 4.1 ± 0.1 (3.0 ± 0.0) 4.5 ± 0.0 (2.6 ± 0.1)" in words(render.to_text(six))
    assert "VLAE(4) 9.0 ± 0.0 –" in words(render.to_text(six))
    assert "RME(2) 1.30 ± 0.07 1.50 ± 0.00" in words(render.to_text(tables["ratio_to_vae-conv-d50"]))


def test_the_device_is_named_and_nothing_is_coloured(tables):
    for table in tables.values():
        assert "NVIDIA H200" in table.title and "NVIDIA H200" in table.caption and "2 passes" in table.caption
        assert render.legend(table) == [] and "textcolor" not in render.to_latex(table)


def test_csv_has_a_line_for_each_decoder(tables):
    rows = list(csv.DictReader(io.StringIO(render.to_csv(tables["inference_ms-fc"]))))
    found = {(row["label"], row["dim"], row["decoder"]): float(row["mean"]) for row in rows}
    assert found == {
        ("RME(2)", "10", "fc"): pytest.approx(4.1), ("RME(2)", "10", "conv"): 3.0, ("RME(2)", "50", "fc"): 4.5,
        ("RME(2)", "50", "conv"): pytest.approx(2.6), ("VLAE(4)", "10", "fc"): 9.0,
    }  # fmt: skip


def test_devices_are_never_mixed(store):
    record(store, "two", TIMINGS[:1])
    record(store, "two", [("vae", None, "svhn", 50, "conv", [8.0, 8.0], [8.0, 8.0])], device="slow CPU")
    tables = {table.name: table for table in time_tables(collect(store.uri, "two"))}
    assert set(tables) == {
        f"{score}-conv-d50-{device}"
        for score in ("inference_ms", "ratio_to_vae")
        for device in ("nvidia-h200", "slow-cpu")
    }
    assert "8.0" not in render.to_text(tables["inference_ms-conv-d50-nvidia-h200"])
    assert "8.0 ± 0.0" in render.to_text(tables["inference_ms-conv-d50-slow-cpu"])


def test_findings(runs):
    assert time_findings(runs) == [
        "On NVIDIA H200, inference takes these multiples of the VAE's time: SA 15, RME 1.3 to 2.2, VLAE 4.5."
    ]
    assert time_findings(runs[runs["method"] == "vae"]) == ["On NVIDIA H200, only the VAE was timed."]


# ---------------------------------------------------------------------- the report
def test_the_report_of_a_timing_experiment(store, tmp_path, capsys):
    assert main(["--experiment", "timing", "--tracking-uri", store.uri, "--out", str(tmp_path)]) == 0
    printed = words(capsys.readouterr().out)
    assert "SA(8) 30.0 ± 0.0 –" in printed and "held" in printed
    page = (tmp_path / "index.html").read_text()
    text = words(re.sub(r"<[^>]*>", " ", page))
    assert "SA 15, RME 1.3 to 2.2, VLAE 4.5" in text
    assert "RME takes no larger multiple of the VAE&#39;s time" in text and "1.30 − 1.31 = -0.01" in text
    assert "Nothing: no run failed, and every cell has its seeds." in text
    assert "nan" not in page and "hours of training" not in text and "log-likelihood" not in text
    names = {path.name for path in (tmp_path / "tables").iterdir()}
    assert names == {
        f"{name}.{suffix}"
        for name in ("inference_ms-conv-d50", "inference_ms-fc", "ratio_to_vae-conv-d50", "ratio_to_vae-fc",
                     "ratio_to_vae-against-paper", "claims", "claims-counted")
        for suffix in ("md", "csv", "tex", "txt")
    } | {"answer.txt"}  # fmt: skip


def test_a_timing_that_failed_is_missing(store, tmp_path):
    record(store, "partial", TIMINGS[:3])
    store.run("partial", "rme", 2, 0, dim=50, dataset="svhn", label="SVHN", status="FAILED", failure="lost node")
    report = build_report("partial", tmp_path, store.uri)
    text = words(re.sub(r"<[^>]*>", " ", report.index.read_text()))
    assert "SVHN d50 RME(2) n=0/1 0" in text and "lost node" in text
    (table,) = [table for table in report.tables if table.name == "inference_ms-conv-d50"]
    assert "RME(2) 2.6 ± 0.1 –" in words(render.to_text(table))
