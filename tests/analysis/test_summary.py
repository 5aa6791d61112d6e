"""What a terminal shows of a report: bounded, and no wider than the terminal."""

from __future__ import annotations

import io

import pandas as pd
import pytest
from rich.console import Console

from analysis.evidence import read_runs
from analysis.summary import MOST_ROWS, WIDTH, print_summary
from tests import ROOT

FINDING = "On MNIST at dim 10, one method has the best scores."


@pytest.fixture(scope="module")
def runs() -> pd.DataFrame:
    """Eight seeds of MNIST at dim 10."""
    return read_runs(ROOT / "docs" / "results" / "mnist-d10" / "runs.csv", None)


@pytest.fixture
def printed(tmp_path):
    """A function that returns the lines printed for some runs, at a width."""
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "answer.txt").write_text(f"{FINDING}\nfurther findings\n")

    def lines(runs: pd.DataFrame, width: int, terminal: bool = True) -> list[str]:
        console = Console(file=io.StringIO(), width=width, force_terminal=terminal, color_system=None)
        print_summary(runs, tmp_path, console)
        assert isinstance(console.file, io.StringIO)
        return [line.rstrip() for line in console.file.getvalue().splitlines()]

    return lines


def of_datasets(runs: pd.DataFrame, count: int) -> pd.DataFrame:
    """The same runs as those of so many data sets."""
    named = [runs.assign(dataset=f"set{i}", dataset_label=f"Set {i}") for i in range(count)]
    return pd.concat(named, ignore_index=True)


def test_the_table_has_each_rows_mean_and_the_finding_follows(runs, printed):
    found = printed(runs, 100)
    for label, scores in runs.groupby("method_label")["test_iwae"]:
        (line,) = (line for line in found if line.strip().startswith(f"{label}  "))
        sd = f" ± {scores.std():.1f}" if len(scores) > 1 else ""
        assert f"{scores.mean():.1f}{sd}" in line
    assert found[-1] == FINDING and max(map(len, found)) <= 100


def test_tables_beyond_the_bound_are_counted(runs, printed):
    runs = runs[runs["seed"] < 2]  # to save time
    rows = runs["method_label"].nunique()
    found = printed(of_datasets(runs, 6), 160)
    shown = sum("Test log-likelihood" in line and "decoder" in line for line in found)
    assert shown == max(1, MOST_ROWS // rows) < 6
    assert f"the report has {6 - shown} tables that do not fit here" in found


def test_a_table_wider_than_the_terminal_is_left_out_and_without_a_terminal_it_is_not(runs, printed):
    runs = runs[runs["seed"] < 2]
    wide = pd.concat([runs.assign(dim=dim) for dim in range(1, 9)], ignore_index=True)
    found = printed(wide, 60)
    assert "the report has 1 table that does not fit here" in found and not any("±" in line for line in found)
    assert any(line.count("±") == 8 for line in printed(wide, 60, terminal=False)) and WIDTH > 60
