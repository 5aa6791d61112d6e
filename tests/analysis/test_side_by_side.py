"""Experiments side by side: means and paired differences against numpy and SciPy, and the command line."""

from __future__ import annotations

import csv
import itertools

import numpy as np
import pytest
from scipy import stats

from analysis.collect import collect
from analysis.evidence import write_runs
from analysis.report import main
from analysis.side_by_side import Experiment, compare
from tests.analysis.test_collect import Store

BEFORE = np.array([490.0, 493, 491, 497, 489, 494, 492, 495])
CHANGE = np.array([3.0, 1.5, 4, -0.5, 2, 5, 2.5, 3.5])


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = Store(tmp_path_factory)
    for seed, (score, change) in enumerate(zip(BEFORE, CHANGE, strict=True)):
        store.run("old", "vae", None, seed, score, commit="abc1234")
        store.run("new", "vae", None, seed, score, commit="abc1234")  # the same runs
        store.run("old", "rme", 2, seed, score + 10, stage_learning_rate=1e-6)
        store.run("new", "rme", 2, seed, score + 10 + change, stage_learning_rate=2e-5, commit="def5678")
        store.run("new", "rme", 2, seed, score, dim=20)
    store.run("old", "sa", 1, 0, 480.0)
    store.run("other", "vae", None, 0, 1.0, dim=50)
    return store


@pytest.fixture(scope="module")
def compared(store):
    return compare([Experiment(name, collect(store.uri, name)) for name in ("old", "new")])


def test_each_common_cell_has_both_means_and_the_difference(compared):
    (scores,) = compared.scores
    rows = {row[1]: row for row in scores.rows}
    assert set(rows) == {"VAE", "RME(2)"}
    where, _, old, new, difference, paired, interval, p, pairs = rows["RME(2)"]
    after = BEFORE + 10 + CHANGE
    assert (where, pairs) == ("MNIST d10", "8")
    assert old == f"{BEFORE.mean() + 10:.1f} ± {BEFORE.std(ddof=1):.1f} (8)"
    assert new == f"{after.mean():.1f} ± {after.std(ddof=1):.1f} (8)"
    assert difference == pytest.approx(CHANGE.mean())
    walsh = [(a + b) / 2 for a, b in itertools.combinations_with_replacement(CHANGE, 2)]
    assert paired == pytest.approx(np.median(walsh))
    assert p == f"{stats.wilcoxon(CHANGE, method='exact').pvalue:.2g}" == "0.016"
    # the 4th smallest and largest, as 5 of the 2^8 sign patterns have a rank sum up to 3: 96.1%
    assert interval == f"[{sorted(walsh)[3]:+.2f}, {sorted(walsh)[-4]:+.2f}]"
    assert rows["VAE"][4:6] == [0.0, 0.0] and rows["VAE"][7] == "", "equal runs cannot be tested"
    assert "8 runs are the same in both" in scores.caption
    assert compared.answer == [
        "new against old: 2 cells in common; of the 1 with enough pairs for a test, 1 significantly higher and 0 "
        "significantly lower (p ≤ 0.05, two-sided, paired by seed)."
    ]


def test_what_differs_is_listed_once(compared):
    assert compared.settings.rows == [
        ["stage_learning_rate", "1e-06", "2e-05", "MNIST d10 RME(2)"],
        ["git_commit", "abc1234", "def5678", "MNIST d10 RME(2)"],
    ]


def test_cells_of_one_experiment_are_listed(compared):
    assert compared.alone.rows == [
        ["MNIST d10", "SA(1)", "1 seed", "–"], ["MNIST d20", "RME(2)", "–", "8 seeds"]
    ]  # fmt: skip


def test_three_experiments_are_each_compared_with_the_first(store):
    runs = collect(store.uri, "old")
    found = compare([Experiment("a", runs), Experiment("b", runs), Experiment("c", collect(store.uri, "new"))])
    assert [each.name for each in found.scores] == ["side-by-side-b", "side-by-side-c"]
    assert found.settings.header == ["Setting", "a", "b", "c", "Cells"]
    assert found.settings.rows[0][:4] == ["stage_learning_rate", "1e-06", "1e-06", "2e-05"]


# ---------------------------------------------------------------------- command line
def test_command_line(store, tmp_path, capsys):
    arguments = ["--tracking-uri", store.uri, "--experiment", "old", "--experiment", "new", "--out", str(tmp_path)]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "stage_learning_rate" in said and "new against old" in said
    assert said.rstrip().endswith(f"report: {tmp_path / 'index.html'}")
    names = {"side-by-side", "side-by-side-settings", "side-by-side-alone"}
    files = {f"{name}.{suffix}" for name in names for suffix in ("md", "csv", "tex", "txt")} | {"answer.txt"}
    assert {path.name for path in (tmp_path / "tables").iterdir()} == files
    with (tmp_path / "tables" / "side-by-side.csv").open() as file:
        found = {row["Row"]: float(row["Difference of means"]) for row in csv.DictReader(file)}
    assert found["RME(2)"] == CHANGE.mean()
    assert "new against old" in (tmp_path / "index.html").read_text()


def test_files_of_runs_are_compared_alike(store, tmp_path, capsys):
    for name in ("old", "new"):
        write_runs(collect(store.uri, name), tmp_path / name / "runs.csv")
    files = [str(tmp_path / name / "runs.csv") for name in ("old", "new")]
    assert main(["--runs", files[0], "--runs", files[1], "--out", str(tmp_path / "out")]) == 0
    assert "new against old: 2 cells in common" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--experiment", "old", "--experiment", "nwe"], "no experiment 'nwe'"),
        (["--experiment", "old", "--experiment", "nwe"], "did you mean new?"),
        (["--experiment", "old", "--experiment", "other"], "old and other have no cell in common"),
        (
            ["--experiment", "old", "--experiment", "new", "--where", "seed=77"],
            "old: where seed=77: no finished run has that value",
        ),
    ],
)
def test_what_cannot_be_compared_is_one_line_and_exit_code_2(store, tmp_path, capsys, arguments, message):
    assert main(["--tracking-uri", store.uri, "--out", str(tmp_path / "out"), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--experiment", "old", "--experiment", "old"], "--experiment old is given 2 times"),
        (["--runs", "a.csv", "--runs", "./a.csv"], "a.csv is given 2 times"),
        (["--experiment", "old", "--experiment", "new", "--models"], "--models is of one experiment's report"),
        (["--experiment", "old", "--experiment", "new", "--expected-seeds", "5"], "--expected-seeds is of one"),
        (["--experiment", "old", "--experiment", "new", "--runs", "a.csv"], "--experiment new with --runs"),
    ],
)
def test_options_that_do_not_go_together(tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit) as raised:
        main(["--out", str(tmp_path / "out"), *arguments])
    assert raised.value.code == 2 and message in capsys.readouterr().err
