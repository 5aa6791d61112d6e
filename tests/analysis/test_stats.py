"""Statistics of the tables against SciPy and values computed by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from analysis.signed_rank import smallest_p, wilcoxon_greater
from analysis.stats import colour_of, compare_column, natural, of_baseline, paired_difference, summarise, variant_places


def by_seed(values):
    return dict(enumerate(values))


def runs_of(cells, dim=10, dataset="mnist", decoder="conv"):
    """{(method, order): scores by seed} -> one row for each run."""
    return pd.DataFrame(
        [
            {"method": m, "order": o, "dataset": dataset, "dim": dim, "decoder": decoder, "seed": s, "test_iwae": v}
            for (m, o), scores in cells.items()
            for s, v in (scores if isinstance(scores, dict) else by_seed(scores)).items()
        ]
    ).assign(variant=None)


# ---------------------------------------------------------------------- Wilcoxon
def test_wilcoxon_by_hand():
    # differences 3, -1, 4, 2, 5: absolute ranks 3 1 4 2 5, so W+ = 3 + 4 + 2 + 5 = 14 of 15.
    # W+ >= 14: all five positive (15), or all but rank 1 (14), so 2 of 2^5 patterns.
    result = wilcoxon_greater(by_seed([3, -1, 4, 2, 5]), by_seed([0, 0, 0, 0, 0]))
    assert (result.statistic, result.p, result.n_pairs, result.n_zero) == (14, 2 / 32, 5, 0)
    assert (result.ties, result.exact, result.note) == (False, True, "")


def test_wilcoxon_with_ties_by_hand():
    # differences 2, 2, -2, 5: ranks 2 2 2 4 (average of 1, 2, 3), W+ = 8 of 10.
    # W+ >= 8: all positive (10), or all but one of the three 2s (8), so 1 + 3 of 2^4 patterns.
    result = wilcoxon_greater(by_seed([2, 2, -2, 5]), by_seed([0, 0, 0, 0]))
    assert (result.statistic, result.p, result.ties) == (8, 4 / 16, True)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 10, 13, 30, 50])
def test_wilcoxon_agrees_with_scipy_without_ties(n):
    rng = np.random.default_rng(n)
    for shift in (-1, 0, 0.5, 2):
        a, b = rng.normal(shift, 1, n), rng.normal(0, 1, n)
        expected = scipy.stats.wilcoxon(a, b, alternative="greater", method="exact")
        result = wilcoxon_greater(by_seed(a), by_seed(b))
        assert result.exact and not result.ties
        assert result.statistic == expected.statistic
        np.testing.assert_allclose(result.p, expected.pvalue, rtol=1e-12)


@pytest.mark.parametrize("n", [4, 6, 9, 10])
def test_wilcoxon_agrees_with_the_permutation_test_under_ties(n):
    rng = np.random.default_rng(n)
    ties = 0
    for _ in range(5):
        difference = rng.integers(-3, 6, n).astype(float)
        difference[difference == 0] = 1.0
        expected = scipy.stats.wilcoxon(
            difference, alternative="greater", method=scipy.stats.PermutationMethod(n_resamples=np.inf)
        )
        result = wilcoxon_greater(by_seed(difference), by_seed(np.zeros(n)))
        assert result.statistic == expected.statistic
        np.testing.assert_allclose(result.p, expected.pvalue, rtol=1e-12)
        ties += result.ties
    assert ties


def test_wilcoxon_agrees_with_enumerated_sign_patterns():
    rng = np.random.default_rng(0)
    for _ in range(10):
        difference = rng.integers(-4, 5, 9).astype(float)
        kept = difference[difference != 0]
        ranks = scipy.stats.rankdata(abs(kept))
        observed = ranks[kept > 0].sum()
        sums = [np.dot(signs, ranks) for signs in itertools.product([0, 1], repeat=len(kept))]
        result = wilcoxon_greater(by_seed(difference), by_seed(np.zeros(9)))
        assert result.p == np.mean([s >= observed for s in sums])
        assert result.n_zero == 9 - len(kept)


def test_normal_approximation_is_close_to_the_exact_p():
    rng = np.random.default_rng(1)
    a, b = rng.normal(0.2, 1, 60), rng.normal(0, 1, 60)
    result = wilcoxon_greater(by_seed(a), by_seed(b))
    assert not result.exact and "normal approximation" in result.note
    assert result.p == pytest.approx(scipy.stats.wilcoxon(a, b, alternative="greater", method="exact").pvalue, abs=0.01)


def test_wilcoxon_pairs_by_seed_and_not_by_position():
    best = {3: 10.0, 1: 20.0, 7: 5.0, 9: np.nan}
    other = {1: 19.0, 2: 99.0, 3: 9.0, 9: 1.0}
    result = wilcoxon_greater(best, other)  # seeds 1 and 3: differences 1 and 1
    assert (result.n_pairs, result.statistic, result.p, result.ties) == (2, 3, 0.25, True)
    assert wilcoxon_greater(pd.Series(best), pd.Series(other)) == result


def test_wilcoxon_reports_zeros_and_too_few_pairs():
    result = wilcoxon_greater(by_seed([1, 2, 3, 4]), by_seed([1, 1, 1, 1]))
    assert (result.n_pairs, result.n_zero, result.p) == (4, 1, 1 / 8)
    assert "1 of 4 pairs equal" in result.note and "smallest is 0.125" in result.note


@pytest.mark.parametrize(
    ("best", "other", "note"),
    [
        ({1: 1.0}, {2: 1.0}, "no seed in common"),
        ({1: 1.0, 2: 3.0}, {1: 1.0, 2: 3.0}, "all 2 pairs equal"),
        ({}, {}, "no seed in common"),
    ],
)
def test_wilcoxon_without_nonzero_differences_has_no_p(best, other, note):
    result = wilcoxon_greater(best, other)
    assert np.isnan(result.p) and note in result.note


@pytest.mark.parametrize("n", [1, 4, 5, 10])
def test_smallest_p_is_that_of_all_positive_differences(n):
    result = wilcoxon_greater(by_seed(np.arange(1.0, n + 1)), by_seed(np.zeros(n)))
    assert result.p == smallest_p(n)
    assert ("cannot give" in result.note) == (n < 5)


# ---------------------------------------------------------------------- cells and columns
def test_summarise_by_hand():
    table = summarise(runs_of({("rme", 2): [1.0, 2.0, 6.0], ("vae", None): {5: 4.0}}))
    rme, vae = (table[table["method"] == name].iloc[0] for name in ("rme", "vae"))
    assert (rme["n"], rme["mean"], rme["order"], rme["seeds"]) == (3, 3.0, 2, (0, 1, 2))
    assert rme["sd"] == pytest.approx(np.sqrt((4 + 1 + 9) / 2))
    assert (vae["n"], vae["mean"], vae["seeds"]) == (1, 4.0, (5,))
    assert np.isnan(vae["sd"]) and pd.isna(vae["order"])


def test_summarise_ignores_scores_that_are_not_finite():
    cell = summarise(runs_of({("vae", None): [1.0, np.nan, 3.0, -np.inf]})).iloc[0]
    assert (cell["n"], cell["mean"], cell["seeds"]) == (2, 2.0, (0, 2))


def test_summarise_rejects_duplicate_seeds():
    runs = runs_of({("vae", None): [1.0, 2.0]}).assign(seed=3)
    with pytest.raises(ValueError, match=r"vae mnist 10 conv: a seed occurs twice in \[3, 3\]"):
        summarise(runs)


def test_compare_column_agrees_with_scipy():
    rng = np.random.default_rng(3)
    noise = rng.normal(0, 2, 10)
    cells = {
        ("vae", None): 685 + noise + rng.normal(0, 1, 10),
        ("rme", 4): 699 + noise + rng.normal(0, 1, 10),
        ("rme", 5): 699.5 + noise + rng.normal(0, 1, 10),
    }
    table = compare_column(runs_of(cells))
    assert list(table["rank"]) == [1, 2, 3]
    best = table.iloc[0]
    assert best["is_best"] and best["colour"] == "best" and np.isnan(best["p"]) and best["mean"] == table["mean"].max()
    for _, row in table.iloc[1:].iterrows():
        name = (row["method"], None if pd.isna(row["order"]) else row["order"])
        expected = scipy.stats.wilcoxon(
            cells[best["method"], best["order"]], cells[name], alternative="greater", method="exact"
        )
        assert row["p"] == pytest.approx(expected.pvalue, rel=1e-12)
        assert row["n_pairs"] == 10 and not row["is_best"] and row["colour"] == colour_of(row["p"])
    assert table.iloc[2]["method"] == "vae" and table.iloc[2]["p"] == 1 / 1024


def test_compare_column_has_no_p_with_too_few_pairs():
    table = compare_column(runs_of({("vae", None): [1.0, 2.0, 3.0, 4.0], ("sa", 1): [2.0, 3.0, 4.0, 5.0]}))
    vae = table[table["method"] == "vae"].iloc[0]
    assert np.isnan(vae["p"]) and vae["colour"] == "untested" and vae["n_pairs"] == 4
    assert "4 pairs cannot give p ≤ 0.05" in vae["note"]


def test_compare_column_with_a_cell_without_scores():
    table = compare_column(runs_of({("vae", None): [1.0, 2.0], ("sa", 1): [np.nan, np.nan]}))
    sa = table[table["method"] == "sa"].iloc[0]
    assert list(table["is_best"]) == [True, False]
    assert sa["n"] == 0 and pd.isna(sa["rank"]) and sa["note"] == "no seed in common"
    assert not compare_column(runs_of({("sa", 1): [np.nan]}))["is_best"].any()


def test_compare_column_rejects_two_columns():
    runs = pd.concat([runs_of({("vae", None): [1.0]}), runs_of({("vae", None): [1.0]}, dim=20)])
    with pytest.raises(ValueError, match="runs of 2 columns"):
        compare_column(runs)


@pytest.mark.parametrize(
    ("p", "colour"),
    [
        (0.001, ""), (0.01, ""), (0.0101, "yellow-orange"), (0.05, "yellow-orange"), (0.051, "orange"),
        (0.1, "orange"), (0.101, "red-orange"), (1.0, "red-orange"), (np.nan, "untested"),
    ],
)  # fmt: skip
def test_colours_of_table_7(p, colour):
    assert colour_of(p) == colour


def test_paired_difference_by_hand():
    runs = runs_of({("vae", None): [10.0, 20.0, 30.0], ("rme", 2): {0: 11.0, 1: 23.0, 9: 99.0}, ("sa", 1): {9: 1.0}})
    runs = pd.concat([runs, runs_of({("vae", None): {0: -1000.0, 9: -1000.0}}, dim=20)])
    table = paired_difference(runs).set_index("method")
    assert list(table.index) == ["rme", "sa"]
    assert (table.loc["rme", "n"], table.loc["rme", "mean"]) == (2, 2.0)  # 11 - 10 and 23 - 20
    assert table.loc["rme", "sd"] == pytest.approx(np.sqrt(2))
    assert table.loc["sa", "n"] == 0 and np.isnan(table.loc["sa", "mean"])


def test_compare_column_has_holms_p_and_paired_differences():
    rng = np.random.default_rng(5)
    cells = {("vae", None): rng.normal(0, 1, 8), ("sa", 1): rng.normal(1, 1, 8), ("rme", 2): rng.normal(3, 1, 8)}
    cells["hf", 1] = {0: 0.0, 1: 0.0}  # too few for a test: not part of the family
    table = compare_column(runs_of(cells)).set_index("method")
    p = table["p"]
    first, second = sorted(["vae", "sa"], key=lambda method: p[method])
    assert table.loc[first, "p_holm"] == min(1, 2 * p[first])
    assert table.loc[second, "p_holm"] == max(2 * p[first], p[second])
    assert table.loc[["rme", "hf"], "p_holm"].isna().all()
    difference = cells["rme", 2] - cells["sa", 1]
    walsh = [(a + b) / 2 for a, b in itertools.combinations_with_replacement(difference, 2)]
    assert table.loc["sa", "median"] == pytest.approx(np.median(difference))
    assert table.loc["sa", "estimate"] == pytest.approx(np.median(walsh))
    # n = 8: P(W+ <= 3) = 5/256 (0, 1, 2, 3, 1 + 2) <= .025 < P(W+ <= 4) = 7/256, so the fourth from either end
    assert (table.loc["sa", "low"], table.loc["sa", "high"]) == (sorted(walsh)[3], sorted(walsh)[-4])
    assert table.loc["sa", "level"] == pytest.approx(1 - 10 / 256)
    assert table.loc["hf", ["low", "high", "level"]].isna().all() and table.loc["rme", ["median", "low"]].isna().all()


def test_paired_difference_has_estimate_and_interval():
    runs = runs_of({("vae", None): np.zeros(6), ("rme", 2): np.arange(1.0, 7.0)})
    row = paired_difference(runs).iloc[0]
    assert row[["n", "median", "estimate", "low", "high"]].tolist() == [6, 3.5, 3.5, 1, 6]
    assert row["level"] == 1 - 2 / 64


def test_chosen_restarts_are_in_the_order_of_seeds():
    runs = runs_of({("vae", None): {3: 1.0, 1: 2.0, 2: np.nan}}).assign(chosen_restart=[0, 2, 1])
    assert summarise(runs).loc[0, "restarts"] == (2, 0)
    assert summarise(runs.drop(columns="chosen_restart")).loc[0, "restarts"] == ()


# ---------------------------------------------------------------------- variants
def with_variants(**means):
    """Runs of seeds 0 to 5: a VAE of score 0, its variant `finish` of 1, and variants of RME(2) of these scores."""
    parts = [runs_of({("vae", None): np.zeros(6)}), runs_of({("vae", None): np.ones(6)}).assign(variant="finish")]
    parts += [runs_of({("rme", 2): np.full(6, mean)}).assign(variant=name) for name, mean in means.items()]
    return pd.concat(parts, ignore_index=True)


def test_a_variant_is_a_cell_of_its_own():
    cells = summarise(with_variants(a=2.0, b=3.0)).set_index(["method", "variant"])
    assert cells.loc[("rme", "a"), "mean"] == 2 and cells.loc[("rme", "b"), "mean"] == 3
    assert cells["n"].tolist() == [6] * 4
    best = compare_column(with_variants(a=2.0, b=3.0)).iloc[0]
    assert (best["method"], best["variant"], best["is_best"]) == ("rme", "b", True)


def test_differences_are_from_the_row_without_a_variant():
    found = paired_difference(with_variants(a=2.0)).set_index(["method", "variant"])["mean"]
    assert found.to_dict() == {("rme", "a"): 2.0, ("vae", "finish"): 1.0}
    named = with_variants(a=2.0).dropna(subset="variant")  # without it, from the first variant
    assert paired_difference(named).set_index(["method", "variant"])["mean"].to_dict() == {("rme", "a"): 1.0}


def test_variants_are_sorted_by_the_numbers_in_them():
    names = ["kl 100", "5e-4", None, "kl 20", "2e-5, long", "2e-5", "kl", "1e-6"]
    assert sorted(names, key=natural) == [None, "1e-6", "2e-5", "2e-5, long", "5e-4", "kl", "kl 20", "kl 100"]


def test_a_mean_of_fewer_seeds_is_not_ranked():
    """hf has the highest mean only because its one seed is good for every method."""
    scores = {"vae": [100.0, 0.0], "sa": [101.0, 1.0], "hf": [100.5, None]}
    rows = [
        {"method": m, "order": None, "variant": None, "dataset": "mnist", "dim": 10, "decoder": "conv", "seed": s,
         "test_iwae": value}
        for m, values in scores.items() for s, value in enumerate(values) if value is not None
    ]  # fmt: skip
    found = compare_column(pd.DataFrame(rows)).set_index("method")
    assert found.index.tolist() == ["sa", "vae", "hf"] and found["is_best"].tolist() == [True, False, False]
    assert found["rank"].tolist()[:2] == [1, 2] and pd.isna(found.loc["hf", "rank"])
    assert found.loc["hf", "n_pairs"] == 1


@pytest.mark.parametrize("value", ["2e-5", "0.5", "7", "1.5e+3", "12"])
def test_numbers_in_variants_are_compared_by_size(value):
    number = float(value)
    assert natural(f"kl {number / 2}") < natural(f"kl {value}") < natural(f"kl {number * 2}")
    assert natural(f"kl {number / 2}, long") < natural(f"kl {value}, long") < natural(f"kl {number * 2}, long")
    assert natural(None) < natural(value) < natural("a") < natural("b")


def test_positions_of_variants():
    found = variant_places(pd.Series(["kl 100", None, "kl 20", "kl 100", "5e-4"]))
    assert found.tolist() == [3, 0, 2, 3, 1]


def test_the_baseline_is_one_row():
    column = with_variants(a=2.0)
    assert column[of_baseline(column, "vae")]["test_iwae"].tolist() == [0.0] * 6
    assert column[of_baseline(column, "rme")]["test_iwae"].tolist() == [2.0] * 6
    assert not of_baseline(column, "sa").any()
    two = column.assign(variant=column["variant"].fillna("late"))
    assert column[of_baseline(two, "vae")]["variant"].tolist() == ["finish"] * 6  # before `late`
    numbered = two.assign(variant=two["variant"].replace({"late": "kl 100", "finish": "kl 20"}))
    assert column[of_baseline(numbered, "vae")]["variant"].tolist() == ["finish"] * 6  # 20 before 100


# ---------------------------------------------------------------------- labels, ties, missing runs
def labelled(runs):
    return runs.assign(method_label=runs["method"].str.upper(), dataset_label=runs["dataset"].str.upper())


def test_labels_are_carried_along():
    runs = labelled(runs_of({("vae", None): [1.0, 2.0], ("rme", 2): [2.0, 4.0]}))
    for table in (summarise(runs), compare_column(runs)):
        assert dict(zip(table["method"], table["method_label"], strict=True)) == {"vae": "VAE", "rme": "RME"}
        assert set(table["dataset_label"]) == {"MNIST"}
    (row,) = paired_difference(runs).to_dict("records")
    assert (row["method_label"], row["dataset_label"], row["mean"]) == ("RME", "MNIST", 1.5)
    assert (row["order"], row["dataset"], row["dim"], row["decoder"]) == (2, "mnist", 10, "conv")


def test_other_score_and_baseline():
    runs = runs_of({("vae", None): [1.0, 2.0], ("rme", 2): [2.0, 4.0]})
    runs = runs.assign(other=-runs["test_iwae"])
    assert summarise(runs, "other").set_index("method")["mean"].to_dict() == {"rme": -3.0, "vae": -1.5}
    assert compare_column(runs, "other")["method"].tolist() == ["vae", "rme"]
    found = paired_difference(runs, "other", baseline="rme").set_index("method")
    assert found["mean"].to_dict() == {"vae": 1.5} and found["estimate"].to_dict() == {"vae": 1.5}


def test_equal_means_share_a_rank():
    cells = {("sa", 1): [1.0, 3.0], ("rme", 2): [3.0, 1.0], ("vae", None): [0.0, 0.0], ("hf", 1): [4.0, np.nan]}
    table = compare_column(runs_of(cells))
    assert table["method"].tolist() == ["rme", "sa", "vae", "hf"] and table["is_best"].tolist() == [True] + 3 * [False]
    assert table["rank"].tolist()[:3] == [1, 1, 3] and pd.isna(table["rank"].iloc[3])
    assert table["n_pairs"].tolist() == [2, 2, 2, 1]


def test_incomplete_cells_come_last_by_mean():
    cells = {("vae", None): [0.0, 0.0], ("hf", 1): {0: 5.0}, ("sa", 1): {1: 7.0}, ("me", 2): {1: np.nan}}
    assert compare_column(runs_of(cells))["method"].tolist() == ["vae", "sa", "hf", "me"]


@pytest.mark.parametrize(("zeros", "tested"), [(0, True), (1, True), (2, False)])
def test_equal_pairs_count_as_missing_for_the_smallest_p(zeros, tested):
    """Of six pairs, `zeros` are equal. Five nonzero differences can give a p of 1/32, four only 1/16."""
    best = np.r_[np.zeros(zeros), np.arange(1.0, 7.0 - zeros)]
    row = compare_column(runs_of({("vae", None): np.zeros(6), ("rme", 2): best})).iloc[1]
    assert np.isnan(row["p"]) != tested and row["n_pairs"] == 6
    if tested:
        assert row["p"] == scipy.stats.wilcoxon(best[zeros:], alternative="greater", method="exact").pvalue


def test_columns_differ_in_data_set_dim_or_decoder():
    parts = [
        runs_of({("vae", None): [base, base], ("rme", 2): [base + 1, base + 1]}, dim, dataset, decoder)
        for base, dim, dataset, decoder in (
            (0.0, 10, "mnist", "conv"), (10.0, 20, "mnist", "conv"), (20.0, 10, "omniglot", "conv"),
            (30.0, 10, "mnist", "fc"),
        )
    ]  # fmt: skip
    found = paired_difference(pd.concat(parts))
    assert found["mean"].tolist() == [1.0] * 4 and found["n"].tolist() == [2] * 4
    assert summarise(pd.concat(parts))["n"].tolist() == [2] * 8
    for other in parts[1:]:
        with pytest.raises(ValueError, match="2 columns"):
            compare_column(pd.concat([parts[0], other]))


def test_restarts_are_empty_unless_all_are_known():
    runs = runs_of({("vae", None): [1.0, 2.0], ("rme", 2): [1.0, 2.0]})
    runs["chosen_restart"] = [0, 1, 2, None]
    assert summarise(runs).set_index("method")["restarts"].to_dict() == {"vae": (0, 1), "rme": ()}


def test_an_empty_frame_has_no_cells():
    none = runs_of({("vae", None): [1.0]}).iloc[:0]
    assert summarise(none).empty and paired_difference(none).empty
