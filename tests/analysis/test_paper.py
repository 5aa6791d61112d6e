"""The paper's numbers, ours next to them, and its claims."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from analysis import render
from analysis.claims import HELD, NOT_ABOVE, NOT_HELD, NOT_RUN, TOO_FEW, UNKNOWN, count, score_claims, time_claims
from analysis.listing import claim_listing, claim_summary, to_csv, to_html, to_latex, to_markdown
from analysis.paper import (
    against_paper,
    paper_ratio_tables,
    paper_tables,
    published_scores,
    published_times,
)
from analysis.tables import METHODS, decoder_table

LABELS = {"mnist": "MNIST", "omniglot": "OMNIGLOT", "cifar10": "CIFAR10", "svhn": "SVHN", "celeba": "CelebA"}
SPREAD = np.linspace(-1, 1, 10)


def label(method, order):
    return method.upper() if pd.isna(order) else f"{method.upper()}({order})"


SCRATCH = {"epochs": 60, "learning_rate": 5e-4}
STAGE = {"stage_epochs": 5, "stage_learning_rate": 1e-6}


def runs_of(cells, seeds=10):
    """{(method, order, dataset, dim, decoder): mean, or scores by seed} -> one row for each run.

    All but the VAE, SA and VLAE start from the VAE and have the same stage.
    """
    rows = [
        {"method": m, "order": o, "method_label": label(m, o), "dataset": data, "dataset_label": LABELS.get(data, data),
         "dim": dim, "decoder": decoder, "seed": seed, "test_iwae": value, **SCRATCH,
         **(STAGE if m not in ("vae", "sa", "vlae") else {})}
        for (m, o, data, dim, decoder), scores in cells.items()
        for seed, value in enumerate(scores + SPREAD[:seeds] if np.isscalar(scores) else scores)
    ]  # fmt: skip
    return pd.DataFrame(rows).assign(variant=None).astype({"order": "Int64"})


@pytest.fixture(scope="module")
def their_runs():
    """Made-up runs that have the paper's means wherever they are legible, each method's seeds apart by a trifle."""
    theirs = published_scores().dropna(subset="mean")
    rng = np.random.default_rng(0)
    cells = {
        (c["method"], None if pd.isna(c["order"]) else int(c["order"]), c["dataset"], c["dim"], c["decoder"]): c["mean"]
        + (noise := 1e-3 * rng.normal(size=10))
        - noise.mean()
        for c in theirs.to_dict("records")
    }
    return runs_of(cells)


# ---------------------------------------------------------------------- published numbers
@pytest.mark.parametrize(
    ("cell", "mean", "sd"),
    [  # read off the supplement, one or more of each table
        (("vae", None, "mnist", 10, "fc"), 563.6, None),
        (("vlae", 8, "omniglot", 50, "fc"), 553.1, None),
        (("rme", 5, "mnist", 10, "conv"), 699.4, 2.1),
        (("hf", 2, "mnist", 50, "conv"), 1191.5, 10.8),
        (("me", 4, "omniglot", 50, "conv"), 732.0, 3.1),
        (("bvi-er2", 5, "cifar10", 100, "conv"), 3394.1, 6.1),
        (("iaf", 1, "cifar10", 100, "conv"), 3383.7, None),
        (("vae", None, "cifar10", 20, "conv"), None, None),
        (("rme", 2, "svhn", 100, "conv"), 6784.7, 25.0),
        (("bvi-er1", 5, "celeba", 100, "conv"), 17069.9, 391.8),
    ],
)
def test_published_scores(cell, mean, sd):
    method, order, dataset, dim, decoder = cell
    frame = published_scores()
    chosen = frame[
        (frame.method == method) & (frame.dataset == dataset) & (frame.dim == dim) & (frame.decoder == decoder)
    ]
    row = chosen[chosen.order.isna()] if order is None else chosen[chosen.order == order]
    assert len(row) == 1
    found = [None if np.isnan(value) else value for value in row[["mean", "sd"]].iloc[0]]
    assert found == [mean, sd]


def test_published_scores_are_whole():
    frame = published_scores()
    assert Counter(frame["table"]) == {5: 13 * 4, 7: 29 * 4, 8: 29 * 4, 9: 29 * 4, 10: 29 * 4, 11: 29 * 4}
    assert set(frame["method"]) <= set(METHODS) and set(frame["dataset"]) == set(LABELS)
    illegible = frame[frame["mean"].isna()]
    assert set(illegible["table"]) == {9} and Counter(illegible["method"]) == {"vae": 4, "sa": 16}


def test_published_times():
    frame = published_times().set_index(["method", "order", "dataset", "dim", "decoder"])
    assert frame.loc[("rme", 3, "svhn", 50, "conv"), "ms"].item() == 3.6
    assert frame.loc[("rme", 3, "svhn", 50, "conv"), "ratio"].item() == pytest.approx(3.6 / 2.2)
    assert frame.loc[("vlae", 8, "mnist", 50, "fc"), "ms"].item() == 30.8
    assert np.isnan(frame.loc[("rme", 2, "mnist", 10, "conv"), "ratio"].item())  # no VAE was timed there
    assert not frame.index.duplicated().any()


# ---------------------------------------------------------------------- ours next to theirs
def test_differences_by_hand():
    cells = {
        ("vae", None, "mnist", 10, "conv"): [680.0, 684.0],  # theirs: 685.1, sd 1.8
        ("vae", None, "mnist", 10, "fc"): [565.6],  # theirs: 563.6, no sd
        ("sa", 1, "cifar10", 10, "conv"): [1640.0],  # theirs is not legible
        ("vae-more", None, "mnist", 10, "conv"): [700.0],  # not in the paper
        ("vae", None, "digits", 10, "conv"): [1.0],
    }
    found = against_paper(runs_of(cells)).set_index(["dataset", "decoder"])
    assert len(found) == 3
    conv, fc, blank = (found.loc[key] for key in (("mnist", "conv"), ("mnist", "fc"), ("cifar10", "conv")))
    assert conv["difference"] == pytest.approx(-3.1) and conv["difference_in_published_sd"] == pytest.approx(-3.1 / 1.8)
    assert fc["difference"] == pytest.approx(2.0) and np.isnan(fc["difference_in_published_sd"])
    assert blank["mean"] == 1640 and np.isnan(blank["published_mean"]) and np.isnan(blank["difference"])

    tables = {table.name: table for table in paper_tables(runs_of(cells), expected_seeds=2)}
    assert set(tables) == {f"test_iwae-against-paper-{x}" for x in ("mnist-conv", "mnist-fc", "cifar10-conv")}
    conv, fc, blank = (tables[f"test_iwae-against-paper-{x}"] for x in ("mnist-conv", "mnist-fc", "cifar10-conv"))
    assert "682.0 − 685.1 = -3.1 (-1.7 sd)" in render.to_text(conv)
    assert r"VAE & $682.0$ ($-3.1$, $-1.7\,$sd) \\" in render.to_latex(conv)
    assert "n=1/2 565.6 − 563.6 = +2.0" in render.to_text(fc) and "sd)" not in render.to_text(fc)
    assert "1640.0, paper not legible" in render.to_text(blank)
    assert "nan" not in "".join(f(blank) for f in (render.to_text, render.to_csv, render.to_latex, render.to_html))
    row = dict(zip(*(line.split(",") for line in render.to_csv(conv).splitlines()), strict=True))
    assert float(row["difference"]) == pytest.approx(-3.1) and float(row["published_sd"]) == 1.8


# ---------------------------------------------------------------------- claims about scores
def of(claims, statement, where):
    (found,) = [claim for claim in claims if claim.statement == statement and claim.where == where]
    return found


def rme_column(rme=700.0, more=None, seeds=10, **others):
    cells = {("rme", 2, "mnist", 10, "conv"): rme, ("vae", None, "mnist", 10, "conv"): 690.0}
    cells |= {(method, 1, "mnist", 10, "conv"): mean for method, mean in others.items()}
    if more is not None:
        cells["vae-more", None, "mnist", 10, "conv"] = more
    return runs_of(cells, seeds)


BEST, OVER_VAE, OVER_MORE = (
    "RME has the highest mean", "RME is better than VAE (p ≤ 0.01)", "RME is better than its control (p ≤ 0.01)",
)  # fmt: skip


def test_claims_that_hold_and_their_evidence():
    claims = score_claims(rme_column(more=695.0))
    best, vae, more = (of(claims, statement, "MNIST dim 10") for statement in (BEST, OVER_VAE, OVER_MORE))
    assert [claim.status for claim in (best, vae, more)] == [HELD] * 3
    assert [claim.control for claim in (best, vae, more)] == [False, False, True]
    assert best.evidence == (
        "RME(2) 700.0, best of the other methods VAE 690.0 nats; 2 of the paper's 29 rows were run; "
        "over its control RME(2) − VAE-MORE: +5.0 nats [+5.0, +5.0], p = 0.00098"
    )
    assert vae.evidence == (
        "RME(2) − VAE: +10.0 nats [+10.0, +10.0], p = 0.00098; "
        "over its control RME(2) − VAE-MORE: +5.0 nats [+5.0, +5.0], p = 0.00098"
    )
    assert of(claims, "RME is better than HF (p ≤ 0.01)", "MNIST dim 10").evidence == "HF was not run"
    assert count(claims) == (
        "The paper's claims, asked of these columns: 2 held, 6 not run. "
        "Against the control, which the paper does not have: 1 held."
    )


def test_a_gain_over_the_vae_that_longer_training_gives_too():
    claims = score_claims(rme_column(more=701.0, sa=690.5))
    statuses = {claim.statement: claim.status for claim in claims if claim.where == "MNIST dim 10"}
    assert statuses[OVER_VAE] == statuses["RME is better than SA (p ≤ 0.01)"] == statuses[BEST] == NOT_ABOVE
    assert statuses[OVER_MORE] == NOT_HELD
    assert of(claims, BEST, "MNIST dim 10").evidence.endswith("RME(2) − VAE-MORE: -1.0 nats [-1.0, -1.0], p = 1")


def test_a_mean_that_is_above_the_controls_by_chance_is_not_above_it():
    """Half of the seeds have it above, half below, and the mean is a little higher."""
    runs = rme_column(more=700.0)
    up = runs["seed"].map(lambda seed: 1.1 if seed % 2 else -1.0).where(runs["method"] == "vae-more", 0.0)
    claims = score_claims(runs.assign(test_iwae=runs["test_iwae"] - up))
    best = of(claims, BEST, "MNIST dim 10")
    assert best.status == NOT_ABOVE and "+0.1 nats" in best.evidence


def test_one_that_was_trained_alike_is_a_fair_rival_whatever_the_control():
    """BVI has the same stage as RME: what RME has above it is not the training's, and needs no control."""
    cells = {("rme", 2): 700.0, ("bvi-er1", 2): 695.0, ("vae", None): 690.0, ("vae-more", None): 701.0}
    runs = runs_of({(method, order, "mnist", 10, "conv"): mean for (method, order), mean in cells.items()})
    bvi = "RME is better than BVI-ER1 (p ≤ 0.01)"
    assert of(score_claims(runs), bvi, "MNIST dim 10").status == HELD
    longer = runs.assign(stage_epochs=runs["stage_epochs"].where(runs["method"] != "bvi-er1", 3))
    assert of(score_claims(longer), bvi, "MNIST dim 10").status == NOT_ABOVE


