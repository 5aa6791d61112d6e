"""Average ranks against Demšar's worked example and tables, and SciPy."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from analysis.listing import rank_listing, to_text
from analysis.ranks import compare_ranks, critical_difference, friedman, groups

# Demšar (2006), Table 6: ranks of C4.5, C4.5+m, C4.5+cf and C4.5+m+cf on 14 data sets
DEMSAR = np.array(
    [
        [4, 3, 2, 1], [1, 2, 3, 4], [4, 1, 2, 3], [4, 1, 3, 2], [4, 2, 3, 1], [1, 2.5, 4, 2.5], [3, 2, 4, 1],
        [2.5, 2.5, 4, 1], [4, 3, 2, 1], [2.5, 2.5, 2.5, 2.5], [4, 2.5, 1, 2.5], [3, 2, 4, 1], [4, 1, 2, 3],
        [3, 1, 4, 2],
    ]
)  # fmt: skip


def test_demsars_example():
    """Section 3.2.2: chi-squared 9.28 and F 3.69, computed there without the correction for ties."""
    np.testing.assert_allclose(DEMSAR.mean(axis=0), [3.143, 2.000, 2.893, 1.964], atol=5e-4)
    counts = [np.unique(row, return_counts=True)[1] for row in DEMSAR]
    tied = sum((count**3 - count).sum() for count in counts)
    correction = 1 - tied / (14 * (4**3 - 4))
    uncorrected = friedman(DEMSAR).statistic * correction
    assert uncorrected == pytest.approx(9.28, abs=5e-3)
    assert 13 * uncorrected / (14 * 3 - uncorrected) == pytest.approx(3.69, abs=5e-3)


def test_demsars_critical_differences_and_groups():
    average = np.sort(DEMSAR.mean(axis=0))  # C4.5+m+cf, C4.5+m, C4.5+cf, C4.5
    five, ten = critical_difference(4, 14), critical_difference(4, 14, level=0.1)
    assert (round(five, 2), round(ten, 2)) == (1.25, 1.12)
    assert groups(average, five) == [(0, 3)]  # "not powerful enough to detect any differences"
    # at .10, C4.5 is worse than C4.5+m and C4.5+m+cf; C4.5+cf is indistinguishable from all
    assert groups(average, ten) == [(0, 2), (2, 3)]


def test_nemenyis_critical_values():
    """Demšar's Table 5 (a), q at .05 and .10 for 2 to 10 classifiers."""
    five = [1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164]
    ten = [1.645, 2.052, 2.291, 2.459, 2.589, 2.693, 2.780, 2.855, 2.920]
    for k, q5, q10 in zip(range(2, 11), five, ten, strict=True):
        root = np.sqrt(k * (k + 1) / (6 * 20))
        assert critical_difference(k, 20) / root == pytest.approx(q5, abs=1e-3)
        assert critical_difference(k, 20, 0.1) / root == pytest.approx(q10, abs=1e-3)


@pytest.mark.parametrize("tied", [False, True])
def test_friedman_agrees_with_scipy(tied):
    rng = np.random.default_rng(1)
    for _ in range(5):
        scores = rng.integers(0, 4, (9, 5)).astype(float) if tied else rng.normal(size=(9, 5))
        ranks = scipy.stats.rankdata(-scores, axis=1)
        expected = scipy.stats.friedmanchisquare(*scores.T)
        found = friedman(ranks)
        assert (found.statistic, found.p) == (pytest.approx(expected.statistic), pytest.approx(expected.pvalue))


@pytest.mark.parametrize("tied", [False, True])
def test_iman_and_davenports_f_is_the_two_way_analysis_of_variance_of_the_ranks(tied):
    rng = np.random.default_rng(2)
    scores = rng.integers(0, 6, (8, 4)).astype(float) if tied else rng.normal(size=(8, 4))
    ranks = scipy.stats.rankdata(scores, axis=1)
    between = 8 * ((ranks.mean(axis=0) - 2.5) ** 2).sum()
    within = ((ranks - ranks.mean(axis=0)) ** 2).sum()  # all columns have the same mean rank
    f = (between / 3) / (within / (3 * 7))
    found = friedman(ranks)
    assert (found.f, found.f_p) == (pytest.approx(f), pytest.approx(scipy.stats.f.sf(f, 3, 21)))


def test_friedman_in_rs_output_for_two_columns():
    """R's scmamp on nine classifiers and two data sets prints 11.733, p .1635, and F 2.75, p .08697."""
    found = friedman(np.array([[1, 8, 6, 4, 7, 2, 5, 3, 9], [1, 6, 3, 9, 7, 2, 8, 4, 5.0]]))
    assert (found.statistic, found.p) == (pytest.approx(11.733, abs=1e-3), pytest.approx(0.1635, abs=1e-4))
    assert (found.f, found.f_p) == (pytest.approx(2.75, abs=5e-3), pytest.approx(0.08697, abs=1e-4))


