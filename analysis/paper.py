"""The paper's numbers, and ours next to them. `published/README.md` says where they come from."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd

from analysis import published_cells
from analysis.names import CELL
from analysis.published_cells import FOLDER
from analysis.stats import KEY_TYPES, summarise
from analysis.tables import DECODERS, SCORES, Table, beside_table, fullest, slug, sort_rows, to_entry
from analysis.time_tables import TIMES, summarise_times


@cache
def _read(name: str) -> pd.DataFrame:
    frame = pd.read_csv(FOLDER / name).rename(columns={"std": "sd"})
    names = {column: frame[column].str.lower() for column in ("dataset", "method")}
    # no row of the paper is a variant, so our variants are compared with none
    return frame.assign(**names, variant=None).astype(KEY_TYPES)


def published_scores() -> pd.DataFrame:
    """The log-likelihoods of the paper's Tables 5 and 7-11.

    Returns:
        One row for each cell. Columns: table, dataset, decoder, dim, method, order (NA for the VAE), variant (NA),
        mean and sd in nats per image; NaN where the paper has none or it is illegible. Names are this project's.
    """
    return _read(published_cells.SCORES).copy()


def published_times() -> pd.DataFrame:
    """The inference times of the paper's Tables 4 and 6; of a cell in both, the value in Table 4.

    Returns:
        One row for each cell. Columns: table, dataset, decoder, dim, method, order, ms for a batch of 128 images, and
        ratio, to the VAE's ms in the same column (NaN where the paper did not time the VAE).
    """
    frame = _read(published_cells.TIMES).drop_duplicates(CELL).reset_index(drop=True)
    column = ["dataset", "decoder", "dim"]
    vae = frame[frame["method"] == "vae"].set_index(column)["ms"].rename("vae_ms")
    frame = frame.join(vae, on=column)
    return frame.assign(ratio=frame["ms"] / frame["vae_ms"]).drop(columns="vae_ms")


def against_paper(runs: pd.DataFrame, score: str = "test_iwae") -> pd.DataFrame:
    """Our means next to the paper's, for the cells that both have.

    Args:
        runs: one row for each run, as `analysis.collect.collect` returns them.
        score: our score to compare with the paper's log-likelihood.

    Returns:
        One row for each cell, in the paper's order: the columns of `analysis.stats.summarise`, and published_mean,
        published_sd, difference (of the means, ours - theirs, nats), difference_in_published_sd (difference /
        published_sd); NaN where the paper's number is missing.
    """
    theirs = published_scores().rename(columns={"mean": "published_mean", "sd": "published_sd"}).drop(columns="table")
    both = sort_rows(summarise(runs, score).merge(theirs, on=CELL))
    difference = both["mean"] - both["published_mean"]
    return both.assign(difference=difference, difference_in_published_sd=difference / both["published_sd"])


def paper_tables(runs: pd.DataFrame, score: str = "test_iwae", expected_seeds: int | None = None) -> list[Table]:
    """`against_paper` as tables, one for each data set and decoder in both.

    Args:
        runs: one row for each run, as `analysis.collect.collect` returns them.
        score: our score to compare with the paper's log-likelihood.
        expected_seeds: runs of a complete cell; by default as many as the fullest cell of `runs`.
    """
    expected = expected_seeds or fullest(runs)
    tables = []
    for _, cells in against_paper(runs, score).groupby(["dataset", "decoder"], sort=False):
        label, decoder = cells[["dataset_label", "decoder"]].iloc[0]
        empty = Table(
            f"{score}-against-paper-{slug(label)}-{slug(decoder)}",
            f"{SCORES[score]} against the paper's: {label}, {DECODERS.get(decoder, decoder)}",
            f"({label}) Our mean − the paper's = the difference of the means, in nats per image and in the paper's "
            "standard deviations.",
            score, [], [], {}, against_paper=True,
        )  # fmt: skip
        table = beside_table(cells, cells.iloc[:0], lambda cell: to_entry(cell, expected), empty)
        assert table is not None
        tables.append(table)
    return tables


def paper_ratio_tables(runs: pd.DataFrame) -> list[Table]:
    """Our ratios to the VAE's time next to the paper's, one table for each device.

    Milliseconds are not compared, because they depend on the device.

    Args:
        runs: timings, as `analysis.collect.collect` returns them.
    """
    theirs = published_times()[[*CELL, "ratio"]].dropna(subset="ratio").rename(columns={"ratio": "published_mean"})
    both = sort_rows(summarise_times(runs, "ratio_to_vae").merge(theirs, on=CELL)).assign(published_sd=np.nan)
    title, _, digits = TIMES["ratio_to_vae"]
    tables = []
    for _, cells in both.groupby("device"):
        device = cells["device"].iloc[0]
        suffix = f"-{slug(device)}" if both["device"].nunique() > 1 else ""
        empty = Table(
            f"ratio_to_vae-against-paper{suffix}",
            f"{title}, against the paper's: dim 50, {device}",
            f"Ours on {device} − the paper's on an RTX 2080 Ti (Table 4) = the difference of the ratios, in multiples "
            "of the VAE's time on the same device.",
            "ratio_to_vae", [], [], {}, digits=digits, against_paper=True, heads="dataset",
        )  # fmt: skip
        table = beside_table(cells, cells.iloc[:0], lambda cell: replace(to_entry(cell, 1), expected=1), empty)
        assert table is not None
        tables.append(table)
    return tables
