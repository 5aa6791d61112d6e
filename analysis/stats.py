"""The statistics of the tables: means over seeds, and who is told apart from the best (supplement, section 1.4).

The functions take plain data frames with one row for each run: the columns method, order, dataset, dim, decoder, seed
and a score in nats, where more is better. A score that is not finite counts as missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

CELL = ["method", "order", "dataset", "dim", "decoder"]
"""One number in a table."""

COLUMN = ["dataset", "dim", "decoder"]
"""One column of a table: the cells that are compared with one another."""

LABELS = ["method_label", "dataset_label"]
"""Carried along where they are given."""

LEVEL = 0.05
"""A comparison is shown only if it has enough pairs for a p as small as this."""

EXACT_UP_TO = 50
"""With more pairs than these, Wilcoxon's p is the normal approximation."""


@dataclass(frozen=True)
class WilcoxonResult:
    """A one-sided Wilcoxon signed-rank test.

    Attributes:
        statistic: W+, the sum of the ranks of the positive differences.
        p: P(W+ at least this large) if neither is better; NaN without a pair that differs.
        n_pairs: seeds that both have.
        n_zero: pairs without a difference, which the test leaves out.
        ties: whether some differences are equally large, so that ranks are averaged.
        exact: whether p comes from the exact distribution.
        note: what a reader should know, in words; empty if nothing.
    """

    statistic: float
    p: float
    n_pairs: int
    n_zero: int
    ties: bool
    exact: bool
    note: str


def smallest_p(n: int) -> float:
    """The smallest p that n pairs can give: all n differences positive, one of 2^n equally likely sign patterns."""
    return 2.0**-n


def wilcoxon_greater(best: Mapping[int, float] | pd.Series, other: Mapping[int, float] | pd.Series) -> WilcoxonResult:
    """Test whether `best` is greater than `other`, paired by seed (section 1.4).

    Pairs without a difference are left out (Wilcoxon's rule). Equal differences share their average rank, and p is
    the exact probability over the 2^n sign patterns of those ranks, for up to 50 pairs that differ.

    Args:
        best: score in nats of each seed.
        other: likewise; seeds that only one of the two has are left out.
    """
    pairs = pd.concat([_finite(best), _finite(other)], axis=1, join="inner")
    difference = (pairs.iloc[:, 0] - pairs.iloc[:, 1]).to_numpy(dtype=float)
    nonzero = difference[difference != 0]
    n_pairs, n_zero, n = len(difference), len(difference) - len(nonzero), len(nonzero)
    notes = [f"{n_zero} of {n_pairs} pairs equal, left out"] if n_zero else []
    if n == 0:
        note = f"all {n_pairs} pairs equal" if n_pairs else "no seed in common"
        return WilcoxonResult(np.nan, np.nan, n_pairs, n_zero, ties=False, exact=True, note=note)
    if smallest_p(n) > LEVEL:
        notes.append(f"{n} pair{'' if n == 1 else 's'} cannot give p ≤ {LEVEL}: the smallest is {smallest_p(n):g}")
    ranks = stats.rankdata(np.abs(nonzero))
    statistic = float(ranks[nonzero > 0].sum())
    if n <= EXACT_UP_TO:
        p = _exact_p(ranks, statistic)
    else:
        p = float(stats.wilcoxon(nonzero, alternative="greater", method="asymptotic").pvalue)
        notes.append("normal approximation")
    ties = len(np.unique(ranks)) < n
    return WilcoxonResult(statistic, p, n_pairs, n_zero, ties, exact=n <= EXACT_UP_TO, note="; ".join(notes))


def _finite(scores: Mapping[int, float] | pd.Series) -> pd.Series:
    series = pd.Series(scores, dtype=float)
    return series[np.isfinite(series)]


def _exact_p(ranks: np.ndarray, statistic: float) -> float:
    """P(W+ >= statistic) when each rank is counted with probability one half."""
    doubled = np.rint(2 * ranks).astype(int)  # average ranks are halves, so these are whole
    patterns = np.zeros(doubled.sum() + 1, dtype=np.int64)  # sign patterns for each value of 2 W+; up to 2^50
    patterns[0] = 1
    for rank in doubled:
        patterns[rank:] += patterns[:-rank].copy()
    return float(patterns[round(2 * statistic) :].sum() / 2 ** len(ranks))


