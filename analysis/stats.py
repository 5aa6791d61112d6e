"""The statistics of the tables: means over seeds, and who is told apart from the best (supplement, section 1.4).

The functions take plain data frames with one row for each run: the columns method, order, variant, dataset, dim,
decoder, seed and a score in nats, where more is better. A score that is not finite counts as missing.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd

from analysis.signed_rank import LEVEL, holm, location, smallest_p, wilcoxon_greater

ROW = ["method", "order", "variant"]
"""One row of a table; a variant names settings that differ from the row's usual ones, NA where they do not."""

CELL = [*ROW, "dataset", "dim", "decoder"]
"""One number in a table."""

KEY_TYPES = {"order": "Int64", "variant": "str"}
"""Of the columns of `ROW` that may be NA: with these, NA is a value like any other in groups and merges."""

COLUMN = ["dataset", "dim", "decoder"]
"""One column of a table: the cells that are compared with one another."""

LABELS = ["method_label", "dataset_label"]
"""Carried along where they are given."""

DIFFERENCE = ["median", "estimate", "low", "high", "level"]
"""What is told of a paired difference, as in `analysis.signed_rank.Location`."""


def summarise(runs: pd.DataFrame, score: str = "test_iwae") -> pd.DataFrame:
    """Mean and standard deviation of each cell.

    Returns:
        One row for each cell, in the order of its names. Columns: those of `CELL`, the labels
        that `runs` has, n (runs with a score), mean and sd in nats (sd with n - 1; NaN for n = 1), seeds (a tuple),
        restarts (of each of those seeds, which restart validation chose; empty where `runs` does not say).

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
            | {"n": len(values), "mean": values.mean(), "sd": values.std(ddof=1), "seeds": tuple(values.index)}
            | {"restarts": _restarts(cell, values.index)}
        )
    frame = pd.DataFrame(rows, columns=[*CELL, *labels, "n", "mean", "sd", "seeds", "restarts"])
    return frame.astype({**KEY_TYPES, "mean": float, "sd": float})


def compare_column(runs: pd.DataFrame, score: str = "test_iwae") -> pd.DataFrame:
    """Compare the cells of one column with the best of them, as the colours of Tables 7-11 do.

    The best is the cell of the highest mean among those that have the most runs: a mean of fewer seeds is of other
    seeds, which differ from one another by more than methods do. Each other cell is tested against it by the one-sided
    Wilcoxon test, paired by seed. A p is given only where there are enough pairs for one of .05 or less.

    Args:
        runs: runs of one (dataset, dim, decoder).
        score: name of the score's column, nats.

    Returns:
        The columns of `summarise`, best first, and: rank (1 = the highest mean; NA where runs are missing), is_best,
        p (NaN for the best and where it is not given), n_pairs, note, colour (see `colour_of`; "best" for the best),
        p_holm (p corrected for the tests of this column, `analysis.signed_rank.holm`), and how far the best is above
        this cell, paired by seed, in nats: median, estimate, low, high, level (`analysis.signed_rank.location`).

    Raises:
        ValueError: the runs belong to more than one column, or a seed occurs twice in a cell.
    """
    columns = runs[COLUMN].drop_duplicates()
    if len(columns) > 1:
        raise ValueError(f"runs of {len(columns)} columns; compare those of one (dataset, dim, decoder) at a time")
    table = summarise(runs, score)
    whole = (table["n"] == table["n"].max()) & (table["n"] > 0)
    order = table["mean"].where(whole).sort_values(ascending=False, kind="stable").index
    rest = table["mean"][~whole].sort_values(ascending=False, kind="stable").index
    table = table.loc[[*(i for i in order if whole[i]), *rest]].reset_index(drop=True)
    scores = {_cell_key(key): _scores(cell, score) for key, cell in _cells(runs, score)}
    keys = [_cell_key(row) for row in table[CELL].itertuples(index=False, name=None)]
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
    """The colour of a p in Tables 7-11: none up to .01, then yellow-orange, orange above .05, red-orange above .1.

    A NaN gives "untested": leaving it without a colour would say that the difference is certain.
    """
    if np.isnan(p):
        return "untested"
    return "" if p <= 0.01 else "yellow-orange" if p <= 0.05 else "orange" if p <= 0.1 else "red-orange"


def paired_difference(runs: pd.DataFrame, score: str = "test_iwae", baseline: str = "vae") -> pd.DataFrame:
    """Each cell's difference from the baseline of the same column, paired by seed.

    The baseline is the method's row without a variant; where it has none, its first (`of_baseline`).

    Returns:
        One row for each cell but the baseline's own. Columns: those of the cell and its labels, n (seeds that both
        have), mean and sd of the differences in nats (positive: better than the baseline; NaN without a pair), and
        of the same differences median, estimate, low, high and level (`analysis.signed_rank.location`).
    """
    rows = []
    for _, column in runs.groupby(COLUMN, dropna=False):
        is_reference = of_baseline(column, baseline)
        reference = column[is_reference]
        rows += [difference_row(cell, reference, score) for _, cell in _cells(column[~is_reference], score)]
    return difference_frame(runs, rows)


def difference_row(cell: pd.DataFrame, reference: pd.DataFrame, score: str) -> dict[str, Any]:
    """A row of `paired_difference`: the runs of one cell against those of another."""
    ours, theirs = _scores(cell, score), _scores(reference, score)
    difference = (ours - theirs).dropna()
    names = [*CELL, *(name for name in LABELS if name in cell)]
    return (
        {name: cell[name].iloc[0] for name in names}
        | {"n": len(difference), "mean": difference.mean(), "sd": difference.std(ddof=1)}
        | _difference(ours, theirs)
    )


def difference_frame(runs: pd.DataFrame, rows: list[dict[str, Any]]) -> pd.DataFrame:
    """The frame of `difference_row`'s rows, with the labels that `runs` has."""
    labels = [name for name in LABELS if name in runs]
    frame = pd.DataFrame(rows, columns=[*CELL, *labels, "n", "mean", "sd", *DIFFERENCE])
    return frame.astype({**KEY_TYPES, "mean": float, "sd": float})