def test_a_control_of_another_rate_or_length_is_none():
    for setting in ({"stage_learning_rate": 5e-4}, {"stage_epochs": 8}, {"keep": "last"}):
        runs = rme_column(more=701.0).assign(keep="best")
        (name, value) = next(iter(setting.items()))
        claims = score_claims(runs.assign(**{name: runs[name].mask(runs["method"] == "vae-more", value)}))
        assert of(claims, OVER_VAE, "MNIST dim 10").status == HELD
        assert of(claims, OVER_VAE, "MNIST dim 10").evidence.endswith("; no control with equal training was run")
        assert of(claims, BEST, "MNIST dim 10").evidence.endswith("; no control with equal training was run")
        assert of(claims, OVER_MORE, "MNIST dim 10").status == NOT_RUN


def test_the_control_that_was_not_run_is_asked_for():
    claim = of(score_claims(rme_column()), OVER_MORE, "MNIST dim 10")
    said = "no control with equal training was run for RME(2)"
    assert (claim.status, claim.evidence, claim.control) == (NOT_RUN, said, True)


def test_a_control_that_lacks_runs_leaves_the_claim_open():
    runs = rme_column(more=695.0)
    claims = score_claims(runs[~((runs["method"] == "vae-more") & (runs["seed"] > 5))])
    for statement in (BEST, OVER_VAE, OVER_MORE):
        claim = of(claims, statement, "MNIST dim 10")
        assert claim.status == TOO_FEW and claim.evidence.endswith("VAE-MORE n=6/10")


