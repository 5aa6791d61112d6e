"""The lists of claims, in every format."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from analysis.claims import HELD, NOT_RUN, score_claims
from analysis.listing import claim_listing, claim_summary, to_csv, to_html, to_latex, to_markdown
from tests.analysis.test_claims import rme_column


def test_every_format_has_the_claims():
    listing = claim_listing(score_claims(rme_column(more=695.0)))
    assert {row[0] for row in listing.rows} == {HELD, NOT_RUN}
    for text in (to_markdown(listing), to_csv(listing), to_html(listing), to_latex(listing)):
        assert text.count("RME is better than its control") == 1 and "+10.0 nats" in text
    latex = to_latex(listing)
    assert latex.count("{") == latex.count("}") and latex.count("\\\\\n") == len(listing.rows) + 1
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
    assert rows["RME has the highest mean"] == ["1", "0", "1", "0", "0", "1 of 2"]  # in the paper not at dim 50
    assert rows["RME is better than VAE (p ≤ 0.01)"] == ["2", "0", "0", "0", "0", "2 of 2"]
    assert rows["RME is better than IAF (p ≤ 0.01)"] == ["0", "0", "0", "0", "2", "2 of 2"]
    assert rows["RME is better than its control (p ≤ 0.01)"] == ["1", "0", "0", "0", "1", "–"]
