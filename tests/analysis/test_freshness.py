"""A report is written again if its runs, its options or its files have changed, and only then."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from analysis.collect import FAILURE_COLUMNS
from analysis.evidence import read_runs
from analysis.freshness import FINGERPRINT, is_fresh
from analysis.report import report_of
from analysis.runs import frame_of
from tests import ROOT


@pytest.fixture(scope="module")
def runs() -> pd.DataFrame:
    runs = read_runs(ROOT / "docs" / "results" / "mnist-d10" / "runs.csv", None)
    return runs[(runs["seed"] < 2) & runs["method"].isin(["vae", "vae-more"])].reset_index(drop=True)  # to save time


@pytest.fixture
def failed() -> pd.DataFrame:
    return frame_of([], FAILURE_COLUMNS)


@pytest.fixture(scope="module")
def complete(runs, tmp_path_factory) -> Path:
    """The folder of a report with all figures, of which there are none, to save time."""
    out = tmp_path_factory.mktemp("complete")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("analysis.report.figures", lambda *arguments: [])
        report_of(runs, out, "demo")
    return out


@pytest.fixture
def fresh(complete, tmp_path) -> Path:
    """A copy of that report."""
    return shutil.copytree(complete, tmp_path / "report")


def test_a_report_of_the_same_runs_is_fresh(fresh, runs, failed):
    assert is_fresh(fresh, runs, failed, "demo") and is_fresh(fresh, runs.copy(), failed, "demo")


def test_it_is_not_once_a_run_or_a_failure_is_added_or_has_changed(fresh, runs, failed):
    assert not is_fresh(fresh, runs[:-1], failed, "demo")
    assert not is_fresh(fresh, runs.assign(test_iwae=runs["test_iwae"] + 1e-9), failed, "demo")
    failure = pd.DataFrame([dict.fromkeys(FAILURE_COLUMNS, "x")])
    assert not is_fresh(fresh, runs, failure, "demo")
    assert not is_fresh(fresh, runs, failed, "another")


def test_it_is_not_if_it_is_incomplete(fresh, runs, failed, monkeypatch):
    (fresh / "index.html").rename(fresh / "elsewhere.html")
    assert not is_fresh(fresh, runs, failed, "demo")
    (fresh / "elsewhere.html").rename(fresh / "index.html")
    assert is_fresh(fresh, runs, failed, "demo")

    def interrupted(**arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("analysis.report.figures", lambda *arguments: [])
    monkeypatch.setattr("analysis.report.render_page", interrupted)
    with pytest.raises(KeyboardInterrupt):
        report_of(runs, fresh, "demo")
    assert not is_fresh(fresh, runs, failed, "demo") and (fresh / "index.html").exists()


def test_a_report_with_options_is_not_the_sweeps(fresh, runs, failed):
    report_of(runs, fresh, "demo", draw=False)
    assert (fresh / FINGERPRINT).exists() and not is_fresh(fresh, runs, failed, "demo")


def test_a_folder_without_a_report_is_not_fresh(tmp_path, runs, failed):
    assert not is_fresh(tmp_path / "missing", runs, failed, "demo")
    (tmp_path / FINGERPRINT).write_bytes(b"\xff")
    assert not is_fresh(tmp_path, runs, failed, "demo")


def test_the_next_report_in_the_folder_replaces_the_files_of_the_one_before(fresh, runs, failed):
    mine = fresh / "tables" / "mine.csv"
    mine.touch()
    before = {path.name for path in (fresh / "tables").iterdir()}
    vaes = runs[runs["method"] == "vae"].reset_index(drop=True)
    report = report_of(vaes, fresh, "demo", draw=False)
    left = {path.name for path in (fresh / "tables").iterdir()}
    assert left == {path.name for path in report.files if path.parent.name == "tables"} | {mine.name}
    assert before > left and not is_fresh(fresh, vaes, failed, "demo")  # without figures it is not the usual one
