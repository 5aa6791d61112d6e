"""The content of the paper's tables of scores, without a format. `analysis.time_tables` has the tables of times."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from analysis.cells import cell_of
from analysis.gains import control_differences
from analysis.names import CELL, COLUMN, ROW
from analysis.signed_rank import smallest_p
from analysis.stats import compare_column, natural, of_baseline, paired_difference, variant_places
from analysis.words import counted

METHODS = ["vae", "sa", "iaf", "hf", "me", "rme", "bvi-er1", "bvi-er2", "vlae"]
"""The paper's order of rows. Other methods follow by name."""

DATASETS = ["mnist", "omniglot", "cifar10", "svhn", "celeba"]
"""The paper's order of Tables 7-11. Other data sets follow by name."""

SCORES = {
    "test_iwae": "Test log-likelihood",
    "test_elbo": "Test ELBO",
    "val_iwae": "Validation log-likelihood",
    "val_elbo": "Validation ELBO",
}
"""Title of each score. All are in nats per image; higher is better."""

DECODERS = {"conv": "convolutional decoder", "fc": "fully connected decoder"}


@dataclass(frozen=True)
class Row:
    """A row: a method of one order. A variant names settings that are not the usual ones."""

    method: str
    order: int | None
    label: str
    variant: str | None = None

    @property
    def place(self) -> tuple:
        """Sort key: the paper's order, each row followed by its variants."""
        return place(self.method, METHODS), self.order or 0, natural(self.variant), self.label

    @property
    def family(self) -> str:
        """The method's label: `RME` of `RME(5), kl 20`."""
        return method_of_label(self.label)


@dataclass(frozen=True, order=True)
class Column:
    """A data set at one latent dimension, and the decoder of the numbers outside parentheses."""

    dataset: str
    dataset_label: str
    dim: int
    decoder: str