@pytest.mark.parametrize("seeds", [1, 2, 4])
def test_nothing_is_told_from_fewer_runs_than_a_test_needs(seeds):
    for rme in (700.0, 680.0):
        claims = score_claims(rme_column(rme, more=695.0, sa=690.5, seeds=seeds))
        assert {claim.status for claim in claims} == {TOO_FEW, NOT_RUN}


def test_variants_are_rows_of_a_method():
    runs = pd.concat([rme_column(more=695.0), rme_column(703.0).query("method == 'rme'").assign(
        variant="kl 20", method_label="RME(2), kl 20")])  # fmt: skip
    best = of(score_claims(runs), BEST, "MNIST dim 10")
    assert best.evidence.startswith(
        "RME(2), kl 20 703.0, best of the other methods VAE 690.0 nats; 2 of the paper's 29 rows"
    )
    assert against_paper(runs)["method_label"].tolist() == ["VAE", "RME(2)"]  # the paper has no such variant
    assert best.status == HELD  # its control is the one of the same stage, whatever kl_max


def test_a_claim_that_does_not_hold():
    claims = score_claims(rme_column(sa=700.5))
    assert of(claims, BEST, "MNIST dim 10").status == NOT_HELD
    assert of(claims, "RME is better than SA (p ≤ 0.01)", "MNIST dim 10").status == NOT_HELD
    assert of(claims, OVER_VAE, "MNIST dim 10").status == HELD


