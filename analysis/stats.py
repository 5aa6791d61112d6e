"""The statistics of the tables: means over seeds, and tests of each row against the best (supplement, section 1.4).

The functions take plain data frames with one row for each run. Columns: method, order, variant, dataset, dim, decoder,
seed and a score in nats, where higher is better. A score that is not finite counts as missing.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd

from analysis.cells import cell_of
from analysis.names import CELL, COLUMN
from analysis.signed_rank import LEVEL, holm, location, smallest_p, wilcoxon_greater

KEY_TYPES = {"order": "Int64", "variant": "str"}
"""Dtypes of the columns of `ROW` that may be NA, with which groups and merges treat NA like any other value."""

LABELS = ["method_label", "dataset_label"]
"""Copied into the results if the runs have them."""

DIFFERENCE = ["median", "estimate", "low", "high", "level"]
"""Statistics of a paired difference, as in `analysis.signed_rank.Location`."""


def summarise(runs: pd.DataFrame, score: str = "test_iwae") -> pd.DataFrame:
    """Mean and standard deviation of each cell.

    Returns:
        One row for each cell, sorted by the columns of `CELL`. Columns: those of `CELL`, the labels that `runs` has,
        n (runs with a score), mean and sd in nats (sd with n - 1; NaN for n = 1), seeds and their scores, values, in
        nats (tuples), restarts (the restart that validation chose for each of those seeds; empty unless it is recorded
        for all).

    Raises:
        ValueError: a seed occurs twice in a cell.
    """
    labels = [name for name in LABELS if name in runs]
    rows = []
    for key, cell in _cells(runs, score):
        if cell["seed"].duplicated().any():
            raise ValueError(f"{_name(key)}: a seed occurs twice in {sorted(cell['seed'])}")
        values = _scores(cell, score)
        rows.append(
            dict(zip(CELL, key, strict=True))
            | {name: cell[name].iloc[0] for name in labels}
            | {"n": len(values), "mean": values.mean(), "sd": values.std(ddof=1)}
            | {"seeds": tuple(values.index), "values": tuple(values), "restarts": _restarts(cell, values.index)}
        )
    frame = pd.DataFrame(rows, columns=[*CELL, *labels, "n", "mean", "sd", "seeds", "values", "restarts"])
    return frame.astype({**KEY_TYPES, "mean": float, "sd": float})


def compare_column(runs: pd.DataFrame, score: str = "test_iwae") -> pd.DataFrame:
    """Test the best cell of one column against each other cell, as the colours of Tables 7-11 do.

    The best cell has the highest mean among those with the most runs. A mean over fewer seeds is not comparable: seeds
    differ from one another by more than methods do. The test is the one-sided Wilcoxon signed-rank test, paired by
    seed. p is NaN if the pairs are too few for a p of .05 or less.

    Args:
        runs: runs of one (dataset, dim, decoder).
        score: column of the score, nats.

    Returns:
        The columns of `summarise`, best first, and: rank (1 = the highest mean; NA if the cell has fewer runs than
        others), is_best, p (NaN for the best), n_pairs, note, colour (see `colour_of`; "best" for the best), p_holm
        (p corrected for all tests of this column, `analysis.signed_rank.holm`), and of the paired difference best
        minus this cell, in nats: median, estimate, low, high, level (`analysis.signed_rank.location`).

    Raises:
        ValueError: the runs belong to more than one column, or a seed occurs twice in a cell.
    """
    columns = runs[COLUMN].drop_duplicates()
    if len(columns) > 1:
        raise ValueError(f"runs of {len(columns)} columns; pass those of one (dataset, dim, decoder) at a time")
    table = summarise(runs, score)
    has_most = (table["n"] == table["n"].max()) & (table["n"] > 0)
    order = table["mean"].where(has_most).sort_values(ascending=False, kind="stable").index
    rest = table["mean"][~has_most].sort_values(ascending=False, kind="stable").index
    table = table.loc[[*(i for i in order if has_most[i]), *rest]].reset_index(drop=True)
    scores = {cell_of(cell.iloc[0]): _scores(cell, score) for _, cell in _cells(runs, score)}
    keys = [cell_of(row) for row in table[CELL].to_dict("records")]
    ranked = table["mean"].where(table["n"] == table["n"].max())
    table["rank"] = ranked.rank(ascending=False, method="min").astype("Int64")
    table["is_best"] = (table.index == 0) & (table["n"] > 0)
    tests = []
    for key, is_best, n in zip(keys, table["is_best"], table["n"], strict=True):
        if is_best:
            tests.append({"p": np.nan, "n_pairs": n, "note": "", "colour": "best"} | _difference({}, {}))
            continue
        result = wilcoxon_greater(scores[keys[0]], scores[key])
        p = result.p if smallest_p(result.n_pairs - result.n_zero) <= LEVEL else np.nan
        tests.append(
            {"p": p, "n_pairs": result.n_pairs, "note": result.note, "colour": colour_of(p)}
            | _difference(scores[keys[0]], scores[key])
        )
    table = table.join(pd.DataFrame(tests, columns=["p", "n_pairs", "note", "colour", *DIFFERENCE]))
    table["p_holm"] = holm(table["p"])
    return table


def colour_of(p: float) -> str:
    """Colour of a p in Tables 7-11: none up to .01, yellow-orange up to .05, orange up to .1, red-orange above.

    NaN has the colour "untested": no colour at all would mean that the difference is significant.
    """
    if np.isnan(p):
        return "untested"
    return "" if p <= 0.01 else "yellow-orange" if p <= 0.05 else "orange" if p <= 0.1 else "red-orange"


def paired_difference(runs: pd.DataFrame, score: str = "test_iwae", baseline: str = "vae") -> pd.DataFrame:
    """Difference of each cell from the baseline of the same column, paired by seed.

    The baseline is the row of the method `baseline` without a variant, or else its first variant (`of_baseline`).

    Returns:
        One row for each cell except the baseline. Columns: those of `CELL`, the labels that `runs` has, n (pairs),
        mean and sd of the differences in nats (positive: better than the baseline; NaN without a pair), seeds and the
        difference of each, values (tuples), and of the same differences median, estimate, low, high and level
        (`analysis.signed_rank.location`).
    """
    rows = []
    for _, column in runs.groupby(COLUMN, dropna=False):
        is_reference = of_baseline(column, baseline)
        reference = column[is_reference]
        rows += [difference_row(cell, reference, score) for _, cell in _cells(column[~is_reference], score)]
    return difference_frame(runs, rows)


def difference_row(cell: pd.DataFrame, reference: pd.DataFrame, score: str) -> dict[str, Any]:
    """A row of `paired_difference`: `cell` minus `reference`, the runs of one cell each."""
    ours, theirs = _scores(cell, score), _scores(reference, score)
    difference = (ours - theirs).dropna()
    names = [*CELL, *(name for name in LABELS if name in cell)]
    return (
        {name: cell[name].iloc[0] for name in names}
        | {"n": len(difference), "mean": difference.mean(), "sd": difference.std(ddof=1)}
        | {"seeds": tuple(difference.index), "values": tuple(difference)}
        | _difference(ours, theirs)
    )


def difference_frame(runs: pd.DataFrame, rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Data frame of rows of `difference_row`, with the labels that `runs` has."""
    labels = [name for name in LABELS if name in runs]
    frame = pd.DataFrame(rows, columns=[*CELL, *labels, "n", "mean", "sd", "seeds", "values", *DIFFERENCE])
    return frame.astype({**KEY_TYPES, "mean": float, "sd": float})