@dataclass(frozen=True)
class Entry:
    """One number of a table.

    Attributes:
        n: runs (or pairs) that it averages; expected: of a complete cell.
        mean, sd: in the table's unit; NaN if n is too small.
        rank: 1 for the highest mean of the column; None if not ranked.
        p, n_pairs: of the Wilcoxon test of the best against this cell; NaN and 0 without a test.
        p_holm: p corrected for all tests of the column.
        colour: of `analysis.stats.compare_column`; empty if the column is not compared.
        note: caveats about the test, in words.
        median, estimate, low, high, level: of the paired difference, nats (`analysis.signed_rank.Location`): in a
            compared column, best - this; in a table of differences, this - baseline.
        seeds, values: the runs' seeds, and the score of each; in a table of differences, the paired difference of each.
            Empty where a number is of one measurement, such as a time.
        restarts: the restart that validation chose, for each seed; empty if not recorded.
        published_mean, published_sd: the paper's numbers for this cell; NaN if not shown or not legible.
        beside: the same cell with the other decoder, shown in parentheses as in the paper.
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
    p_holm: float = np.nan
    median: float = np.nan
    estimate: float = np.nan
    low: float = np.nan
    high: float = np.nan
    level: float = np.nan
    seeds: tuple[int, ...] = ()
    values: tuple[float, ...] = ()
    restarts: tuple[int, ...] = ()
    published_mean: float = np.nan
    published_sd: float = np.nan
    beside: Entry | None = None

    @property
    def incomplete(self) -> str:
        """`n=3/10` if runs are missing, else empty."""
        return f"n={self.n}/{self.expected}" if self.n < self.expected else ""


@dataclass(frozen=True)
class Table:
    """Rows of methods, columns of data sets and latent dimensions.

    Attributes:
        name: stem of its file names: `test_iwae-mnist-conv`.
        title: one line; caption: how to read it, plain text.
        score: column of the runs that it shows.
        entries: by (row, column); cells without a run have none.
        compared: whether the best of each column is marked and the others are coloured by p.
        signed: whether the numbers are differences, shown with their sign.
        digits: after the decimal point.
        against_paper: whether each entry is shown next to the paper's number.
        heads: what the column headers name: "dim", "dataset" or "both". The title has the rest.
    """

    name: str
    title: str
    caption: str
    score: str
    rows: list[Row]
    columns: list[Column]
    entries: dict[tuple[Row, Column], Entry]
    compared: bool = False
    signed: bool = False
    digits: int = 1
    against_paper: bool = False
    heads: str = "dim"

    @property
    def colours(self) -> set[str]:
        """The colours of the entries, for a legend."""
        return {entry.colour for entry in self.entries.values()}

    @property
    def corner(self) -> str:
        """Text of the top left corner: what `headers` are; empty for data sets."""
        return "" if self.heads == "dataset" else "dim(z)"

    @property
    def groups(self) -> list[tuple[str, int]]:
        """First of two header lines: (data set, how many columns it spans); empty if `headers` is the only line."""
        labels = [column.dataset_label for column in self.columns]
        return [(label, labels.count(label)) for label in dict.fromkeys(labels)] if self.heads == "both" else []

    @property
    def headers(self) -> list[str]:
        """The header line directly above the columns."""
        return [column.dataset_label if self.heads == "dataset" else str(column.dim) for column in self.columns]

    @property
    def flat_headers(self) -> list[str]:
        """Headers for formats with one header line: `MNIST 10`."""
        if not self.groups:
            return self.headers
        return [f"{column.dataset_label} {column.dim}" for column in self.columns]

    @property
    def spoken_headers(self) -> list[str]:
        """Headers that are clear without the table: `MNIST, dim 10`."""
        return [
            column.dataset_label if self.heads == "dataset" else f"{column.dataset_label}, dim {column.dim}"
            for column in self.columns
        ]


def score_tables(runs: pd.DataFrame, score: str = "test_iwae", expected_seeds: int | None = None) -> list[Table]:
    """Tables 7-11: the mean score of each cell, compared within its column. Table 5 is `decoder_table`.

    Args:
        runs: one row for each run, as `analysis.collect.collect` returns them.
        score: a key of `SCORES`.
        expected_seeds: runs of a complete cell; by default as many as the fullest cell of `runs` has.

    Returns:
        One table for each data set and decoder, in the paper's order.
    """
    compared = compare_columns(runs, score)
    caption = (
        f"{SCORES[score]} in nats per image: mean and standard deviation over the seeds. The best mean of each column "
        "is marked, and each other by the uncorrected p of the one-sided Wilcoxon signed-rank test of the best against "
        f"it, paired by seed.{_power(compared)}"
    )
    return _build(compared, score, SCORES[score], caption, expected_seeds or fullest(runs), compared=True)


def difference_tables(
    runs: pd.DataFrame, score: str = "test_iwae", expected_seeds: int | None = None, baseline: str = "vae"
) -> list[Table]:
    """Mean paired difference of each row from a baseline, nats. Without pairs a data set and decoder has no table.

    Args:
        runs: one row for each run, as `analysis.collect.collect` returns them.
        score: a key of `SCORES`.
        expected_seeds: pairs of a complete cell; by default as many as the runs of the fullest cell.
        baseline: a method, such as `vae`, or `vae-more`, a finished VAE that is trained further.
    """
    differences = paired_difference(runs, score, baseline)
    paired = differences.groupby(["dataset", "decoder"])["n"].transform("max") > 0
    if not paired.any():
        return []
    label = runs.loc[of_baseline(runs, baseline), "method_label"].iloc[0]
    title = f"{SCORES[score]}, mean difference from {label}"
    caption = (
        f"{title}, in nats per image: mean and standard deviation of the differences between runs of the same seed."
    )
    expected = expected_seeds or fullest(runs)
    return _build(differences[paired], score, title, caption, expected, f"-minus-{slug(baseline)}", signed=True)


def control_tables(runs: pd.DataFrame, score: str = "test_iwae", expected_seeds: int | None = None) -> list[Table]:
    """Mean paired difference of each row from its equal control, nats.

    The control is the VAE trained as long at the same rate (`analysis.trainings.equal_control`). Rows without a
    control, and rows whose control is the VAE of `difference_tables`, are left out.

    Args:
        runs: one row for each run, as `analysis.collect.collect` returns them.
        score: a key of `SCORES`.
        expected_seeds: pairs of a complete cell; by default as many as the runs of the fullest cell.
    """
    title = f"{SCORES[score]}, mean difference from the control"
    caption = (
        f"{title}, in nats per image: each row minus the VAE that was trained at the same rate for as long. Mean and "
        "standard deviation of the differences between runs of the same seed."
    )
    differences = control_differences(runs, score)
    return _build(differences, score, title, caption, expected_seeds or fullest(runs), "-minus-control", signed=True)


def decoder_table(runs: pd.DataFrame, score: str = "test_iwae", expected_seeds: int | None = None) -> Table | None:
    """Table 5: scores with the fully connected decoder, and in parentheses with the convolutional one.

    Args:
        runs: one row for each run, as `analysis.collect.collect` returns them.
        score: a key of `SCORES`.
        expected_seeds: runs of a complete cell; by default as many as the fullest cell of `runs` has.

    Returns:
        The table; None without runs with the fully connected decoder.
    """
    compared = sort_rows(compare_columns(runs, score))
    expected = expected_seeds or fullest(runs)
    caption = (
        f"{SCORES[score]} in nats per image with the fully connected decoder, and in parentheses with the "
        "convolutional one; both have roughly as many parameters. Mean and standard deviation over the seeds; the "
        "best fully connected mean of each column is marked, and each other by the uncorrected p of the test of the "
        "best against it."
    )
    return beside_table(
        compared[compared["decoder"] == "fc"],
        compared[compared["decoder"] == "conv"],
        lambda cell: to_entry(cell, expected),
        Table(f"{score}-fc-against-conv", f"{SCORES[score]}: fully connected and convolutional decoders", caption,
              score, [], [], {}, compared=True, heads="both"),
    )  # fmt: skip


def beside_table(
    main: pd.DataFrame, other: pd.DataFrame, entry: Callable[[pd.Series], Entry], empty: Table
) -> Table | None:
    """Table of the cells of `main`, each with the cell of `other` that differs only in decoder; None without cells.

    Args:
        main: one row for each cell, data sets in the order of the table.
        other: the same, for the cells in parentheses.
        entry: makes the entry of a cell.
        empty: the table without rows, columns and entries.
    """
    if main.empty:
        return None
    besides = {_place_of(cell): entry(cell) for _, cell in other.iterrows()}
    entries = {
        (to_row(cell), to_column(cell)): replace(entry(cell), beside=besides.get(_place_of(cell)))
        for _, cell in main.iterrows()
    }
    rows, columns = _axes(entries)
    return replace(empty, rows=rows, columns=columns, entries=entries)


def _place_of(cell: pd.Series) -> tuple[Row, str, int]:
    return to_row(cell), cell["dataset"], int(cell["dim"])


def _axes(entries: dict[tuple[Row, Column], Entry]) -> tuple[list[Row], list[Column]]:
    """Rows in the paper's order; columns by data set, in the order of `entries`, then by dim."""
    datasets = list(dict.fromkeys(column.dataset for _, column in entries))
    columns = sorted({column for _, column in entries}, key=lambda column: (datasets.index(column.dataset), column.dim))
    rows = sorted({row for row, _ in entries}, key=lambda row: row.place)
    return rows, columns


