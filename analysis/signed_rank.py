"""Wilcoxon's signed-rank test of paired scores, Hodges-Lehmann estimate and exact interval, Holm's correction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd
from scipy import stats

from analysis.words import counted

LEVEL = 0.05
"""Significance level. A p is shown only if its pairs are enough for a p this small."""

EXACT_UP_TO = 50
"""Most pairs for which Wilcoxon's p is exact; beyond, it is the normal approximation."""


@dataclass(frozen=True)
class WilcoxonResult:
    """A one-sided Wilcoxon signed-rank test.

    Attributes:
        statistic: W+, the sum of the ranks of the positive differences.
        p: P(W+ >= statistic) under the null hypothesis that neither is better; NaN without a nonzero difference.
        n_pairs: seeds that both have.
        n_zero: pairs with difference 0, which the test leaves out.
        ties: whether some differences are equally large, so that they share their average rank.
        exact: whether p comes from the exact distribution.
        note: caveats about the test, in words; empty if none.
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

    Pairs with difference 0 are left out (Wilcoxon's rule). Equal differences share their average rank. For up to
    `EXACT_UP_TO` nonzero differences, p is the exact share of the 2^n sign patterns of those ranks.

    Args:
        best: score in nats of each seed.
        other: the same; seeds that only one of the two has are left out.
    """
    difference = paired(best, other)
    nonzero = difference[difference != 0]
    n_pairs, n_zero, n = len(difference), len(difference) - len(nonzero), len(nonzero)
    notes = [f"{n_zero} of {n_pairs} pairs equal, left out"] if n_zero else []
    if n == 0:
        note = f"all {n_pairs} pairs equal" if n_pairs else "no seed in common"
        return WilcoxonResult(np.nan, np.nan, n_pairs, n_zero, ties=False, exact=True, note=note)
    if smallest_p(n) > LEVEL:
        notes.append(f"{counted(n, 'pair')} cannot give p ≤ {LEVEL}: the smallest is {smallest_p(n):g}")
    ranks = stats.rankdata(np.abs(nonzero))
    statistic = float(ranks[nonzero > 0].sum())
    if n <= EXACT_UP_TO:
        p = _exact_p(ranks, statistic)
    else:
        p = float(stats.wilcoxon(nonzero, alternative="greater", method="asymptotic").pvalue)
        notes.append("normal approximation")
    ties = len(np.unique(ranks)) < n
    return WilcoxonResult(statistic, p, n_pairs, n_zero, ties, exact=n <= EXACT_UP_TO, note="; ".join(notes))


def _exact_p(ranks: np.ndarray, statistic: float) -> float:
    """P(W+ >= statistic), W+ being the sum of ranks that are each included with probability 1/2."""
    doubled = np.rint(2 * ranks).astype(int)  # integers: average ranks are multiples of 1/2
    patterns = np.zeros(doubled.sum() + 1, dtype=np.int64)  # how many give each value of 2 W+; up to 2^50
    patterns[0] = 1
    for rank in doubled:
        patterns[rank:] += patterns[:-rank].copy()
    return float(patterns[round(2 * statistic) :].sum() / 2 ** len(ranks))


@dataclass(frozen=True)
class Location:
    """Estimates of a paired difference, with a confidence interval.

    Attributes:
        n_pairs: seeds that both have.
        median: of the differences, nats; NaN without a pair.
        estimate: Hodges-Lehmann estimate, nats: the median of the Walsh averages (d_i + d_j) / 2, i <= j.
        low, high: confidence interval of the estimate, nats; NaN if the pairs are too few for the level.
        level: confidence that the interval attains, at least the level asked for; NaN without an interval.
    """

    n_pairs: int
    median: float
    estimate: float
    low: float
    high: float
    level: float


def location(a: Mapping[int, float] | pd.Series, b: Mapping[int, float] | pd.Series, level: float = 0.95) -> Location:
    """Median, Hodges-Lehmann estimate and confidence interval of the difference a - b, paired by seed.

    The interval goes from the (t+1)-th smallest to the (t+1)-th largest Walsh average, where t is the largest number
    with P(W+ <= t) <= (1 - level) / 2, W+ being the signed-rank statistic of n differences without ties (Hollander,
    Wolfe and Chicken, Nonparametric Statistical Methods, sections 3.2 and 3.3). It is exact for every n; with ties it
    covers at least the attained level, which depends on n in steps. Differences of 0 are included.

    Args:
        a: score in nats of each seed; seeds that only one of the two has are left out.
        b: the same.
        level: two-sided confidence to attain; .95 needs 6 pairs.

    Raises:
        ValueError: the level is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"level={level}: a confidence must be between 0 and 1")
    difference = paired(a, b)
    n = len(difference)
    if n == 0:
        return Location(0, np.nan, np.nan, np.nan, np.nan, np.nan)
    first, second = np.triu_indices(n)
    walsh = np.sort((difference[first] + difference[second]) / 2)
    below = np.cumsum(signed_rank_probabilities(n))  # P(W+ <= t)
    t = int(np.searchsorted(below, (1 - level) / 2 * (1 + 1e-12), side="right")) - 1
    low, high, attained = np.nan, np.nan, np.nan
    if t >= 0:
        low, high, attained = float(walsh[t]), float(walsh[-1 - t]), 1 - 2 * float(below[t])
    return Location(n, float(np.median(difference)), float(np.median(walsh)), low, high, attained)


@cache
def signed_rank_probabilities(n: int) -> np.ndarray:
    """P(W+ = t) for t = 0 .. n(n+1)/2, W+ being the sum of the ranks 1..n, each included with probability 1/2."""
    probabilities = np.zeros(n * (n + 1) // 2 + 1)
    probabilities[0] = 1
    for rank in range(1, n + 1):
        shifted = np.concatenate([np.zeros(rank), probabilities[:-rank]])
        probabilities = (probabilities + shifted) / 2
    return probabilities


def holm(p: np.ndarray | pd.Series) -> np.ndarray:
    """Holm-corrected p (1979) of one family of tests: rejecting those up to .05 errs at all in at most .05.

    The i-th smallest p of m becomes max over j <= i of (m - j + 1) p_(j), at most 1. The tests may be dependent.
    NaN stays NaN: it was not tested and does not count in m.
    """
    p = np.asarray(p, dtype=float)
    adjusted = np.full(p.shape, np.nan)
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)))
    return adjusted


def paired(a: Mapping[int, float] | pd.Series, b: Mapping[int, float] | pd.Series) -> np.ndarray:
    """a - b for each seed with a finite score in both: (n,)."""
    other = _by_seed(b)  # a dict: aligning two series takes a millisecond, and thousands of cells are compared
    return np.array([score - other[seed] for seed, score in _by_seed(a).items() if seed in other], dtype=float)


def _by_seed(scores: Mapping[int, float] | pd.Series) -> dict[object, float]:
    return {seed: float(score) for seed, score in scores.items() if not pd.isna(score) and np.isfinite(score)}
