"""The tables of the paper as values, one for each data set and decoder: what is in them, not how they look."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.stats import CELL, compare_column, paired_difference, smallest_p

METHODS = ["vae", "sa", "iaf", "hf", "me", "rme", "bvi-er1", "bvi-er2", "vlae"]
"""The paper's order of rows; other methods follow by name."""

DATASETS = ["mnist", "omniglot", "cifar10", "svhn", "celeba"]
"""The paper's order of Tables 7-11; other data sets follow by name."""

SCORES = {
    "test_iwae": "Test log-likelihood",
    "test_elbo": "Test ELBO",
    "val_iwae": "Validation log-likelihood",
    "val_elbo": "Validation ELBO",
}
"""Title of each score; all in nats per image, where more is better."""

DECODERS = {"conv": "convolutional decoder", "fc": "fully connected decoder"}


@dataclass(frozen=True)
class Row:
    """A method at one order."""

    method: str
    order: int | None
    label: str


@dataclass(frozen=True)
class Entry:
    """One number of a table.

    Attributes:
        n: runs (or pairs) behind it; expected: how many there should be.
        mean, sd: in nats; NaN where n is too small for them.
        rank: 1 for the highest mean of the column; None where the column is not compared.
        p, n_pairs: of the Wilcoxon test against the best; NaN and 0 where there was none.
        colour: of `analysis.stats.compare_column`; empty where the column is not compared.
        note: what a reader should know about the test.
    """

    n: int
    expected: int
    mean: float
    sd: float
    rank: int | None = None
    p: float = np.nan
    n_pairs: int = 0
    colour: str = ""
    note: str = ""

    @property
    def incomplete(self) -> str:
        """`n=3/10` where runs are missing, else empty."""
        return f"n={self.n}/{self.expected}" if self.n < self.expected else ""


@dataclass(frozen=True)
class Table:
    """Rows of methods, columns of latent dimensions.

    Attributes:
        name: of its files: `test_iwae-mnist-conv`.
        title: one line; caption: how to read it, plain text.
        score: column of the runs that it shows.
        signed: whether the numbers are differences and carry their sign.
        entries: by (row, dim); a cell without any run is not there.
    """

    name: str
    title: str
    caption: str
    score: str
    dataset: str
    dataset_label: str
    decoder: str
    rows: list[Row]
    dims: list[int]
    entries: dict[tuple[Row, int], Entry]
    signed: bool = False

    @property
    def colours(self) -> set[str]:
        """The colours that occur, for a legend."""
        return {entry.colour for entry in self.entries.values()}


def score_tables(runs: pd.DataFrame, score: str = "test_iwae", expected_seeds: int | None = None) -> list[Table]:
    """Tables 7-11 (and 5): the mean score of each cell, compared within its column.

    Args:
        runs: one row for each run, as `analysis.collect.collect` gives them.
        score: a key of `SCORES`.
        expected_seeds: runs that a complete cell has; by default as many as the fullest cell of `runs`.

    Returns:
        One table for each data set and decoder, in the paper's order.
    """
    compared = _each(runs, ["dataset", "dim", "decoder"], lambda column: compare_column(column, score))
    caption = (
        f"{SCORES[score]} in nats per image: mean and standard deviation over the seeds. The best mean of each column "
        "is marked; colours tell how well the one-sided Wilcoxon signed-rank test, paired by seed, tells the best "
        f"from the others.{_power(compared)}"
    )
    return _build(compared, score, SCORES[score], caption, expected_seeds or fullest(runs), "", signed=False)


def difference_tables(runs: pd.DataFrame, score: str = "test_iwae", expected_seeds: int | None = None) -> list[Table]:
    """The mean difference in score from the VAE of the same seed, nats; no table for a column without a VAE."""
    differences = paired_difference(runs, score)
    paired = differences.groupby(["dataset", "decoder"])["n"].transform("max") > 0
    title = f"{SCORES[score]}, difference from the VAE"
    caption = (
        f"{title}, in nats per image: mean and standard deviation of the differences between runs of the same seed."
    )
    expected = expected_seeds or fullest(runs)
    return _build(differences[paired], score, title, caption, expected, "-minus-vae", signed=True)


def place(name: str, known: list[str]) -> str:
    """A key that sorts the names of `known` as they stand there, and all others by name after them."""
    return f"{known.index(name) if name in known else len(known):03d} {name}"


def sort_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows of cells in the paper's order: data set, decoder, method, order, dim; what the paper lacks, by name."""
    keys = frame.assign(
        dataset=[place(name, DATASETS) for name in frame["dataset"]],
        method=[place(name, METHODS) for name in frame["method"]],
        order=frame["order"].fillna(0),
    )
    by = ["dataset", "decoder", "method", "order", "dim"]
    return frame.loc[keys.sort_values(by, kind="stable").index].reset_index(drop=True)


def _each(runs: pd.DataFrame, by: list[str], function: Callable[[pd.DataFrame], pd.DataFrame]) -> pd.DataFrame:
    return pd.concat([function(group) for _, group in runs.groupby(by)], ignore_index=True)


def fullest(runs: pd.DataFrame) -> int:
    """How many runs the cell with the most of them has: what a complete cell is taken to have."""
    return int(runs.groupby(CELL, dropna=False)["seed"].nunique().max())


def _power(compared: pd.DataFrame) -> str:
    """How small a p can be at all, where that keeps a difference from ever being strongly distinguished."""
    pairs = int(compared.loc[~compared["is_best"], "n_pairs"].max()) if (~compared["is_best"]).any() else 0
    if pairs == 0 or smallest_p(pairs) <= 0.01:
        return ""
    return f" With {pairs} pair{'' if pairs == 1 else 's'}, no p can be smaller than {smallest_p(pairs):.2g}."


def _build(
    cells: pd.DataFrame, score: str, title: str, caption: str, expected: int, suffix: str, signed: bool
) -> list[Table]:
    tables: dict[str, Table] = {}
    for _, group in sort_rows(cells).groupby(["dataset", "decoder"], sort=False):
        dataset, label, decoder = group[["dataset", "dataset_label", "decoder"]].iloc[0]
        name = base = f"{score}{suffix}-{_slug(label)}-{_slug(decoder)}"
        copies = 1
        while name in tables:  # two data sets may differ in nothing that a file name can hold
            copies += 1
            name = f"{base}-{copies}"
        entries = {(_row(cell), int(cell["dim"])): _entry(cell, expected) for _, cell in group.iterrows()}
        tables[name] = Table(
            name=name,
            title=f"{title}: {label}, {DECODERS.get(decoder, decoder)}",
            caption=f"({label}, {DECODERS.get(decoder, decoder)}) {caption}",
            score=score,
            dataset=dataset,
            dataset_label=label,
            decoder=decoder,
            rows=list(dict.fromkeys(row for row, _ in entries)),
            dims=sorted({dim for _, dim in entries}),
            entries=entries,
            signed=signed,
        )
    return list(tables.values())


def _row(cell: pd.Series) -> Row:
    return Row(cell["method"], None if pd.isna(cell["order"]) else int(cell["order"]), cell["method_label"])


def _entry(cell: pd.Series, expected: int) -> Entry:
    compared = {}
    if "rank" in cell:
        compared = {
            "rank": None if pd.isna(cell["rank"]) else int(cell["rank"]),
            "p": float(cell["p"]),
            "n_pairs": int(cell["n_pairs"]),
            "colour": cell["colour"],
            "note": cell["note"],
        }
    return Entry(int(cell["n"]), expected, float(cell["mean"]), float(cell["sd"]), **compared)


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "data"
