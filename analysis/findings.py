"""The findings in sentences: the best row of each column, and its gain over the VAE and over its control."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd

from analysis.gains import Gain, gain_words, gains, own_words
from analysis.names import BASELINE, CONTROL
from analysis.render import p_text
from analysis.signed_rank import LEVEL, smallest_p
from analysis.stats import compare_column
from analysis.tables import SCORES, fullest, method_of_label, sort_rows, sorted_columns
from analysis.trainings import NO_CONTROL, Key, key_of

SUBJECT = "rme"
"""The paper's method. Its gain is reported in every column that has it, whichever row is best."""

_NAMED = 4  # labels that a list names before "and n more"


def findings(runs: pd.DataFrame, score: str = "test_iwae", expected_seeds: int | None = None) -> list[str]:
    """Sentences about the best row of each column, in the paper's order; with several columns a summary comes first.

    The best is chosen among all rows, controls included. Each gain over the VAE is stated with that of its control.

    Args:
        runs: one row for each run, as `analysis.collect.collect` returns them; at least one.
        score: a key of `analysis.tables.SCORES`.
        expected_seeds: runs of a complete cell; by default as many as the fullest cell of `runs` has.
    """
    expected = expected_seeds or fullest(runs)
    columns = [(compare_column(column, score), gains(column, score)) for column in sorted_columns(runs)]
    sentences = [_of_column(compared, found, score, expected) for compared, found in columns]
    if len(sentences) == 1:
        return sentences[0]
    return [_summary(columns, score), *map(" ".join, sentences)]


def _of_column(column: pd.DataFrame, found: list[Gain], score: str, expected: int) -> list[str]:
    """One sentence with the best row and the gains; a second text with the tests, if there are any."""
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
    tied = column[column["mean"].eq(first["mean"]) & column["n"].eq(first["n"])]["method_label"].tolist()[1:]
    few = ", too few for a test" if smallest_p(int(first["n"])) > LEVEL else ""
    says = (
        f"{where}, {first['method_label']}{kind} has the best {what} of all rows "
        f"(mean {first['mean']:.1f} nats{sd}, over {over}{few})"
    ) + (f", tied with {_listed(tied)}" if tied else "")
    others = column.iloc[1:]
    if others.empty:
        return [f"{says}; there is nothing yet to compare it with."]
    reported = _reported(found)
    opening = "; ".join([says, *filter(None, map(gain_words, reported))]) + "."
    own = "; ".join(filter(None, map(own_words, reported)))
    tests = _tests(key_of(first), others, reported)
    close = [row["method_label"] for _, row in sort_rows(others[others["p"] > LEVEL]).iterrows()]
    short = others[(others["n"] < first["n"]) & (others["n"] > 0)]
    lacking = [_short(row, f" of {expected} seeds") for _, row in sort_rows(short[short["n"] < expected]).iterrows()]
    fewer = [_short(row, "") for _, row in sort_rows(short[short["n"] >= expected]).iterrows()]
    details = [
        f"Against the control, {own}." if own else "",
        f"By the one-sided Wilcoxon test, {first['method_label']} against {tests}." if tests else "",
        f"It is indistinguishable (p > {LEVEL}) from {_listed(close)}." if close else "",
        f"Not ranked, as runs are missing: {_listed(lacking)}." if lacking else "",
        f"Not ranked, as the best row has more seeds ({first['n']}): {_listed(fewer)}." if fewer else "",
    ]
    return [opening, *filter(None, [" ".join(filter(None, details))])]


def _reported(found: list[Gain]) -> list[Gain]:
    """Gains to report, without repeats: of the best method, of `SUBJECT`'s best row, and of its best without a variant.

    Controls and rows that are not trained are no methods here.
    """
    methods = [gain for gain in found if not gain.is_control and gain.is_trained]
    ours = [gain for gain in methods if gain.key[0] == SUBJECT]
    usual = [gain for gain in ours if gain.key[2] is None]
    return list({gain.key: gain for gain in [*methods[:1], *ours[:1], *usual[:1]]}.values())


def _tests(best: Key, others: pd.DataFrame, reported: list[Gain]) -> str:
    """Tests of the best row against the VAE and the controls of the reported rows; without those, against the next row.

    Its own control is left out: `own_words` has that test.
    """
    own = reported[0].control if reported and reported[0].key == best else None
    wanted = {(BASELINE, None, None), *(gain.control for gain in reported)}
    keys = [key_of(row) for _, row in others.iterrows()]
    rivals = others[[key in wanted and key != own for key in keys]]
    if rivals.empty and own is None:
        rivals = others.head(1)
    return "; against ".join(f"{rival['method_label']}: {_p(rival)}" for _, rival in rivals.iterrows())


def _p(rival: pd.Series) -> str:
    if np.isnan(rival["p"]):
        return f"no test is possible ({rival['note'] or 'no score'})"
    return f"p = {p_text(rival['p'])}"


def _short(row: pd.Series, of: str) -> str:
    return f"{row['method_label']} ({row['n']}{of})"


def _listed(labels: list[str]) -> str:
    more = len(labels) - _NAMED
    return ", ".join(labels[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _summary(columns: list[tuple[pd.DataFrame, list[Gain]]], score: str) -> str:
    """`VAE-more has the best mean test log-likelihood of all rows in 3 of 4 columns (...), RME in 1; ...`."""
    compared = [column for column, _ in columns]
    winners = [column["method_label"].iloc[0] for column in compared if column["is_best"].iloc[0]]
    best = Counter(method_of_label(label) for label in winners)  # all orders count as one method
    what = SCORES[score][0].lower() + SCORES[score][1:]
    if not best:
        return f"No run has a {what}."
    (label, wins), *rest = best.most_common()
    text = (
        f"{label} has the best mean {what} of all rows in {wins} of {len(compared)} columns (data set, decoder and dim)"
    )
    text += "".join(f", {other} in {count}" for other, count in rest)
    text += _over_the_vae(compared)
    return f"{text}; {_over_controls([_reported(found)[0] for _, found in columns if _reported(found)])}."


def _over_the_vae(compared: list[pd.DataFrame]) -> str:
    """In how many columns the best row is significantly better than the VAE."""
    rivals = pd.concat([
        column[(column["method"] == BASELINE) & column["variant"].isna() & column["p"].notna()] for column in compared
    ])  # fmt: skip
    if rivals.empty:
        return ""
    better = int((rivals["p"] <= LEVEL).sum())
    return f"; the best is better than the VAE (p ≤ {LEVEL}) in {better} of the {len(rivals)} columns that test it"


def _over_controls(best: list[Gain]) -> str:
    """In how many columns the best method is above its control, and significantly so."""
    having = [gain for gain in best if gain.control is not None and not np.isnan(gain.above_control)]
    if not having:
        return NO_CONTROL
    above = sum(gain.above_control > 0 for gain in having)
    significant = sum(gain.p <= LEVEL for gain in having)
    text = (
        f"the best of the methods is above its control, the VAE with equal training, in {above} of the {len(having)} "
        f"columns that have one (p ≤ {LEVEL} in {significant})"
    )
    without = len(best) - len(having)
    return text + (f"; in {without} more {NO_CONTROL}" if without else "")
