"""What the numbers say, in sentences: who is best in each column, and whom that can be told apart from."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pandas as pd

from analysis.render import p_text
from analysis.signed_rank import LEVEL
from analysis.stats import COLUMN, compare_column
from analysis.tables import DATASETS, SCORES, fullest, place, sort_rows

CONTROLS = ["vae", "vae-more"]
"""Methods that every claim is tested against, where they were run: the VAE, and the VAE trained for as long."""

_NAMED = 4


def findings(runs: pd.DataFrame, score: str = "test_iwae", expected_seeds: int | None = None) -> list[str]:
    """Sentences about the best of each column, in the paper's order; with several columns a summary comes first.

    Args:
        runs: one row for each run, as `analysis.collect.collect` gives them; at least one.
        score: a key of `analysis.tables.SCORES`.
        expected_seeds: runs of a complete cell; by default as many as the fullest cell of `runs`.
    """
    expected = expected_seeds or fullest(runs)
    compared = [compare_column(column, score) for _, column in runs.groupby(COLUMN)]
    compared.sort(key=_place)
    sentences = [_column_sentence(column, score, expected) for column in compared]
    return sentences if len(compared) == 1 else [_summary(compared, score), *sentences]


def _place(column: pd.DataFrame) -> tuple[str, str, int]:
    first = column.iloc[0]
    return place(first["dataset"], DATASETS), first["decoder"], first["dim"]


def _column_sentence(column: pd.DataFrame, score: str, expected: int) -> str:
    first = column.iloc[0]
    decoder = "" if first["decoder"] == "conv" else f" with the {first['decoder'].upper()} decoder"
    where = f"On {first['dataset_label']} at dim {first['dim']}{decoder}"
    what = SCORES[score][0].lower() + SCORES[score][1:]
    if not first["is_best"]:
        return f"{where}, no run has a {what}."
    sd = "" if np.isnan(first["sd"]) else f", sd {first['sd']:.1f}"
    n = f"{first['n']}" if first["n"] >= expected else f"{first['n']} of {expected}"
    over = f"{n} seed{'' if n == '1' else 's'}"
    says = f"{where}, {first['method_label']} has the best {what} (mean {first['mean']:.1f} nats{sd}, over {over})"
    others = column.iloc[1:]
    if others.empty:
        return f"{says}; there is nothing yet to compare it with."
    rivals = others[others["method"].isin(CONTROLS)]
    if rivals.empty:
        rivals = others.head(1)
    tests = ", ".join(f"against {rival['method_label']} {_p(rival)}" for _, rival in rivals.iterrows())
    close = [row["method_label"] for _, row in sort_rows(others[others["p"] > LEVEL]).iterrows()]
    tail = f" It is not told apart (p > {LEVEL}) from {_listed(close)}." if close else ""
    return f"{says}; {tests}.{tail}"


def _p(rival: pd.Series) -> str:
    if np.isnan(rival["p"]):
        return f"no test is possible ({rival['note'] or 'no score'})"
    return f"the one-sided Wilcoxon test gives p = {p_text(rival['p'])}"


def _listed(labels: list[str]) -> str:
    more = len(labels) - _NAMED
    return ", ".join(labels[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _summary(compared: list[pd.DataFrame], score: str) -> str:
    """`RME has the best mean test log-likelihood in 3 of 4 columns (...), HF in 1. The best is better than ...`."""
    winners = [column["method_label"].iloc[0] for column in compared if column["is_best"].iloc[0]]
    best = Counter(re.sub(r"\(\d+\)$", "", label) for label in winners)  # whatever the order
    what = SCORES[score][0].lower() + SCORES[score][1:]
    if not best:
        return f"No run has a {what}."
    (label, wins), *rest = best.most_common()
    text = f"{label} has the best mean {what} in {wins} of {len(compared)} columns (data set, decoder and dim)"
    text += "".join(f", {other} in {count}" for other, count in rest) + "."
    rivals = pd.concat([column[(column["method"] == CONTROLS[0]) & column["p"].notna()] for column in compared])
    if rivals.empty:
        return text
    better = int((rivals["p"] <= LEVEL).sum())
    return (
        f"{text} The best is better than the VAE (p ≤ {LEVEL}) in {better} of the {len(rivals)} columns that test it."
    )
