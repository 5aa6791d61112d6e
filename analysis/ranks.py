"""Methods compared over many columns at once: average ranks, Friedman's test, Nemenyi's critical difference.

Demšar (2006), Statistical comparisons of classifiers over multiple data sets, Journal of Machine Learning Research 7.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from analysis.signed_rank import LEVEL
from analysis.stats import COLUMN, KEY_TYPES, ROW, summarise


@dataclass(frozen=True)
class Friedman:
    """Whether k rows differ at all, over N columns.

    Attributes:
        statistic: Friedman's chi-squared with k - 1 degrees of freedom, corrected for ties; p: of it.
        f: Iman and Davenport's F, less conservative, with k - 1 and (k - 1)(N - 1) degrees of freedom; f_p: of it.
        note: why there is no p, in words: NaN where no ranks could give one of .05 or less; else empty.
    """

    statistic: float
    p: float
    f: float
    f_p: float
    note: str = ""


@dataclass(frozen=True)
class RankComparison:
    """The rows of a comparison by their average rank: the data of a critical-difference diagram.

    Attributes:
        rows: best first. Columns: method, order, variant, method_label, average_rank (1 = the highest mean in every
            column).
        columns: the columns that count: dataset, dim, decoder.
        left_out_rows, left_out_columns: what is incomplete, in words.
        friedman: whether the rows differ at all.
        critical_difference: Nemenyi's: average ranks closer than this are not told apart; NaN without two of each.
        groups: the largest sets of neighbours in `rows` that are not told apart: (first, last) positions, inclusive.
        level: of the critical difference.
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

    Ranks need every row in every column. So rows that are complete in no column are left out, then the columns in
    which one of the others is not; both are named.

    Args:
        runs: runs of one decoder; one row for each run, as `analysis.collect.collect` gives them.
        score: more is better.
        expected_seeds: scores that make a cell complete.
        level: of Nemenyi's test.

    Raises:
        ValueError: runs of more than one decoder, which have different rivals.
    """
    if runs["decoder"].nunique() > 1:
        raise ValueError(f"runs of the decoders {' and '.join(sorted(runs['decoder'].unique()))}; rank one at a time")
    cells = summarise(runs, score)
    complete = cells[cells["n"] >= expected_seeds]
    kept = complete[ROW].drop_duplicates()
    left_out_rows = cells.merge(kept, how="left", on=ROW, indicator=True).query("_merge == 'left_only'")
    means = complete.set_index([*COLUMN, *ROW])["mean"].unstack(ROW)
    whole = means.dropna()
    missing = cells[COLUMN].drop_duplicates().merge(whole.index.to_frame(index=False), how="left", indicator=True)
    ranks = whole.rank(axis=1, ascending=False)
    labels = cells.drop_duplicates(ROW)[[*ROW, "method_label"]] if "method_label" in cells else kept
    average = ranks.mean().rename("average_rank").reset_index().astype(KEY_TYPES)
    rows = kept.merge(average, on=ROW).merge(labels, on=ROW).sort_values("average_rank", kind="stable")
    rows = rows[[*ROW, *(["method_label"] if "method_label" in rows else []), "average_rank"]].reset_index(drop=True)
    difference = critical_difference(len(rows), len(ranks), level)
    return RankComparison(
        rows,
        whole.index.to_frame(index=False),
        sorted(left_out_rows[labels.columns[-1]].astype(str).unique()),
        [f"{c.dataset} d{c.dim}" for c in missing.query("_merge == 'left_only'").itertuples()],
        friedman(ranks.to_numpy()),
        difference,
        [] if rows["average_rank"].isna().any() else groups(rows["average_rank"].to_numpy(), difference),
        level,
    )


def friedman(ranks: np.ndarray) -> Friedman:
    """Friedman's test, and Iman and Davenport's F of it.

    Args:
        ranks: of k rows within each of N columns, ties averaged: (N, k).
    """
    columns, rows = ranks.shape
    if columns < 2 or rows < 2:
        return Friedman(np.nan, np.nan, np.nan, np.nan, "it needs two rows and two columns")
    between = columns * ((ranks.mean(axis=0) - (rows + 1) / 2) ** 2).sum()
    spread = ((ranks - (rows + 1) / 2) ** 2).sum() / (columns * (rows - 1))  # k(k+1)/12 where nothing is tied
    if spread == 0:  # everything is tied everywhere
        return Friedman(0.0, 1.0, 0.0, 1.0)
    statistic = between / spread
    left = columns * (rows - 1) - statistic
    f = (columns - 1) * statistic / left if left > 1e-9 else np.inf  # all columns agree
    least = stats.chi2.sf(columns * (rows - 1), rows - 1)  # where all columns agree
    if least > LEVEL:
        note = f"{rows} rows in {columns} columns cannot give p ≤ {LEVEL}: the smallest is {least:.2g}"
        return Friedman(float(statistic), np.nan, float(f), np.nan, note)
    p = stats.chi2.sf(statistic, rows - 1)
    f_p = stats.f.sf(f, rows - 1, (rows - 1) * (columns - 1))
    return Friedman(float(statistic), float(p), float(f), float(f_p))


def critical_difference(rows: int, columns: int, level: float = LEVEL) -> float:
    """Nemenyi's: q sqrt(k(k+1) / 6N), q the studentised range's quantile of k and infinity, over the root of two."""
    if rows < 2 or columns < 2:
        return np.nan
    q = stats.studentized_range.ppf(1 - level, rows, np.inf) / np.sqrt(2)
    return float(q * np.sqrt(rows * (rows + 1) / (6 * columns)))


def groups(average_ranks: np.ndarray, difference: float) -> list[tuple[int, int]]:
    """The largest runs of neighbours whose average ranks differ by less than `difference`; no run of one.

    Args:
        average_ranks: ascending: (k,).
        difference: the critical one; NaN gives no group.
    """
    found: list[tuple[int, int]] = []
    for first, rank in enumerate(average_ranks):
        last = int(np.flatnonzero(average_ranks - rank < difference).max(initial=first))
        if last > first and (not found or last > found[-1][1]):
            found.append((first, last))
    return found