def test_every_order_of_a_rival_must_be_beaten():
    near = 700 + SPREAD - np.array([1, 2, -3, -4, -5, 6, 7, 8, 9, 10]) / 100  # W+ = 43 of 55: p = .065
    cells = {("rme", 2, "mnist", 10, "conv"): 700.0, ("me", 2, "mnist", 10, "conv"): 600.0}
    claims = score_claims(runs_of({**cells, ("me", 3, "mnist", 10, "conv"): near}))
    claim = of(claims, "RME is better than ME (p ≤ 0.01)", "MNIST dim 10")
    assert claim.status == NOT_HELD and "RME(2) − ME(3)" in claim.evidence and "p = 0.065" in claim.evidence


def test_of_rows_that_are_beaten_in_every_seed_the_best_is_the_evidence():
    """Each has the smallest p that ten pairs can give, so the p alone does not say which was hardest to beat."""
    cells = {("rme", 2, "mnist", 10, "conv"): 700.0, ("me", 2, "mnist", 10, "conv"): 600.0}
    for better in (3, 1):  # after the other in the table, and before it
        claims = score_claims(runs_of({**cells, ("me", better, "mnist", 10, "conv"): 690.0}))
        evidence = of(claims, "RME is better than ME (p ≤ 0.01)", "MNIST dim 10").evidence
        assert f"RME(2) − ME({better}): +10.0 nats" in evidence


@pytest.mark.parametrize(("seeds", "status"), [(6, TOO_FEW), (7, HELD)])
def test_a_p_of_01_needs_seven_pairs(seeds, status):
    claims = score_claims(rme_column(seeds=seeds))
    claim = of(claims, OVER_VAE, "MNIST dim 10")
    assert claim.status == status and of(claims, BEST, "MNIST dim 10").status == HELD  # five will do for that
    if status == TOO_FEW:
        assert claim.evidence.startswith("the smallest p that 6 pairs can give is 0.016; RME(2) − VAE: +10.0 nats")


def test_missing_runs_decide_nothing():
    runs = rme_column(more=695.0)
    claims = score_claims(runs[~((runs["method"] == "vae") & (runs["seed"] == 3))])
    assert {of(claims, statement, "MNIST dim 10").status for statement in (BEST, OVER_VAE)} == {TOO_FEW}
    assert of(claims, OVER_VAE, "MNIST dim 10").evidence == "VAE n=9/10"
    assert of(claims, OVER_MORE, "MNIST dim 10").status == HELD
    assert {claim.status for claim in score_claims(runs, expected_seeds=12)} == {TOO_FEW, NOT_RUN}


