"""What the numbers say, in sentences: who is best in each column, and what its gain over the VAE is worth."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd

from analysis.gains import Gain, gain_words, gains, own_words
from analysis.render import p_text
from analysis.signed_rank import LEVEL, smallest_p
from analysis.stats import compare_column
from analysis.tables import SCORES, fullest, method_of_label, sort_rows, sorted_columns
from analysis.trainings import BASELINE, CONTROL, NO_CONTROL, Key, key_of

SUBJECT = "rme"
"""The paper's method: what is told of it wherever it was run, whoever is best."""

_NAMED = 4


def findings(runs: pd.DataFrame, score: str = "test_iwae", expected_seeds: int | None = None) -> list[str]:
    """Sentences about the best of each column, in the paper's order; with several columns a summary comes first.

    The best is that of all rows, controls included; and no gain over the VAE is told without that of its control.

    Args:
        runs: one row for each run, as `analysis.collect.collect` gives them; at least one.
        score: a key of `analysis.tables.SCORES`.
        expected_seeds: runs of a complete cell; by default as many as the fullest cell of `runs`.
    """
    expected = expected_seeds or fullest(runs)
    columns = [(compare_column(column, score), gains(column, score)) for column in sorted_columns(runs)]
    said = [_of_column(compared, found, score, expected) for compared, found in columns]
    if len(said) == 1:
        return said[0]
    return [_summary(columns, score), *(" ".join(sentences) for sentences in said)]


def _of_column(column: pd.DataFrame, found: list[Gain], score: str, expected: int) -> list[str]:
    """The opening sentence, and one of tests if there is anything to test."""
    first = column.iloc[0]
    decoder = "" if first["decoder"] == "conv" else f" with the {first['decoder'].upper()} decoder"
    where = f"On {first['dataset_label']} at dim {first['dim']}{decoder}"
    what = SCORES[score][0].lower() + SCORES[score][1:]
    if not first["is_best"]:
        return [f"{where}, no run has a {what}."]
    sd = "" if np.isnan(first["sd"]) else f", sd {first['sd']:.1f}"
    n = f"{first['n']}" if first["n"] >= expected else f"{first['n']} of {expected}"
    over = f"{n} seed{'' if n == '1' else 's'}"
    best = next((gain for gain in found if gain.key == key_of(first)), None)
    kind = "" if best is None or best.is_trained else ", untrained,"
    kind = ", a control," if first["method"] == CONTROL else kind
    equals = column[column["mean"].eq(first["mean"]) & column["n"].eq(first["n"])]["method_label"].tolist()[1:]
    few = ", too few for a test" if smallest_p(int(first["n"])) > LEVEL else ""
    says = (
        f"{where}, {first['method_label']}{kind} has the best {what} of all rows "
        f"(mean {first['mean']:.1f} nats{sd}, over {over}{few})"
    ) + (f", and {_listed(equals)} the very same" if equals else "")
    others = column.iloc[1:]
    if others.empty:
        return [f"{says}; there is nothing yet to compare it with."]
    told = _told(found)
    opening = "; ".join([says, *filter(None, map(gain_words, told))]) + "."
    own = "; ".join(filter(None, map(own_words, told)))
    tests = _tests(key_of(first), others, told)
    close = [row["method_label"] for _, row in sort_rows(others[others["p"] > LEVEL]).iterrows()]
    short = others[(others["n"] < first["n"]) & (others["n"] > 0)]
    lacking = [f"{row['method_label']} ({row['n']} of {first['n']} seeds)" for _, row in sort_rows(short).iterrows()]
    details = [
        f"Against the control, {own}." if own else "",
        f"By the one-sided Wilcoxon test, {first['method_label']} against {tests}." if tests else "",
        f"It is not told apart (p > {LEVEL}) from {_listed(close)}." if close else "",
        f"Not ranked, as runs are missing: {_listed(lacking)}." if lacking else "",
    ]
    return [opening, *filter(None, [" ".join(filter(None, details))])]


def _told(found: list[Gain]) -> list[Gain]:
    """The best row that is trained and no control, the best of the paper's method, and its best without a variant."""
    methods = [gain for gain in found if not gain.is_control and gain.is_trained]
    ours = [gain for gain in methods if gain.key[0] == SUBJECT]
    usual = [gain for gain in ours if gain.key[2] is None]
    return list({gain.key: gain for gain in [*methods[:1], *ours[:1], *usual[:1]]}.values())


def _tests(best: Key, others: pd.DataFrame, told: list[Gain]) -> str:
    """Of the best row against the VAE and the controls of the rows told of; without these, against the next.

    Its test against its own control has been told with its gain.
    """
    own = told[0].control if told and told[0].key == best else None
    wanted = {(BASELINE, None, None), *(gain.control for gain in told)}
    keys = [key_of(row) for _, row in others.iterrows()]
    rivals = others[[key in wanted and key != own for key in keys]]
    if rivals.empty and own is None:
        rivals = others.head(1)
    return "; against ".join(f"{rival['method_label']}: {_p(rival)}" for _, rival in rivals.iterrows())


def _p(rival: pd.Series) -> str:
    if np.isnan(rival["p"]):
        return f"no test is possible ({rival['note'] or 'no score'})"
    return f"p = {p_text(rival['p'])}"


def _listed(labels: list[str]) -> str:
    more = len(labels) - _NAMED
    return ", ".join(labels[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _summary(columns: list[tuple[pd.DataFrame, list[Gain]]], score: str) -> str:
    """`VAE-more has the best mean test log-likelihood of all rows in 3 of 4 columns (...), RME in 1; ...`."""
    compared = [column for column, _ in columns]
    winners = [column["method_label"].iloc[0] for column in compared if column["is_best"].iloc[0]]
    best = Counter(method_of_label(label) for label in winners)  # whatever the order
    what = SCORES[score][0].lower() + SCORES[score][1:]
    if not best:
        return f"No run has a {what}."
    (label, wins), *rest = best.most_common()
    text = (
        f"{label} has the best mean {what} of all rows in {wins} of {len(compared)} columns (data set, decoder and dim)"
    )
    text += "".join(f", {other} in {count}" for other, count in rest)
    text += _over_the_vae(compared)
    return f"{text}; {_over_controls([_told(found)[0] for _, found in columns if _told(found)])}."


def _over_the_vae(compared: list[pd.DataFrame]) -> str:
    rivals = pd.concat([
        column[(column["method"] == BASELINE) & column["variant"].isna() & column["p"].notna()] for column in compared
    ])  # fmt: skip
    if rivals.empty:
        return ""
    better = int((rivals["p"] <= LEVEL).sum())
    return f"; the best is better than the VAE (p ≤ {LEVEL}) in {better} of the {len(rivals)} columns that test it"


def _over_controls(best: list[Gain]) -> str:
    """What the best row that is no control, of each column, has above its own control."""
    having = [gain for gain in best if gain.control is not None and not np.isnan(gain.above_control)]
    if not having:
        return NO_CONTROL
    above = sum(gain.above_control > 0 for gain in having)
    surely = sum(gain.p <= LEVEL for gain in having)
    text = (
        f"the best of the methods is above its control, the VAE with equal training, in {above} of the {len(having)} "
        f"columns that have one (p ≤ {LEVEL} in {surely})"
    )
    lacking = len(best) - len(having)
    return text + (f"; in {lacking} more {NO_CONTROL}" if lacking else "")
