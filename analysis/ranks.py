"""Comparison of methods over many columns: average ranks, Friedman's test, Nemenyi's critical difference.

Demšar (2006), Statistical comparisons of classifiers over multiple data sets, Journal of Machine Learning Research 7.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from analysis.names import COLUMN, ROW
from analysis.signed_rank import LEVEL
from analysis.stats import KEY_TYPES, summarise


@dataclass(frozen=True)
class Friedman:
    """Friedman's test of the null hypothesis that k rows do not differ over N columns.

    Attributes:
        statistic, p: Friedman's chi-squared with k - 1 degrees of freedom, corrected for ties, and its p.
        f, f_p: Iman and Davenport's F, which is less conservative, with k - 1 and (k - 1)(N - 1) degrees of freedom,
            and its p. Both p are NaN if no ranks of this many rows and columns could give a p of .05.
        note: why p is NaN, in words; else empty.
    """

    statistic: float
    p: float
    f: float
    f_p: float
    note: str = ""


@dataclass(frozen=True)
class RankComparison:
    """Rows sorted by average rank: the data of a critical-difference diagram.

    Attributes:
        rows: best first. Columns: method, order, variant, method_label, average_rank (1 = the highest mean in every
            column).
        columns: the columns that the ranks are averaged over: dataset, dim, decoder.
        left_out_rows, left_out_columns: names of the incomplete ones.
        friedman: test whether the rows differ at all.
        critical_difference: Nemenyi's: rows whose average ranks differ by less are indistinguishable; NaN with fewer
            than two rows or columns.
        groups: the largest sets of neighbours in `rows` that are indistinguishable: (first, last), inclusive.
        level: significance level of the critical difference.
    """

    rows: pd.DataFrame
    columns: pd.DataFrame
    left_out_rows: list[str]
    left_out_columns: list[str]
    friedman: Friedman
    critical_difference: float
    groups: list[tuple[int, int]]
    level: float


def compare_ranks(
    runs: pd.DataFrame, score: str = "test_iwae", expected_seeds: int = 1, level: float = LEVEL
) -> RankComparison:
    """Rank the rows (method, order and variant) within each column by their mean score, and compare the average ranks.

    Ranks need every row in every column. So rows that are complete in no column are left out, and then columns in
    which a remaining row is incomplete. The result names both.

    Args:
        runs: runs of one decoder; one row for each run, as `analysis.collect.collect` returns them.
        score: column of the score; higher is better.
        expected_seeds: how many scores a complete cell has.
        level: significance level of Nemenyi's test.

    Raises:
        ValueError: the runs have more than one decoder; each decoder has its own set of methods.
    """
    if runs["decoder"].nunique() > 1:
        raise ValueError(f"runs of the decoders {' and '.join(sorted(runs['decoder'].unique()))}; rank one at a time")
    cells = summarise(runs, score)
    complete = cells[cells["n"] >= expected_seeds]
    kept = complete[ROW].drop_duplicates()
    left_out_rows = cells.merge(kept, how="left", on=ROW, indicator=True).query("_merge == 'left_only'")
    means = complete.set_index([*COLUMN, *ROW])["mean"].unstack(ROW)
    ranked = means.dropna()
    missing = cells[COLUMN].drop_duplicates().merge(ranked.index.to_frame(index=False), how="left", indicator=True)
    ranks = ranked.rank(axis=1, ascending=False)
    labels = cells.drop_duplicates(ROW)[[*ROW, "method_label"]] if "method_label" in cells else kept
    average = ranks.mean().rename("average_rank").reset_index().astype(KEY_TYPES)
    rows = kept.merge(average, on=ROW).merge(labels, on=ROW).sort_values("average_rank", kind="stable")
    rows = rows[[*ROW, *(["method_label"] if "method_label" in rows else []), "average_rank"]].reset_index(drop=True)
    difference = critical_difference(len(rows), len(ranks), level)
    return RankComparison(
        rows,
        ranked.index.to_frame(index=False),
        sorted(left_out_rows[labels.columns[-1]].astype(str).unique()),
        [f"{c.dataset} d{c.dim}" for c in missing.query("_merge == 'left_only'").itertuples()],
        friedman(ranks.to_numpy()),
        difference,
        [] if rows["average_rank"].isna().any() else groups(rows["average_rank"].to_numpy(), difference),
        level,
    )


def friedman(ranks: np.ndarray) -> Friedman:
    """Friedman's test and Iman and Davenport's F.

    Args:
        ranks: of k rows within each of N columns, with average ranks for ties: (N, k).
    """
    columns, rows = ranks.shape
    if columns < 2 or rows < 2:
        return Friedman(np.nan, np.nan, np.nan, np.nan, "it needs two rows and two columns")
    between = columns * ((ranks.mean(axis=0) - (rows + 1) / 2) ** 2).sum()
    spread = ((ranks - (rows + 1) / 2) ** 2).sum() / (columns * (rows - 1))  # k(k+1)/12 without ties
    if spread == 0:  # all rows tie in every column
        return Friedman(0.0, 1.0, 0.0, 1.0)
    statistic = between / spread
    left = columns * (rows - 1) - statistic
    f = (columns - 1) * statistic / left if left > 1e-9 else np.inf  # all columns rank alike
    least = stats.chi2.sf(columns * (rows - 1), rows - 1)  # p if all columns rank alike
    if least > LEVEL:
        note = f"{rows} rows in {columns} columns cannot give p ≤ {LEVEL}: the smallest is {least:.2g}"
        return Friedman(float(statistic), np.nan, float(f), np.nan, note)
    p = stats.chi2.sf(statistic, rows - 1)
    f_p = stats.f.sf(f, rows - 1, (rows - 1) * (columns - 1))
    return Friedman(float(statistic), float(p), float(f), float(f_p))


def critical_difference(rows: int, columns: int, level: float = LEVEL) -> float:
    """Nemenyi's, q sqrt(k(k+1) / 6N): q is the quantile of the studentised range of k, inf d.o.f., over sqrt(2)."""
    if rows < 2 or columns < 2:
        return np.nan
    q = stats.studentized_range.ppf(1 - level, rows, np.inf) / np.sqrt(2)
    return float(q * np.sqrt(rows * (rows + 1) / (6 * columns)))


def groups(average_ranks: np.ndarray, difference: float) -> list[tuple[int, int]]:
    """The largest groups of at least two neighbours whose average ranks differ by less than `difference`.

    Args:
        average_ranks: ascending: (k,).
        difference: the critical difference; with NaN there are no groups.
    """
    found: list[tuple[int, int]] = []
    for first, rank in enumerate(average_ranks):
        last = int(np.flatnonzero(average_ranks - rank < difference).max(initial=first))
        if last > first and (not found or last > found[-1][1]):
            found.append((first, last))
    return found