def test_friedman_has_no_p_with_too_few_columns():
    found = friedman(np.array([[1.0, 2.0], [1.0, 2.0]]))
    assert np.isnan(found.p) and np.isnan(found.f_p)
    assert found.note == "2 rows in 2 columns cannot give p ≤ 0.05: the smallest is 0.16"
    assert np.isnan(friedman(np.array([[1.0, 2.0]])).statistic) and np.isnan(critical_difference(2, 1))
    agreed = friedman(np.array([[1.0, 2.0, 3.0]] * 6))
    assert agreed.statistic == pytest.approx(12) and agreed.f == np.inf and agreed.f_p == 0
    assert friedman(np.full((4, 3), 2.0)).p == 1


# ---------------------------------------------------------------------- of runs
MEANS = {  # RME(2) has rank 1 in every column; VAE and SA(1) have ranks 2 and 3 in different order
    ("rme", 2, "RME(2)"): [3.0, 30.0, 300.0],
    ("vae", None, "VAE"): [2.0, 10.0, 200.0],
    ("sa", 1, "SA(1)"): [1.0, 20.0, 100.0],
}
PLACES = [("mnist", 10), ("mnist", 50), ("svhn", 10)]


def runs(drop=(), decoder="conv"):
    rows = [
        {"method": m, "order": o, "method_label": label, "dataset": dataset, "dataset_label": dataset.upper(),
         "dim": dim, "decoder": decoder, "seed": seed, "test_iwae": mean + (seed - 0.5)}
        for (m, o, label), means in MEANS.items()
        for (dataset, dim), mean in zip(PLACES, means, strict=True)
        for seed in range(2)
        if (label, dataset, dim, seed) not in drop
    ]  # fmt: skip
    return pd.DataFrame(rows).assign(variant=None).astype({"order": "Int64"})


def test_average_ranks_by_hand():
    found = compare_ranks(runs(), expected_seeds=2)
    ranks = dict(zip(found.rows["method_label"], found.rows["average_rank"], strict=True))
    assert ranks == {"RME(2)": 1, "VAE": pytest.approx(7 / 3), "SA(1)": pytest.approx(8 / 3)}
    assert list(found.rows["method_label"]) == ["RME(2)", "VAE", "SA(1)"] and len(found.columns) == 3
    assert found.left_out_rows == found.left_out_columns == []


def test_a_column_with_an_incomplete_cell_is_left_out():
    found = compare_ranks(runs(drop={("VAE", "mnist", 50, 1)}), expected_seeds=2)
    assert found.left_out_columns == ["mnist d50"] and found.left_out_rows == []
    assert dict(zip(found.rows["method_label"], found.rows["average_rank"], strict=True)) == {
        "RME(2)": 1, "VAE": 2, "SA(1)": 3,
    }  # fmt: skip
    assert len(found.columns) == 2


def test_a_row_that_is_complete_in_no_column_is_left_out():
    found = compare_ranks(runs(drop={("VAE", d, dim, 1) for d, dim in PLACES}), expected_seeds=2)
    assert found.left_out_rows == ["VAE"] and found.left_out_columns == []
    assert list(found.rows["method_label"]) == ["RME(2)", "SA(1)"]


def test_without_two_complete_columns_there_is_no_list():
    drop = {("VAE", d, dim, 1) for d, dim in PLACES[:2]}
    found = compare_ranks(runs(drop=drop), expected_seeds=2)
    assert len(found.columns) == 1 and rank_listing(found, "conv") is None
    none = compare_ranks(runs(drop=drop), expected_seeds=9)
    assert none.rows.empty and rank_listing(none, "conv") is None


def test_runs_of_two_decoders_are_rejected():
    with pytest.raises(ValueError, match="decoders conv and fc; rank one at a time"):
        compare_ranks(pd.concat([runs(), runs(decoder="fc")]))


def test_indistinguishable_rows_share_a_letter():
    listing = rank_listing(compare_ranks(runs(), expected_seeds=2), "conv")
    assert [row[0] for row in listing.rows] == ["RME(2)", "VAE", "SA(1)"]
    assert {row[2] for row in listing.rows} == {"a"}  # q(3) sqrt(3 * 4 / 18) = 1.91
    assert "critical difference of 1.91 (level 0.05)" in listing.caption
    assert "2.33" in to_text(listing)