def place(name: str, known: list[str]) -> str:
    """Sort key that orders names as in `known`, then all others by name."""
    return f"{known.index(name) if name in known else len(known):03d} {name}"


def sort_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """Sort rows of cells as the paper does: by data set, decoder, method, order, variant, dim; names not in it last."""
    frame = frame.reset_index(drop=True)
    keys = frame.assign(
        dataset=[place(name, DATASETS) for name in frame["dataset"]],
        method=[place(name, METHODS) for name in frame["method"]],
        order=frame["order"].fillna(0),
        variant=variant_places(frame["variant"]),
    )
    by = ["dataset", "decoder", "method", "order", "variant", "dim"]
    return frame.loc[keys.sort_values(by, kind="stable").index].reset_index(drop=True)


def sorted_columns(runs: pd.DataFrame) -> list[pd.DataFrame]:
    """The runs of each column, in the paper's order."""
    columns = [column for _, column in runs.groupby(COLUMN)]
    columns.sort(key=lambda column: _place_of_column(column.iloc[0]))
    return columns


def _place_of_column(first: pd.Series) -> tuple[str, str, int]:
    return place(first["dataset"], DATASETS), first["decoder"], int(first["dim"])


def compare_columns(runs: pd.DataFrame, score: str = "test_iwae") -> pd.DataFrame:
    """`analysis.stats.compare_column` of every column, concatenated."""
    return pd.concat([compare_column(column, score) for _, column in runs.groupby(COLUMN)], ignore_index=True)


