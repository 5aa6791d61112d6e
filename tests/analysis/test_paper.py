"""The paper's numbers, and ours compared with them."""

from __future__ import annotations

from collections import Counter
from functools import cache

import numpy as np
import pandas as pd
import pytest

from analysis import render
from analysis.paper import (
    against_paper,
    paper_ratio_tables,
    paper_tables,
    published_scores,
    published_times,
)
from analysis.published_cells import SCORES, TIMES, published_cells
from analysis.tables import METHODS, decoder_table

LABELS = {"mnist": "MNIST", "omniglot": "OMNIGLOT", "cifar10": "CIFAR10", "svhn": "SVHN", "celeba": "CelebA"}
SPREAD = np.linspace(-1, 1, 10)


def label(method, order):
    return method.upper() if pd.isna(order) else f"{method.upper()}({order})"


SCRATCH = {"epochs": 60, "learning_rate": 5e-4}
STAGE = {"stage_epochs": 5, "stage_learning_rate": 1e-6}


def runs_of(cells, seeds=10):
    """One row for each run, from {(method, order, dataset, dim, decoder): mean, or scores by seed}.

    All methods but the VAE, SA and VLAE have the same stage.
    """
    rows = [
        {"method": m, "order": o, "method_label": label(m, o), "dataset": data, "dataset_label": LABELS.get(data, data),
         "dim": dim, "decoder": decoder, "seed": seed, "test_iwae": value, **SCRATCH,
         **(STAGE if m not in ("vae", "sa", "vlae") else {})}
        for (m, o, data, dim, decoder), scores in cells.items()
        for seed, value in enumerate(scores + SPREAD[:seeds] if np.isscalar(scores) else scores)
    ]  # fmt: skip
    return pd.DataFrame(rows).assign(variant=None).astype({"order": "Int64"})


@cache
def their_runs():
    """Synthetic runs with the paper's means wherever these are legible, and almost no spread over seeds."""
    theirs = published_scores().dropna(subset="mean")
    rng = np.random.default_rng(0)
    cells = {
        (c["method"], None if pd.isna(c["order"]) else int(c["order"]), c["dataset"], c["dim"], c["decoder"]): c["mean"]
        + (noise := 1e-3 * rng.normal(size=10))
        - noise.mean()
        for c in theirs.to_dict("records")
    }
    return runs_of(cells)


def timings_of(times, device="a device"):
    return pd.DataFrame(
        [
            {"method": m, "order": o, "method_label": label(m, o), "dataset": data, "dataset_label": LABELS[data],
             "dim": dim, "decoder": decoder, "seed": 0, "inference_ms": ms, "inference_ms_sd": 0.05,
             "ratio_to_vae": ratio, "device": device, "batch_size": "128", "repeats": "5"}
            for (m, o, data, dim, decoder), (ms, ratio) in times.items()
        ]
    ).assign(variant=None).astype({"order": "Int64"})  # fmt: skip


# ---------------------------------------------------------------------- published numbers
@pytest.mark.parametrize(
    ("cell", "mean", "sd"),
    [  # from the supplement, at least one of each table
        (("vae", None, "mnist", 10, "fc"), 563.6, None),
        (("vlae", 8, "omniglot", 50, "fc"), 553.1, None),
        (("rme", 5, "mnist", 10, "conv"), 699.4, 2.1),
        (("hf", 2, "mnist", 50, "conv"), 1191.5, 10.8),
        (("me", 4, "omniglot", 50, "conv"), 732.0, 3.1),
        (("bvi-er2", 5, "cifar10", 100, "conv"), 3394.1, 6.1),
        (("iaf", 1, "cifar10", 100, "conv"), 3383.7, None),
        (("vae", None, "cifar10", 20, "conv"), None, None),
        (("rme", 2, "svhn", 100, "conv"), 6784.7, 25.0),
        (("bvi-er1", 5, "celeba", 100, "conv"), 17069.9, 391.8),
    ],
)
def test_published_scores(cell, mean, sd):
    method, order, dataset, dim, decoder = cell
    frame = published_scores()
    chosen = frame[
        (frame.method == method) & (frame.dataset == dataset) & (frame.dim == dim) & (frame.decoder == decoder)
    ]
    row = chosen[chosen.order.isna()] if order is None else chosen[chosen.order == order]
    assert len(row) == 1
    found = [None if np.isnan(value) else value for value in row[["mean", "sd"]].iloc[0]]
    assert found == [mean, sd]


def test_published_scores_are_complete():
    frame = published_scores()
    assert Counter(frame["table"]) == {5: 13 * 4, 7: 29 * 4, 8: 29 * 4, 9: 29 * 4, 10: 29 * 4, 11: 29 * 4}
    assert set(frame["method"]) <= set(METHODS) and set(frame["dataset"]) == set(LABELS)
    illegible = frame[frame["mean"].isna()]
    assert set(illegible["table"]) == {9} and Counter(illegible["method"]) == {"vae": 4, "sa": 16}