def of_baseline(column: pd.DataFrame, method: str) -> pd.Series:
    """Mask of the baseline's runs in a column: the method's runs without a variant, or else of its first variant."""
    of_method = column["method"] == method
    plain = of_method & column["variant"].isna()
    if plain.any() or not of_method.any():
        return plain
    return of_method & (column["variant"] == min(column.loc[of_method, "variant"], key=natural))


def natural(text: object) -> list[tuple[bool, float, str]]:
    """Sort key that orders the numbers within a text by size (`kl 20` before `kl 100`); NA comes first."""
    if pd.isna(text):  # type: ignore[call-overload]
        return []
    parts = re.split(r"(\d+(?:\.\d+)?(?:e[+-]?\d+)?)", str(text))
    return [(i % 2 == 0, 0.0 if i % 2 == 0 else float(part), part) for i, part in enumerate(parts)]


def variant_places(variants: pd.Series) -> pd.Series:
    """Position of each variant in the order of `natural`, from 1; 0 without a variant."""
    known = {variant: i for i, variant in enumerate(sorted(variants.dropna().unique(), key=natural), 1)}
    return variants.map(known).fillna(0)


def _difference(a: Any, b: Any) -> dict[str, float]:
    found = location(a, b)
    return {name: getattr(found, name) for name in DIFFERENCE}


def _restarts(cell: pd.DataFrame, seeds: pd.Index) -> tuple[int, ...]:
    if "chosen_restart" not in cell:
        return ()
    chosen = dict(zip(cell["seed"], cell["chosen_restart"], strict=True))
    return () if any(pd.isna(chosen[seed]) for seed in seeds) else tuple(int(chosen[seed]) for seed in seeds)


def _cells(runs: pd.DataFrame, score: str) -> list[tuple[tuple, pd.DataFrame]]:
    """(key, runs) of each cell, NA being a value of the key like any other."""
    names = [name for name in (*CELL, *LABELS, "seed", "chosen_restart", score) if name in runs]  # of ~50 columns
    return [(tuple(key), cell) for key, cell in runs[names].astype(KEY_TYPES).groupby(CELL, dropna=False)]


def _name(key: tuple) -> str:
    return " ".join(str(value) for value in key if not pd.isna(value))


def _scores(cell: pd.DataFrame, score: str) -> pd.Series:
    """The finite scores of one cell, indexed and sorted by seed."""
    values = cell[score].to_numpy(dtype=float, na_value=np.nan)
    kept = np.isfinite(values)
    seeds = cell["seed"].to_numpy(dtype=int)[kept]
    order = np.argsort(seeds, kind="stable")
    return pd.Series(values[kept][order], index=seeds[order])
