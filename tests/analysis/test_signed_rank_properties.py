"""Properties of Wilcoxon's test, its interval and Holm's correction, against SciPy and enumerated sign patterns."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.signed_rank import EXACT_UP_TO, holm, location, smallest_p, wilcoxon_greater

WHOLE = st.lists(st.integers(-4, 4).map(float), max_size=9)
"""Differences with many ties and zeros."""
ANY = st.lists(st.floats(-100, 100).map(lambda value: round(value, 3)), max_size=9)


def by_seed(values):
    return dict(enumerate(values))


def zeros(values):
    return by_seed([0.0] * len(values))


def share_of_patterns(difference: np.ndarray) -> tuple[float, float]:
    """W+ and the share of the 2^n sign patterns with at least this W+, with ranks computed from their definition."""
    sizes = np.abs(difference)
    ranks = [(np.sum(sizes < size) + np.sum(sizes <= size) + 1) / 2 for size in sizes]
    statistic = sum(rank for rank, value in zip(ranks, difference, strict=True) if value > 0)
    sums = [np.dot(signs, ranks) for signs in itertools.product([0, 1], repeat=len(ranks))]
    return statistic, float(np.mean(np.array(sums) >= statistic - 1e-9))


@given(values=WHOLE | ANY)
def test_p_is_the_share_of_all_sign_patterns(values):
    found = wilcoxon_greater(by_seed(values), zeros(values))
    left = np.array([value for value in values if value != 0])
    assert (found.n_pairs, found.n_zero) == (len(values), len(values) - len(left))
    if not len(left):
        assert np.isnan(found.p) and np.isnan(found.statistic) and found.note
        return
    statistic, p = share_of_patterns(left)
    assert found.statistic == pytest.approx(statistic) and found.p == pytest.approx(p, rel=1e-12)
    assert found.exact and smallest_p(len(left)) <= found.p <= 1
    assert found.ties == (len(set(np.abs(left))) < len(left))


@given(values=st.lists(st.integers(1, 10**6), min_size=1, max_size=40, unique=True), signs=st.integers(0, 2**40))
def test_without_ties_and_zeros_p_is_scipys_exact_p(values, signs):
    difference = np.array([value if signs >> i & 1 else -value for i, value in enumerate(values)], dtype=float)
    found = wilcoxon_greater(by_seed(difference), zeros(values))
    wanted = scipy.stats.wilcoxon(difference, alternative="greater", method="exact")
    assert not found.ties and found.statistic == wanted.statistic
    assert found.p == pytest.approx(wanted.pvalue, rel=1e-9)


@settings(max_examples=50)
@given(st.lists(st.integers(-30, 30).map(float), min_size=EXACT_UP_TO + 1, max_size=80))
def test_with_many_pairs_p_is_scipys_approximation(values):
    found = wilcoxon_greater(by_seed(values), zeros(values))
    if found.n_pairs - found.n_zero > EXACT_UP_TO:
        wanted = scipy.stats.wilcoxon(values, alternative="greater", zero_method="wilcox", method="approx")
        assert not found.exact and found.p == pytest.approx(wanted.pvalue)
    else:
        assert found.exact


@given(values=WHOLE | ANY, data=st.data())
def test_only_the_pairs_matter(values, data):
    """The result does not depend on the order or scale of the pairs, nor on seeds without a finite score in both."""
    found = wilcoxon_greater(by_seed(values), zeros(values))
    order = data.draw(st.permutations(range(len(values))))
    scale = data.draw(st.sampled_from([0.25, 2.0, 1024.0]))
    best = {seed: scale * values[seed] for seed in order} | {90: 5.0, 91: np.nan, 92: np.inf}
    other = zeros(values) | {91: 1.0, 92: 1.0, 93: 1.0}
    assert str(wilcoxon_greater(best, other)) == str(found)


@given(values=WHOLE | ANY)
def test_the_p_of_both_directions_sum_to_more_than_one(values):
    """P(W+ >= w) + P(W+ <= w) = 1 + P(W+ = w), so the two p sum to more than 1."""
    ours = wilcoxon_greater(by_seed(values), zeros(values))
    theirs = wilcoxon_greater(zeros(values), by_seed(values))
    n = ours.n_pairs - ours.n_zero
    if n:
        assert 1 < ours.p + theirs.p <= 2
        assert ours.statistic + theirs.statistic == pytest.approx(n * (n + 1) / 2)


# ---------------------------------------------------------------------- the interval and the correction
@given(values=st.lists(st.integers(-20, 20).map(float), min_size=1, max_size=12), shift=st.integers(-9, 9))
def test_the_interval_shifts_with_the_scores_and_contains_its_estimate(values, shift):
    found = location(by_seed(values), zeros(values))
    moved = location(by_seed([value + shift for value in values]), zeros(values))
    turned = location(zeros(values), by_seed(values))
    assert (moved.estimate, moved.median) == (found.estimate + shift, found.median + shift)
    assert (turned.estimate, turned.median) == (-found.estimate, -found.median)
    walsh = [(a + b) / 2 for a, b in itertools.combinations_with_replacement(values, 2)]
    assert found.estimate == np.median(walsh)
    if len(values) < 6:
        assert np.isnan(found.low)
    else:
        assert found.low <= found.estimate <= found.high and found.level >= 0.95
        assert (moved.low, moved.high) == (found.low + shift, found.high + shift)
        assert (turned.low, turned.high) == (-found.high, -found.low)


@given(st.lists(st.floats(0, 1) | st.just(float("nan")), max_size=6))
def test_holms_p_is_the_closed_bonferroni_test(p):
    adjusted = holm(np.array(p))
    tested = [i for i, value in enumerate(p) if not np.isnan(value)]
    assert [i for i, value in enumerate(adjusted) if not np.isnan(value)] == tested
    for i in tested:
        sets = [s for size in range(1, len(tested) + 1) for s in itertools.combinations(tested, size) if i in s]
        assert adjusted[i] == pytest.approx(max(min(1, len(s) * min(p[j] for j in s)) for s in sets))