def test_published_times():
    frame = published_times().set_index(["method", "order", "dataset", "dim", "decoder"])
    assert frame.loc[("rme", 3, "svhn", 50, "conv"), "ms"].item() == 3.6
    assert frame.loc[("rme", 3, "svhn", 50, "conv"), "ratio"].item() == pytest.approx(3.6 / 2.2)
    assert frame.loc[("vlae", 8, "mnist", 50, "fc"), "ms"].item() == 30.8
    assert np.isnan(frame.loc[("rme", 2, "mnist", 10, "conv"), "ratio"].item())  # no VAE was timed there
    assert not frame.index.duplicated().any()


# ---------------------------------------------------------------------- ours next to theirs
def test_differences_by_hand():
    cells = {
        ("vae", None, "mnist", 10, "conv"): [680.0, 684.0],  # theirs: 685.1, sd 1.8
        ("vae", None, "mnist", 10, "fc"): [565.6],  # theirs: 563.6, no sd
        ("sa", 1, "cifar10", 10, "conv"): [1640.0],  # theirs is not legible
        ("vae-more", None, "mnist", 10, "conv"): [700.0],  # not in the paper
        ("vae", None, "digits", 10, "conv"): [1.0],
    }
    found = against_paper(runs_of(cells)).set_index(["dataset", "decoder"])
    assert len(found) == 3
    conv, fc, blank = (found.loc[key] for key in (("mnist", "conv"), ("mnist", "fc"), ("cifar10", "conv")))
    assert conv["difference"] == pytest.approx(-3.1) and conv["difference_in_published_sd"] == pytest.approx(-3.1 / 1.8)
    assert fc["difference"] == pytest.approx(2.0) and np.isnan(fc["difference_in_published_sd"])
    assert blank["mean"] == 1640 and np.isnan(blank["published_mean"]) and np.isnan(blank["difference"])

    tables = {table.name: table for table in paper_tables(runs_of(cells), expected_seeds=2)}
    assert set(tables) == {f"test_iwae-against-paper-{x}" for x in ("mnist-conv", "mnist-fc", "cifar10-conv")}
    conv, fc, blank = (tables[f"test_iwae-against-paper-{x}"] for x in ("mnist-conv", "mnist-fc", "cifar10-conv"))
    assert "682.0 − 685.1 = -3.1 (-1.7 sd)" in render.to_text(conv)
    assert r"VAE & $682.0$ ($-3.1$, $-1.7\,$sd) \\" in render.to_latex(conv)
    assert "n=1/2 565.6 − 563.6 = +2.0" in render.to_text(fc) and "sd)" not in render.to_text(fc)
    assert "1640.0, paper not legible" in render.to_text(blank)
    assert "nan" not in "".join(f(blank) for f in (render.to_text, render.to_csv, render.to_latex, render.to_html))
    row = dict(zip(*(line.split(",") for line in render.to_csv(conv).splitlines()), strict=True))
    assert float(row["difference_of_means"]) == pytest.approx(-3.1) and float(row["published_sd"]) == 1.8


def test_ratios_next_to_the_papers():
    runs = timings_of({("rme", 2, "mnist", 50, "conv"): (9.0, 1.5), ("rme", 2, "mnist", 10, "conv"): (9.0, 1.5)})
    (table,) = paper_ratio_tables(runs)
    assert "1.50 − 1.31 = +0.19" in render.to_text(table) and table.headers == ["MNIST"]
    two = paper_ratio_tables(pd.concat([runs, timings_of({("vae", None, "mnist", 50, "conv"): (9.0, 1.0)}, "other")]))
    assert [t.name for t in two] == ["ratio_to_vae-against-paper-a-device", "ratio_to_vae-against-paper-other"]


# ---------------------------------------------------------------------- Table 5
def test_table_5():
    table = decoder_table(their_runs())
    assert table.groups == [("MNIST", 2), ("OMNIGLOT", 2)] and table.headers == ["10", "50", "10", "50"]
    assert len(table.rows) == 13 and [row.label for row in table.rows][:2] == ["VAE", "SA(1)"]
    text = " ".join(render.to_text(table).split())
    assert "VAE 563.6 ± 0.0 (685.1 ± 0.0) 872.6 ± 0.0 (1185.7 ± 0.0)" in text
    assert "VLAE(8) 605.7 ± 0.0 *" in text
    latex = render.to_latex(table, "paper")
    assert r" & \multicolumn{2}{c}{MNIST} & \multicolumn{2}{c}{OMNIGLOT} \\" in latex
    assert r"\cmidrule(lr){2-3} \cmidrule(lr){4-5}" in latex
    assert r"VAE & $563.6^{0.0}$ ($685.1^{0.0}$)" in latex
    assert decoder_table(runs_of({("rme", 2, "mnist", 10, "conv"): 700.0})) is None
    theirs = their_runs()
    partial = theirs[~((theirs.decoder == "conv") & (theirs.seed > 2))]
    assert "563.6 ± 0.0 (n=3/10 685.1 ± 0.0)" in render.to_text(decoder_table(partial))


@pytest.mark.parametrize(("name", "numbers"), [(SCORES, published_scores), (TIMES, published_times)])
def test_the_published_cells_are_those_with_numbers(name, numbers):
    frame = numbers()
    cells = {
        (row["method"], None if pd.isna(row["order"]) else row["order"], row["dataset"], row["dim"], row["decoder"])
        for row in frame.to_dict("records")
    }
    assert len(cells) == len(frame) and published_cells(name) == cells
