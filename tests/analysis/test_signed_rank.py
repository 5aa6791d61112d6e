"""Estimate and interval of a paired difference, and Holm's correction, against published examples and SciPy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.stats

from analysis.signed_rank import holm, location, paired, signed_rank_probabilities, wilcoxon_greater


def by_seed(values):
    return dict(enumerate(values))


# Hollander, Wolfe and Chicken, Nonparametric Statistical Methods, Example 3.1: Hamilton depression scale factor IV of
# nine patients, before and after a tranquilliser. Examples 3.3 and 3.4: estimate .46, and 96% interval (.010, .786).
BEFORE = [1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30]
AFTER = [0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29]


def test_the_example_of_hollander_and_wolfe():
    found = location(by_seed(BEFORE), by_seed(AFTER))
    assert found.n_pairs == 9 and found.median == pytest.approx(0.49)
    assert found.estimate == pytest.approx(0.46, abs=5e-4)
    assert (found.low, found.high) == (pytest.approx(0.010), pytest.approx(0.786))
    assert round(found.level, 2) == 0.96


@pytest.mark.parametrize("n", [1, 2, 5, 9])
def test_the_null_distribution_is_that_of_all_sign_patterns(n):
    sums = [np.dot(signs, np.arange(1, n + 1)) for signs in itertools.product([0, 1], repeat=n)]
    expected = np.bincount(sums, minlength=n * (n + 1) // 2 + 1) / 2**n
    np.testing.assert_allclose(signed_rank_probabilities(n), expected, rtol=1e-12)


@pytest.mark.parametrize("n", [6, 7, 10, 15, 40])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_the_interval_is_what_scipys_two_sided_test_does_not_reject(n, level):
    difference = np.random.default_rng(n).normal(0.5, 1, n)
    found = location(by_seed(difference), by_seed(np.zeros(n)), level)

    def p(shift):
        return scipy.stats.wilcoxon(difference - shift, method="exact").pvalue

    step = 1e-9
    for inside, outside in ((found.low + step, found.low - step), (found.high - step, found.high + step)):
        assert p(inside) > 1 - level >= p(outside)
        assert p(outside) == pytest.approx(1 - found.level)
    assert found.low < found.estimate < found.high and found.level >= level


def test_shifted_by_the_estimate_the_statistic_has_its_null_mean():
    difference = np.random.default_rng(3).normal(2, 1, 11)
    found = location(by_seed(difference), by_seed(np.zeros(11)))
    null_mean = 11 * 12 / 4
    above, below = (
        scipy.stats.wilcoxon(difference - found.estimate + step, alternative="greater").statistic
        for step in (1e-9, -1e-9)
    )
    assert below <= null_mean <= above


def test_the_interval_has_the_attained_coverage():
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(2000):
        found = location(by_seed(rng.normal(3, 1, 8)), by_seed(np.zeros(8)))
        covered.append(found.low <= 3 <= found.high)
    assert np.mean(covered) == pytest.approx(found.level, abs=3 * np.sqrt(0.05 * 0.95 / 2000))


@pytest.mark.parametrize("n", [1, 5, 6])
def test_too_few_pairs_have_no_interval(n):
    found = location(by_seed(np.arange(1.0, n + 1)), by_seed(np.zeros(n)))
    assert found.estimate == found.median == (n + 1) / 2
    assert np.isnan(found.low) == np.isnan(found.level) == (n < 6)
    if n == 6:  # the full range of differences, at 1 - 2 / 2^6
        assert (found.low, found.high, found.level) == (1, 6, 1 - 2 / 64)


def test_location_pairs_by_seed():
    found = location({1: 10.0, 2: 20.0, 3: np.nan, 9: 5.0}, {2: 17.0, 1: 9.0, 3: 0.0})
    assert (found.n_pairs, found.median) == (2, 2.0)
    assert location({1: 1.0}, {2: 1.0}).n_pairs == 0 and np.isnan(location({}, {}).estimate)


@pytest.mark.parametrize("level", [0, 1, 95])
def test_invalid_levels_are_rejected(level):
    with pytest.raises(ValueError, match=f"level={level}: a confidence must be between 0 and 1"):
        location({}, {}, level)


@pytest.mark.parametrize(("n", "below", "patterns"), [(6, 0, 1), (6, 2, 3), (8, 3, 5), (8, 4, 7), (10, 8, 25)])
def test_a_level_that_can_be_attained_exactly_is(n, below, patterns):
    """`patterns` of the 2^n sign patterns have W+ <= `below`, which the test counts first."""
    subsets = itertools.chain.from_iterable(itertools.combinations(range(1, n + 1), size) for size in range(n + 1))
    assert sum(sum(subset) <= below for subset in subsets) == patterns
    level = 1 - 2 * patterns / 2**n
    difference = np.random.default_rng(n).normal(0, 1, n)
    walsh = sorted((a + b) / 2 for a, b in itertools.combinations_with_replacement(difference, 2))
    found = location(by_seed(difference), by_seed(np.zeros(n)), level)
    assert found.level == level and (found.low, found.high) == (walsh[below], walsh[-1 - below])
    # slightly more confidence gives the next larger interval, or none if this was the largest
    wider = location(by_seed(difference), by_seed(np.zeros(n)), level + 1e-9)
    assert (wider.level > level and wider.low < found.low and wider.high > found.high) if below else np.isnan(wider.low)


def test_without_a_pair_all_estimates_are_nan():
    found = location({1: 1.0}, {2: 1.0})
    assert found.n_pairs == 0
    assert np.isnan([found.median, found.estimate, found.low, found.high, found.level]).all()


@pytest.mark.parametrize("missing", [np.nan, np.inf, -np.inf, None])
def test_scores_that_are_not_finite_make_no_pair(missing):
    full, holed = {1: 10.0, 2: 20.0, 3: 30.0}, {1: 1.0, 2: missing, 3: 4.0}
    np.testing.assert_array_equal(paired(full, holed), [9.0, 26.0])
    np.testing.assert_array_equal(paired(holed, full), [-9.0, -26.0])
    np.testing.assert_array_equal(paired({}, full), [])


# ---------------------------------------------------------------------- Wilcoxon
def test_wilcoxon_in_hollander_and_wolfes_example():
    """Example 3.1: the negative differences have ranks with sum 5, so W+ = 45 - 5 = 40, and P(W+ >= 40) = .020."""
    found = wilcoxon_greater(by_seed(BEFORE), by_seed(AFTER))
    assert found.statistic == 40 and round(found.p, 3) == 0.020


@pytest.mark.parametrize(("n", "method"), [(49, "exact"), (50, "exact"), (51, "asymptotic"), (80, "asymptotic")])
def test_p_is_exact_up_to_fifty_nonzero_differences(n, method):
    """Two equal pairs are added, which do not count; SciPy has only the others."""
    difference = np.random.default_rng(n).normal(0.2, 1, n)
    expected = scipy.stats.wilcoxon(difference, alternative="greater", method=method)
    found = wilcoxon_greater(by_seed([*difference, 0.0, 0.0]), by_seed(np.zeros(n + 2)))
    assert (found.n_pairs, found.n_zero, found.exact) == (n + 2, 2, method == "exact")
    assert found.statistic == expected.statistic and found.p == pytest.approx(expected.pvalue, rel=1e-9)


def test_ties_beyond_the_exact_range():
    difference = np.random.default_rng(0).integers(1, 9, 60) * np.resize([1.0, 1.0, -1.0], 60)
    expected = scipy.stats.wilcoxon(difference, alternative="greater", method="asymptotic")
    found = wilcoxon_greater(by_seed(difference), by_seed(np.zeros(60)))
    assert found.ties and (found.statistic, found.p) == (expected.statistic, expected.pvalue)


@pytest.mark.parametrize(("pairs", "zeros"), [(0, 0), (1, 1), (3, 3)])
def test_without_nonzero_differences_there_is_no_test(pairs, zeros):
    found = wilcoxon_greater(by_seed(np.ones(pairs)), by_seed(np.ones(pairs)))
    assert np.isnan([found.statistic, found.p]).all()
    assert (found.n_pairs, found.n_zero, found.ties, found.exact) == (pairs, zeros, False, True)


# ---------------------------------------------------------------------- Holm
def test_holm_in_demsars_example():
    """Section 3.2.2: p of .016, .019 and .607; Holm's procedure rejects the first two at .05."""
    adjusted = holm([0.607, 0.016, 0.019])
    np.testing.assert_allclose(adjusted, [0.607, 0.048, 0.048])
    assert list(adjusted <= 0.05) == [False, True, True]


def test_holm_is_the_closed_bonferroni_test():
    """The closed test rejects a hypothesis if Bonferroni rejects every set of hypotheses that contains it."""
    rng = np.random.default_rng(0)
    for p in rng.uniform(0, 0.4, (20, 5)):
        for i, adjusted in enumerate(holm(p)):
            sets = [s for size in range(1, 6) for s in itertools.combinations(range(5), size) if i in s]
            assert adjusted == pytest.approx(max(min(1, len(s) * min(p[list(s)])) for s in sets))


def test_holm_ignores_nan():
    np.testing.assert_allclose(holm([np.nan, 0.02, np.nan, 0.03]), [np.nan, 0.04, np.nan, 0.04])
    np.testing.assert_allclose(holm([None, 0.02, None, 0.03]), [np.nan, 0.04, np.nan, 0.04])
    assert np.isnan(holm([np.nan])).all() and holm([]).size == 0