def test_the_papers_numbers_against_the_papers_claims(their_runs):
    """Its own tables: RME is best but on MNIST at dim 50, where ME(4) and HF(1) are above, and tied on OMNIGLOT."""
    claims = score_claims(their_runs)
    best = {claim.where: claim for claim in claims if claim.statement == BEST}
    assert len(best) == 20
    assert {where for where, claim in best.items() if claim.published == NOT_HELD} == {
        "MNIST dim 50", "OMNIGLOT dim 10",
    }  # fmt: skip
    assert {where for where, claim in best.items() if claim.published == UNKNOWN} == {
        f"CIFAR10 dim {dim}" for dim in (10, 20, 50, 100)
    }
    # the same question put to runs that have those very means
    for where, claim in best.items():
        if claim.published != UNKNOWN and where != "OMNIGLOT dim 10":  # a tie
            assert claim.status == claim.published, where
    for dim in (10, 50):
        for data in ("MNIST", "OMNIGLOT"):
            assert of(claims, "VLAE has the highest mean", f"{data} dim {dim}, FC decoder").status == HELD
            for statement in (
                "The VAE with a convolutional decoder is above the best VLAE with a fully connected one",
                "Every row is higher with the convolutional decoder than with the fully connected one",
            ):
                claim = of(claims, statement, f"{data} dim {dim}")
                assert (claim.status, claim.published) == (HELD, HELD)


def test_a_data_set_that_the_paper_lacks():
    runs = rme_column().assign(dataset="digits", dataset_label="digits")
    claims = score_claims(runs)
    assert {claim.statement for claim in claims} == {BEST, OVER_VAE, OVER_MORE}
    assert {claim.published for claim in claims} == {UNKNOWN}
    assert count(claims) == "Claims, asked of these columns: 2 held. Against the control: 1 not run."
    for listing in (claim_summary(claims), claim_listing(claims)):
        assert listing.title.startswith("Claims") and not any("paper" in title for title in listing.header)
    mixed = score_claims(pd.concat([runs, rme_column()]))
    assert claim_listing(mixed).title.startswith("The paper's claims")


# ---------------------------------------------------------------------- claims about times
def timings_of(times, device="a device"):
    return pd.DataFrame(
        [
            {"method": m, "order": o, "method_label": label(m, o), "dataset": data, "dataset_label": LABELS[data],
             "dim": dim, "decoder": decoder, "seed": 0, "inference_ms": ms, "inference_ms_sd": 0.05,
             "ratio_to_vae": ratio, "device": device, "batch_size": "128", "repeats": "5"}
            for (m, o, data, dim, decoder), (ms, ratio) in times.items()
        ]
    ).assign(variant=None).astype({"order": "Int64"})  # fmt: skip


def their_times():
    return timings_of(
        {
            (c["method"], c["order"], c["dataset"], c["dim"], c["decoder"]): (c["ms"], c["ratio"])
            for c in published_times().to_dict("records")
        }
    )


def test_the_papers_times_against_the_papers_claims():
    claims = time_claims(their_times())
    assert Counter(claim.statement.split()[0] for claim in claims) == {
        "RME": 10,
        "RME's": 5,
        "SA": 5,
        "SA's": 5,
        "VLAE": 4,
    }
    assert {(claim.status, claim.published) for claim in claims} == {(HELD, HELD)}
    assert of(claims, "RME takes no larger multiple of the VAE's time than the paper's largest", "MNIST dim 50")


def test_time_claims_that_do_not_hold():
    at = ("mnist", 50, "conv")
    ours = {("vae", None, *at): (1.0, 1.0), ("rme", 2, *at): (1.2, 1.2), ("rme", 5, *at): (2.5, 2.5)}
    ours |= {("sa", 1, *at): (2.1, 2.1), ("sa", 2, *at): (2.0, 2.0), ("iaf", 2, *at): (2.4, 2.4)}
    claims = time_claims(timings_of(ours))
    assert [claim.status for claim in claims] == [NOT_HELD] * 5
    assert [claim.published for claim in claims] == [HELD] * 5
    assert claims[0].evidence == "RME(2) 1.20×, RME(5) 2.50×; at most 1.36×"


