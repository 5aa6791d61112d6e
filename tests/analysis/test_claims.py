"""The paper's claims: which hold of runs made up for it, and of runs that have the paper's own numbers."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd
import pytest

from analysis.claims import HELD, NOT_ABOVE, NOT_HELD, NOT_RUN, TOO_FEW, UNKNOWN, count, score_claims, time_claims
from analysis.listing import claim_listing, claim_summary
from analysis.paper import against_paper, published_times
from tests.analysis.test_paper import SPREAD, runs_of, their_runs, timings_of


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


def test_the_papers_numbers_against_the_papers_claims():
    """Its own tables: RME is best but on MNIST at dim 50, where ME(4) and HF(1) are above, and tied on OMNIGLOT."""
    claims = score_claims(their_runs())
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