def fullest(runs: pd.DataFrame) -> int:
    """Number of seeds of the cell with the most seeds: the default for a complete cell."""
    return int(runs.groupby(CELL, dropna=False)["seed"].nunique().max())


def _power(compared: pd.DataFrame) -> str:
    """A sentence with the smallest p that the pairs can give, if that is above .01; else empty."""
    pairs = int(compared.loc[~compared["is_best"], "n_pairs"].max()) if (~compared["is_best"]).any() else 0
    if pairs == 0 or smallest_p(pairs) <= 0.01:
        return ""
    return f" With {counted(pairs, 'pair')}, no p can be smaller than {smallest_p(pairs):.2g}."


def _build(
    cells: pd.DataFrame,
    score: str,
    title: str,
    caption: str,
    expected: int,
    suffix: str = "",
    *,
    compared: bool = False,
    signed: bool = False,
) -> list[Table]:
    tables: dict[str, Table] = {}
    for _, group in sort_rows(cells).groupby(["dataset", "decoder"], sort=False):
        label, decoder = group[["dataset_label", "decoder"]].iloc[0]
        name = base = f"{score}{suffix}-{slug(label)}-{slug(decoder)}"
        copies = 1
        while name in tables:  # `slug` may map the labels of two data sets to one name
            copies += 1
            name = f"{base}-{copies}"
        entries = {(to_row(cell), to_column(cell)): to_entry(cell, expected) for _, cell in group.iterrows()}
        rows, columns = _axes(entries)
        tables[name] = Table(
            name=name,
            title=f"{title}: {label}, {DECODERS.get(decoder, decoder)}",
            caption=f"({label}, {DECODERS.get(decoder, decoder)}) {caption}",
            score=score,
            rows=rows,
            columns=columns,
            entries=entries,
            compared=compared,
            signed=signed,
        )
    return list(tables.values())


def to_row(cell: pd.Series) -> Row:
    """Row of a cell: of a row of a frame with the columns of `CELL` and the labels."""
    method, order, variant = cell_of(cell, ROW)
    return Row(method, None if order is None else int(order), cell["method_label"], variant)


def method_of_label(label: str) -> str:
    """`RME`, for `RME(5)`, `RME(5), kl 20` or `RME, kl 20`."""
    return re.sub(r"(\(\d+\))?(, .*)?$", "", label, count=1, flags=re.DOTALL)


def to_column(cell: pd.Series) -> Column:
    """Column of a cell."""
    return Column(cell["dataset"], cell["dataset_label"], int(cell["dim"]), cell["decoder"])


def to_entry(cell: pd.Series, expected: int) -> Entry:
    """Entry of a cell that has n, mean, sd and any of the other attributes of `Entry`."""
    known: dict[str, Any] = {name: float(cell[name]) for name in _NUMBERS if name in cell}
    known |= {name: cell[name] for name in ("colour", "note", "seeds", "values", "restarts") if name in cell}
    if "rank" in cell:
        known |= {"rank": None if pd.isna(cell["rank"]) else int(cell["rank"]), "n_pairs": int(cell["n_pairs"])}
    return Entry(int(cell["n"]), expected, float(cell["mean"]), float(cell["sd"]), **known)


_NUMBERS = ("p", "p_holm", "median", "estimate", "low", "high", "level", "published_mean", "published_sd")


def slug(text: str) -> str:
    """`text` as part of a file name: lower-case letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "data"
