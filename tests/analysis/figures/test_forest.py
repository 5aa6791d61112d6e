"""Forest plots: each row against its control, significant ones filled, one line each, grouped by dim."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from scipy import stats

from analysis import style
from analysis.figures.forest import LINES, differences_from_control, forest_figures
from tests.analysis.figures.test_figures import PAPER, made

STAGE = {"starts_from": "vae", "stage_epochs": 5, "stage_learning_rate": 1e-6, "learning_rate": 5e-4, "epochs": 60}


def trained(dims=(10, 50)):
    """RME(2) starts from a VAE as VAE-more does, SA is trained from scratch, and RME(5) has another rate."""
    scratch = made([("vae", None), ("sa", 1), ("sa", 8)], dims=dims, epochs=60, learning_rate=5e-4)
    stage = made([("vae-more", None), ("rme", 2)], dims=dims, **STAGE)
    other = made([("rme", 5)], dims=dims, **{**STAGE, "stage_learning_rate": 1e-4})
    return pd.concat([scratch, stage, other], ignore_index=True)


def test_estimates_and_intervals_are_of_the_difference_from_the_control():
    runs = trained()
    data = differences_from_control(runs).set_index(["dim", "method_label"])
    assert set(data.index) == {(dim, label) for dim in (10, 50) for label in ("SA(1)", "SA(8)", "RME(2)")}
    for (dim, label), cell in data.iterrows():
        wide = runs[runs["dim"] == dim].pivot(index="seed", columns="method_label", values="test_iwae")
        control = "VAE-MORE" if label == "RME(2)" else "VAE"
        difference = (wide[label] - wide[control]).to_numpy()
        walsh = np.sort([(difference[i] + difference[j]) / 2 for i in range(8) for j in range(i, 8)])
        assert (cell["control_label"], cell["n"]) == (control, 8)
        assert cell["estimate"] == pytest.approx(np.median(walsh))
        # Hollander, Wolfe and Chicken, table A.4: P(W+ >= 32) = .027 for n = 8, so the 4th from either end
        assert [cell["low"], cell["high"]] == pytest.approx([walsh[3], walsh[-4]])
        p = stats.wilcoxon(difference, method="exact").pvalue  # the interval excludes 0 where the test rejects
        assert cell["significant"] == (p <= 1 - cell["level"] + 1e-12)


def test_a_mark_is_filled_where_it_is_significant():
    runs = trained(dims=(10,))
    runs.loc[runs["method_label"] == "SA(1)", "test_iwae"] += 30.0
    vae = runs[runs["method_label"] == "VAE"].set_index("seed")["test_iwae"]
    same = runs["method_label"] == "SA(8)"
    runs.loc[same, "test_iwae"] = (runs.loc[same, "seed"].map(vae) + 0.5 * (-1.0) ** runs.loc[same, "seed"]).to_numpy()
    (figure,) = forest_figures(runs)
    axes = figure.drawing.axes[0]
    labels = [text.get_text() for text in axes.get_yticklabels()]
    assert labels == ["SA(1)", "SA(8)", "RME(2)"]
    faces = {
        labels[int(line.get_ydata()[0])]: to_hex(line.get_markerfacecolor())
        for line in axes.get_lines()
        if line.get_marker() not in ("None", None) and len(line.get_xdata()) == 1
    }
    assert faces["SA(1)"] == style.colour("sa") and faces["SA(8)"] == "#ffffff"
    said = {mark.name: mark.lines for mark in figure.marks}
    assert said["SA(1)"][-1] == "significantly above its control"
    assert said["SA(8)"][-1] == "indistinguishable from its control"
    assert "SA(1)" in figure.alt.partition("below")[0] and "SA(8)" not in figure.alt.partition("significantly")[2]


def test_too_few_seeds():
    (figure,) = forest_figures(trained(dims=(10,)).query("seed < 3"))
    assert figure.data["low"].isna().all() and not figure.data["significant"].any()
    assert "too few seeds" in figure.caption and {mark.lines[-1] for mark in figure.marks} == {"not tested"}


def test_dims_are_groups_and_many_rows_are_several_figures():
    (figure,) = forest_figures(trained())
    labels = [text.get_text() for text in figure.drawing.axes[0].get_yticklabels()]
    assert labels == ["dim 10", "SA(1)", "SA(8)", "RME(2)", "dim 50", "SA(1)", "SA(8)", "RME(2)"]
    many = forest_figures(made(PAPER, dims=(10, 20, 50)))
    assert [figure.name for figure in many] == [f"test_iwae-forest-mnist-conv-{end}" for end in ("d10-d20", "d50")]
    assert all(len(f.data) + f.data["dim"].nunique() <= LINES and f.drawing.get_figheight() < 9 for f in many)


def test_what_is_not_trained_is_not_compared():
    runs = made([("vae", None), ("svi", 50)], dims=(10,), epochs=60)
    runs.loc[runs["method"] == "svi", ["starts_from", "epochs"]] = ["vae", 60]
    assert forest_figures(runs) == [] and forest_figures(made([("vae", None)])) == []