def test_times_that_were_not_measured_decide_nothing():
    claims = time_claims(timings_of({("vae", None, "mnist", 50, "conv"): (1.0, 1.0)}))
    assert len(claims) == 5 and {claim.status for claim in claims} == {NOT_RUN}
    assert claims[0].evidence == "RME was not timed against the VAE"


def test_ratios_next_to_the_papers():
    runs = timings_of({("rme", 2, "mnist", 50, "conv"): (9.0, 1.5), ("rme", 2, "mnist", 10, "conv"): (9.0, 1.5)})
    (table,) = paper_ratio_tables(runs)
    assert "1.50 − 1.31 = +0.19" in render.to_text(table) and table.headers == ["MNIST"]
    two = paper_ratio_tables(pd.concat([runs, timings_of({("vae", None, "mnist", 50, "conv"): (9.0, 1.0)}, "other")]))
    assert [t.name for t in two] == ["ratio_to_vae-against-paper-a-device", "ratio_to_vae-against-paper-other"]


# ---------------------------------------------------------------------- the list of claims, Table 5
def test_the_list_says_the_same_everywhere():
    listing = claim_listing(score_claims(rme_column(more=695.0)))
    assert {row[0] for row in listing.rows} == {HELD, NOT_RUN}
    for text in (to_markdown(listing), to_csv(listing), to_html(listing), to_latex(listing)):
        assert text.count("RME is better than its control") == 1 and "+10.0 nats" in text
    latex = to_latex(listing)
    assert latex.count("{") == latex.count("}") and latex.count(r"\\") == len(listing.rows) + 1
    body = latex[latex.index(r"\midrule") : latex.index(r"\bottomrule")]
    assert {line.count("&") for line in body.splitlines()[1:]} == {5}
    long = to_latex(replace(listing, rows=9 * listing.rows))
    assert long.count(r" \\") == 9 * len(listing.rows) + 2 and r"\begin{table}" not in long
    order = [r"\begin{longtable}", r"\caption", r"\toprule", r"\endhead", r"\bottomrule", r"\end{longtable}"]
    assert sorted(order, key=long.index) == order and long.count("{") == long.count("}")
    assert claim_listing([]) is None and claim_summary([]) is None


def test_the_summary_counts_each_statement_once():
    other = rme_column(sa=700.5).assign(dim=50)
    summary = claim_summary(score_claims(pd.concat([rme_column(more=690.0), other])))
    rows = {row[0]: row[1:] for row in summary.rows}
    assert summary.header[1:] == [
        "Held", "Held, but not above its control", "Not held", "Not enough runs", "Not run",
        "Held by the paper's numbers",
    ]  # fmt: skip
    assert rows["RME has the highest mean"] == ["1", "0", "1", "0", "0", "1 of 2"]  # theirs is not on MNIST at dim 50
    assert rows["RME is better than VAE (p ≤ 0.01)"] == ["2", "0", "0", "0", "0", "2 of 2"]
    assert rows["RME is better than IAF (p ≤ 0.01)"] == ["0", "0", "0", "0", "2", "2 of 2"]
    assert rows["RME is better than its control (p ≤ 0.01)"] == ["1", "0", "0", "0", "1", "–"]


def test_table_5(their_runs):
    table = decoder_table(their_runs)
    assert table.groups == [("MNIST", 2), ("OMNIGLOT", 2)] and table.headers == ["10", "50", "10", "50"]
    assert len(table.rows) == 13 and [row.label for row in table.rows][:2] == ["VAE", "SA(1)"]
    text = " ".join(render.to_text(table).split())
    assert "VAE 563.6 ± 0.0 (685.1 ± 0.0) 872.6 ± 0.0 (1185.7 ± 0.0)" in text
    assert "VLAE(8) 605.7 ± 0.0 *" in text
    latex = render.to_latex(table)
    assert r" & \multicolumn{2}{c}{MNIST} & \multicolumn{2}{c}{OMNIGLOT} \\" in latex
    assert r"\cmidrule(lr){2-3} \cmidrule(lr){4-5}" in latex
    assert r"VAE & $563.6^{0.0}$ ($685.1^{0.0}$)" in latex
    assert decoder_table(rme_column()) is None
    partial = their_runs[~((their_runs.decoder == "conv") & (their_runs.seed > 2))]
    assert "563.6 ± 0.0 (n=3/10 685.1 ± 0.0)" in render.to_text(decoder_table(partial))
