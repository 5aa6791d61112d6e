"""The signed-rank test of paired scores, and how large their difference is, with an exact interval."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd
from scipy import stats

LEVEL = 0.05
"""A comparison is shown only if it has enough pairs for a p as small as this; an interval covers 1 - LEVEL or more."""

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
    difference = paired(best, other)
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


def _exact_p(ranks: np.ndarray, statistic: float) -> float:
    """P(W+ >= statistic) when each rank is counted with probability one half."""
    doubled = np.rint(2 * ranks).astype(int)  # average ranks are halves, so these are whole
    patterns = np.zeros(doubled.sum() + 1, dtype=np.int64)  # sign patterns for each value of 2 W+; up to 2^50
    patterns[0] = 1
    for rank in doubled:
        patterns[rank:] += patterns[:-rank].copy()
    return float(patterns[round(2 * statistic) :].sum() / 2 ** len(ranks))


@dataclass(frozen=True)
class Location:
    """How large a paired difference is.

    Attributes:
        n_pairs: seeds that both have.
        median: of the differences, nats; NaN without a pair.
        estimate: Hodges and Lehmann's, nats: the median of the Walsh averages (d_i + d_j) / 2, i <= j.
        low, high: the ends of its interval, nats; NaN where n_pairs is too small for the level.
        level: the confidence that the interval attains, at least what was asked for; NaN without one.
    """

    n_pairs: int
    median: float
    estimate: float
    low: float
    high: float
    level: float


def location(a: Mapping[int, float] | pd.Series, b: Mapping[int, float] | pd.Series, level: float = 0.95) -> Location:
    """How much greater `a` is than `b`, paired by seed: median, Hodges-Lehmann estimate and confidence interval.

    With the Walsh averages in order, the interval goes from the (t+1)-th smallest to the (t+1)-th largest, where t is
    the largest number with P(W+ <= t) <= (1 - level) / 2, W+ being the signed-rank statistic of n differences without
    ties (Hollander, Wolfe and Chicken, Nonparametric Statistical Methods, sections 3.2 and 3.3). It is exact at every
    n, its level moves in steps, and under ties it covers at least that. Differences of zero are kept.

    Args:
        a: score in nats of each seed; seeds that only one of the two has are left out.
        b: likewise.
        level: two-sided confidence asked for; .95 needs 6 pairs.

    Raises:
        ValueError: a level that is not between 0 and 1.
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
    """P(W+ = t) for t = 0 .. n(n+1)/2: the sum of ranks 1..n, each of which is counted with probability one half."""
    probabilities = np.zeros(n * (n + 1) // 2 + 1)
    probabilities[0] = 1
    for rank in range(1, n + 1):
        shifted = np.concatenate([np.zeros(rank), probabilities[:-rank]])
        probabilities = (probabilities + shifted) / 2
    return probabilities


def holm(p: np.ndarray | pd.Series) -> np.ndarray:
    """Holm's (1979) step-down adjustment of the p of one family: reject what is at most .05 and err once in .05.

    The i-th smallest of m becomes the largest of (m - j + 1) p_(j) over j <= i, at most 1. It needs no independence.
    A NaN was not tested, is no member of the family, and stays NaN.
    """
    p = np.asarray(p, dtype=float)
    adjusted = np.full(p.shape, np.nan)
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)))
    return adjusted


def paired(a: Mapping[int, float] | pd.Series, b: Mapping[int, float] | pd.Series) -> np.ndarray:
    """a - b of the seeds that have a finite score in both."""
    other = _by_seed(b)  # a dict: thousands of cells are compared, and aligning two series takes a millisecond
    return np.array([score - other[seed] for seed, score in _by_seed(a).items() if seed in other], dtype=float)


def _by_seed(scores: Mapping[int, float] | pd.Series) -> dict[object, float]:
    return {seed: float(score) for seed, score in scores.items() if not pd.isna(score) and np.isfinite(score)}