def of_baseline(column: pd.DataFrame, method: str) -> pd.Series:
    """Which runs of a column are the baseline's: the method's without a variant, else those of its first variant."""
    of_method = column["method"] == method
    plain = of_method & column["variant"].isna()
    if plain.any() or not of_method.any():
        return plain
    return of_method & (column["variant"] == min(column.loc[of_method, "variant"], key=natural))


def natural(text: object) -> list[tuple[bool, float, str]]:
    """A key that sorts words and the numbers in them, these by size; NA first."""
    if pd.isna(text):  # type: ignore[call-overload]
        return []
    parts = re.split(r"(\d+(?:\.\d+)?(?:e[+-]?\d+)?)", str(text))
    return [(i % 2 == 0, 0.0 if i % 2 == 0 else float(part), part) for i, part in enumerate(parts)]


def variant_places(variants: pd.Series) -> pd.Series:
    """A number for each of these variants that sorts them as `natural` does, after the rows that have none: 0."""
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
    """The runs of each cell, with the columns that are read here; a method without order is a cell like any other."""
    names = [name for name in (*CELL, *LABELS, "seed", "chosen_restart", score) if name in runs]  # of some fifty
    return [(tuple(key), cell) for key, cell in runs[names].astype(KEY_TYPES).groupby(CELL, dropna=False)]


def _cell_key(key: tuple) -> tuple:
    """A key that equals itself: NA does not."""
    return tuple(None if pd.isna(value) else value for value in key)


def _name(key: tuple) -> str:
    return " ".join(str(value) for value in key if not pd.isna(value))


def _scores(cell: pd.DataFrame, score: str) -> pd.Series:
    """The finite scores of one cell by seed, in the order of the seeds."""
    values = cell[score].to_numpy(dtype=float, na_value=np.nan)
    kept = np.isfinite(values)
    seeds = cell["seed"].to_numpy(dtype=int)[kept]
    order = np.argsort(seeds, kind="stable")
    return pd.Series(values[kept][order], index=seeds[order])