def summarise(runs: pd.DataFrame, score: str = "test_iwae") -> pd.DataFrame:
    """Mean and standard deviation of each cell.

    Returns:
        One row for each cell, in the order of its names. Columns: method, order, dataset, dim, decoder, the labels
        that `runs` has, n (runs with a score), mean and sd in nats (sd with n - 1; NaN for n = 1), seeds (a tuple).

    Raises:
        ValueError: a seed occurs twice in a cell.
    """
    labels = [name for name in LABELS if name in runs]
    rows = []
    for key, cell in _cells(runs):
        if cell["seed"].duplicated().any():
            raise ValueError(f"{_name(key)}: a seed occurs twice in {sorted(cell['seed'])}")
        values = _scores(cell, score)
        rows.append(
            dict(zip(CELL, key, strict=True))
            | {name: cell[name].iloc[0] for name in labels}
            | {"n": len(values), "mean": values.mean(), "sd": values.std(ddof=1), "seeds": tuple(values.index)}
        )
    frame = pd.DataFrame(rows, columns=[*CELL, *labels, "n", "mean", "sd", "seeds"])
    return frame.astype({"order": "Int64", "mean": float, "sd": float})


def compare_column(runs: pd.DataFrame, score: str = "test_iwae") -> pd.DataFrame:
    """Compare the cells of one column with the best of them, as the colours of Tables 7-11 do.

    The best is the cell of the highest mean. Each other cell is tested against it by the one-sided Wilcoxon test,
    paired by seed. A p is given only where there are enough pairs for one of .05 or less.

    Args:
        runs: runs of one (dataset, dim, decoder).
        score: name of the score's column, nats.

    Returns:
        The columns of `summarise`, best first, and: rank (1 = the highest mean; NA without a score), is_best,
        p (NaN for the best and where it is not given), n_pairs, note, colour (see `colour_of`; "best" for the best).

    Raises:
        ValueError: the runs belong to more than one column, or a seed occurs twice in a cell.
    """
    columns = runs[COLUMN].drop_duplicates()
    if len(columns) > 1:
        raise ValueError(f"runs of {len(columns)} columns; compare those of one (dataset, dim, decoder) at a time")
    table = summarise(runs, score).sort_values("mean", ascending=False, kind="stable", ignore_index=True)
    scores = {_cell_key(key): _scores(cell, score) for key, cell in _cells(runs)}
    keys = [_cell_key(row) for row in table[CELL].itertuples(index=False, name=None)]
    table["rank"] = table["mean"].rank(ascending=False, method="min").astype("Int64")
    table["is_best"] = (table.index == 0) & (table["n"] > 0)
    tests = []
    for key, is_best, n in zip(keys, table["is_best"], table["n"], strict=True):
        if is_best:
            tests.append((np.nan, n, "", "best"))
            continue
        result = wilcoxon_greater(scores[keys[0]], scores[key])
        p = result.p if smallest_p(result.n_pairs - result.n_zero) <= LEVEL else np.nan
        tests.append((p, result.n_pairs, result.note, colour_of(p)))
    return table.join(pd.DataFrame(tests, columns=["p", "n_pairs", "note", "colour"]))


def colour_of(p: float) -> str:
    """The colour of a p in Tables 7-11: none up to .01, then yellow-orange, orange above .05, red-orange above .1.

    A NaN gives "untested": leaving it without a colour would say that the difference is certain.
    """
    if np.isnan(p):
        return "untested"
    return "" if p <= 0.01 else "yellow-orange" if p <= 0.05 else "orange" if p <= 0.1 else "red-orange"


def paired_difference(runs: pd.DataFrame, score: str = "test_iwae", baseline: str = "vae") -> pd.DataFrame:
    """Each cell's difference from the baseline method of the same column, paired by seed.

    Returns:
        One row for each cell but the baseline's own. Columns: those of the cell and its labels, n (seeds that both
        have), mean and sd of the differences in nats (positive: better than the baseline; NaN without a pair).
    """
    labels = [name for name in LABELS if name in runs]
    rows = []
    for _, column in runs.groupby(COLUMN, dropna=False):
        reference = _scores(column[column["method"] == baseline], score)
        for key, cell in _cells(column[column["method"] != baseline]):
            difference = (_scores(cell, score) - reference).dropna()
            rows.append(
                dict(zip(CELL, key, strict=True))
                | {name: cell[name].iloc[0] for name in labels}
                | {"n": len(difference), "mean": difference.mean(), "sd": difference.std(ddof=1)}
            )
    frame = pd.DataFrame(rows, columns=[*CELL, *labels, "n", "mean", "sd"])
    return frame.astype({"order": "Int64", "mean": float, "sd": float})


def _cells(runs: pd.DataFrame) -> list[tuple[tuple, pd.DataFrame]]:
    """The runs of each cell; a method without order is a cell like any other."""
    return [(tuple(key), cell) for key, cell in runs.astype({"order": "Int64"}).groupby(CELL, dropna=False)]


def _cell_key(key: tuple) -> tuple:
    """A key that equals itself: NA does not."""
    return tuple(None if pd.isna(value) else value for value in key)


def _name(key: tuple) -> str:
    return " ".join(str(value) for value in key if not pd.isna(value))


def _scores(cell: pd.DataFrame, score: str) -> pd.Series:
    """The finite scores of one cell by seed, in the order of the seeds."""
    return _finite(cell.set_index("seed")[score]).sort_index()
