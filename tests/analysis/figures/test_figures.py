"""The figures: they draw what was recorded, legibly, in the same colours everywhere, also if runs are missing."""

from __future__ import annotations

import base64
import gzip
import json
import re
import struct
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_hex, to_rgb
from matplotlib.text import Text
from mlflow.entities import Metric
from scipy import stats

from analysis import style
from analysis.collect import collect, curves
from analysis.figures import figures
from analysis.figures.common import subjects, unique_names
from analysis.figures.curves import ROWS, SEEDS, curve_figures, to_read
from analysis.figures.differences import difference_figures
from analysis.figures.ranks import rank_figures
from analysis.figures.scores import BESIDE, score_figures
from analysis.figures.times import time_figures
from analysis.report import build_report
from rme import methods
from tests.analysis.test_collect import Store

PAPER = [("vae", None)] + [
    (method, order)
    for method, orders in {
        "sa": (1, 2, 4, 8), "iaf": (1, 2, 4, 8), "hf": (1, 2, 4, 8), "me": (2, 3, 4, 5), "rme": (2, 3, 4, 5),
        "bvi-er1": (2, 3, 4, 5), "bvi-er2": (2, 3, 4, 5),
    }.items()
    for order in orders
]  # fmt: skip
SMALL = [("vae", None), ("vae-more", None), ("sa", 1), ("sa", 8), ("rme", 2), ("rme", 5)]


def made(rows=SMALL, dims=(10, 50), seeds=range(8), dataset="mnist", decoder="conv", **columns):
    """Synthetic runs in the form of `collect`, with scores that differ by row, dim and seed."""
    rng = np.random.default_rng(7)
    records = []
    for dim in dims:
        for method, order in rows:
            centre = 500 + 300 * np.log10(dim) + 10 * rng.normal()
            records += [
                {
                    "method": method, "order": order, "dataset": dataset, "dim": dim, "decoder": decoder, "seed": seed,
                    "method_label": method.upper() + (f"({order})" if order else ""), "dataset_label": dataset.upper(),
                    "test_iwae": centre + 2 * rng.normal(), "inference_ms": 5 * (order or 1) ** 0.5 + rng.random(),
                    "device": "cpu", "ratio_to_vae": np.nan, "chosen_restart": 0, **columns,
                }
                for seed in seeds
            ]  # fmt: skip
    return pd.DataFrame(records).assign(variant=None).astype({"order": "Int64"})


OF_CURVES = ["method", "order", "variant", "dataset", "dim", "decoder", "seed", "method_label", "dataset_label"]


def made_curves(runs, epochs=40):
    """Synthetic curves of these runs in the form of `curves`; RME starts from a VAE and has two components."""
    rng = np.random.default_rng(8)
    kept = []
    for key, run in enumerate(runs[OF_CURVES].to_dict("records")):
        run |= {"run_key": str(key), "parent_epochs": epochs if run["method"] == "rme" else 0}
        components = [(m, k) for m in ("elbo_q", "alpha", "kl") for k in range(2) if (m, k) != ("kl", 0)]
        for metric, component in [("val_elbo", None), *(components if run["method"] == "rme" else [])]:
            kept.append({**run, "metric": metric, "component": component})
    frame = pd.DataFrame(kept)
    frame = frame.loc[frame.index.repeat(epochs)].reset_index(drop=True)
    epoch = np.tile(np.arange(1, epochs + 1), len(kept))
    frame = frame.assign(epoch=epoch, value=500 - 900 * np.exp(-epoch / 4) + rng.normal(size=len(epoch)))
    return frame.astype({"order": "Int64", "component": "Int64"})


def lines(axes):
    """Lines that have points, as (colour, x, y)."""
    found = [(to_hex(line.get_color()), *map(np.asarray, line.get_data())) for line in axes.get_lines()]
    return [(colour, x.astype(float), y.astype(float)) for colour, x, y in found if len(x)]


def drawn(axes, x, y, colour):
    """Whether a line of this colour has exactly these points."""
    return any(c == colour and np.shape(lx) == np.shape(x) and np.allclose(lx, x) and np.allclose(ly, y)
               for c, lx, ly in lines(axes))  # fmt: skip


def bands(axes):
    """Bands as (colour, x, lower ends, upper ends)."""
    found = []
    for band in axes.collections:
        if isinstance(band, PolyCollection) and band.get_paths():
            vertices = band.get_paths()[0].vertices
            x = np.unique(vertices[:, 0])
            ends = [(vertices[vertices[:, 0] == at, 1].min(), vertices[vertices[:, 0] == at, 1].max()) for at in x]
            found.append((to_hex(band.get_facecolor()[0][:3]), x, *np.array(ends).T))
    return found


# ---------------------------------------------------------------------- what is drawn
def test_scores_by_dim():
    runs = made()
    (figure,) = score_figures(runs)
    level, *panels = [axes for axes in figure.drawing.axes if axes.axison]
    assert [panel.get_title("left") for panel in panels] == ["SA(1, 8)", "RME(2, 5)"]
    means = runs.groupby(["method", "order", "dim"], dropna=False)["test_iwae"].agg(["mean", "std"])
    for panel, rows in zip(panels, (("sa", (1, 8)), ("rme", (2, 5))), strict=True):
        method, orders = rows
        for name, order in [(method, orders[0]), (method, orders[1]), ("vae", pd.NA), ("vae-more", pd.NA)]:
            is_row = (runs["method"] == name) & (runs["order"].isna() if order is pd.NA else runs["order"] == order)
            by_dim = runs[is_row.fillna(False)].groupby("dim")["test_iwae"].agg(["mean", "std"])
            above = by_dim["mean"] - runs[runs["method"] == "vae"].groupby("dim")["test_iwae"].mean()
            assert drawn(panel, [10, 50], above, style.colour(name))
            assert any(
                colour == style.colour(name)
                and np.allclose(low, above - by_dim["std"])
                and np.allclose(high, above + by_dim["std"])
                for colour, _, low, high in bands(panel)
            )
            assert drawn(level, [10, 50], by_dim["mean"], style.colour(name))
    frame = figure.data.set_index(["method", "order", "dim"])
    assert np.allclose(frame["mean"], means["mean"].reindex(frame.index))


def test_variants_are_drawn_beside_their_row():
    runs = made()
    other = made([("rme", 2), ("vae-more", None)]).assign(
        variant="kl 20", method_label=lambda r: r["method_label"] + ", kl 20"
    )
    both = pd.concat([runs, other], ignore_index=True)
    (figure,) = score_figures(both)
    level, *panels = [axes for axes in figure.drawing.axes if axes.axison]
    assert [panel.get_title("left") for panel in panels] == ["SA(1, 8)", "RME(2, 2 kl 20, 5)"]
    means = other[other["method"] == "rme"].groupby("dim")["test_iwae"].mean()
    assert drawn(level, [10, 50], means, style.colour("rme"))
    styles = {line.get_linestyle() for line in panels[1].get_lines() if to_hex(line.get_color()) == style.colour("rme")}
    assert len(styles - {"None"}) == 3
    labels = {"RME(2)", "RME(2), kl 20", "RME(5)", "VAE-MORE", "VAE-MORE, kl 20"}
    for found in (
        difference_figures(both),
        rank_figures(both),
        time_figures(both),
        curve_figures(made_curves(both), both),
    ):
        assert labels <= set(found[0].data["method_label"])
    (one,) = score_figures(both[both["dim"] == 10])
    assert [text.get_text() for text in one.drawing.axes[0].get_yticklabels()] == [
        "VAE", "SA(1)", "SA(8)", "RME(2)", "RME(2), kl 20", "RME(5)", "VAE-MORE", "VAE-MORE, kl 20",
    ]  # fmt: skip


def test_the_baseline_of_differences_is_the_row_without_a_variant():
    runs = made(dims=(10,))
    finish = made([("vae", None)], dims=(10,)).assign(variant="finish", method_label="VAE, finish")
    (figure,) = difference_figures(pd.concat([finish, runs], ignore_index=True))
    vae, other = (frame[frame["method"] == "vae"].set_index("seed")["test_iwae"] for frame in (runs, finish))
    data = figure.data[figure.data["method_label"] == "VAE, finish"].set_index("seed")
    assert np.allclose(data["difference"], other - vae) and "VAE" not in set(figure.data["method_label"])


def test_scores_of_one_dim_are_dots_with_bars():
    runs = made(dims=(10,))
    runs = runs[~((runs["method"] == "sa") & (runs["seed"] > 2))]
    (figure,) = score_figures(runs)
    (axes,) = figure.drawing.axes
    labels = [text.get_text() for text in axes.get_yticklabels()]
    assert labels == ["VAE", "SA(1)", "SA(8)", "RME(2)", "RME(5)", "VAE-MORE"]
    for y, label in enumerate(labels):
        of = runs.loc[runs["method_label"] == label, "test_iwae"]
        colour = style.colour(runs.loc[runs["method_label"] == label, "method"].iloc[0])
        assert drawn(axes, of, np.full(len(of), y + BESIDE), colour) and drawn(axes, [of.mean()], [y], colour)
        segments = [c.get_segments()[0] for c in axes.collections]
        assert any(np.allclose(s, [[of.mean() - of.std(), y], [of.mean() + of.std(), y]]) for s in segments)
    hollow = [line.get_ydata()[0] for line in axes.get_lines() if line.get_markerfacecolor() == "white"]
    assert hollow == [1, 2] and "SA(1) d10 n=3, SA(8) d10 n=3" in figure.caption


def test_paired_differences():
    runs = made()
    (figure,) = difference_figures(runs)
    panels = figure.drawing.axes
    rows = [text.get_text() for text in panels[0].get_yticklabels()]
    assert rows == ["SA(1)", "SA(8)", "RME(2)", "RME(5)", "VAE-MORE"]
    for panel, dim in zip(panels, (10, 50), strict=True):
        wide = runs[runs["dim"] == dim].pivot(index="seed", columns="method_label", values="test_iwae")
        for y, row in enumerate(rows):
            difference = (wide[row] - wide["VAE"]).to_numpy()
            colour = style.colour(runs.loc[runs["method_label"] == row, "method"].iloc[0])
            walsh = np.sort([(difference[i] + difference[j]) / 2 for i in range(8) for j in range(i, 8)])
            assert drawn(panel, difference, np.full(8, y + BESIDE), colour)
            assert drawn(panel, [np.median(walsh)], [y], colour)
            # Hollander, Wolfe and Chicken, table A.4: P(W+ >= 32) = .027 for n = 8, so the 4th from either end
            assert drawn(panel, [walsh[3], walsh[-4]], [y, y], colour)


def test_too_few_seeds_for_an_interval():
    (figure,) = difference_figures(made(seeds=range(3)))
    assert figure.data["low"].isna().all() and "too few seeds" in figure.caption
    assert not any(
        len(x) == 2 and np.ptp(x) > 0 and np.ptp(y) == 0 for a in figure.drawing.axes for _, x, y in lines(a)
    )


def test_critical_difference_diagram():
    runs = made(dims=(2, 5, 10, 20, 50, 100), rows=SMALL[:4])
    (figure,) = rank_figures(runs)
    means = runs.pivot_table(index="dim", columns="method_label", values="test_iwae")
    ranks = pd.Series(stats.rankdata(-means, axis=1).mean(axis=0), index=means.columns).sort_values()
    axes = figure.drawing.axes[0]
    marks = {
        gid: [line for line in axes.get_lines() if line.get_gid() == gid] for gid in ("rank", "group", "difference")
    }
    assert np.allclose([mark.get_xdata()[0] for mark in marks["rank"]], ranks)
    (difference,) = (np.ptp(line.get_xdata()) for line in marks["difference"])
    critical = 2.569 * np.sqrt(4 * 5 / (6 * 6))  # Demšar 2006, table 5a: q_.05 of 4
    assert difference == pytest.approx(critical, abs=1e-3)
    joined = {
        frozenset(ranks.index[(ranks >= x[0] - 1e-9) & (ranks <= x[1] + 1e-9)])
        for line in marks["group"]
        for x in [line.get_xdata()]
    }
    for a, b in combinations(ranks.index, 2):
        assert any({a, b} <= group for group in joined) == (abs(ranks[a] - ranks[b]) < critical)


def test_times_against_scores():
    runs = made()
    (figure,) = time_figures(runs)
    for axes, dim in zip(figure.drawing.axes, (10, 50), strict=True):
        of_label = runs[runs["dim"] == dim].groupby("method_label")
        of = pd.concat([of_label["inference_ms"].median(), of_label["test_iwae"].mean()], axis=1)
        sa = of.loc[["SA(1)", "SA(8)"]]
        assert drawn(axes, sa["inference_ms"] / of.loc["VAE", "inference_ms"], sa["test_iwae"], style.colour("sa"))
    timings = made(seeds=[0]).assign(ratio_to_vae=lambda t: t["order"].fillna(1).astype(float), inference_ms_sd=0.1)
    (timed,) = time_figures(runs, timings)
    assert timed.data.loc[timed.data["method_label"] == "SA(8)", "ratio"].tolist() == [8, 8]
    assert timed.caption != figure.caption


def test_devices_are_never_mixed():
    runs = pd.concat([made(), made().assign(device="gpu", seed=lambda r: r["seed"] + 100, inference_ms=1.0)])
    both = time_figures(runs)
    assert [f.name[-3:] for f in both] == ["cpu", "gpu"]
    assert np.allclose(both[1].data["ratio"], 1)


def test_training_curves_count_the_epochs_of_the_starting_vae():
    runs = made([("vae", None), ("rme", 2)])
    recorded = made_curves(runs)
    elbo, *parts = curve_figures(recorded, runs)
    assert [part.name for part in parts] == ["components-by-epoch-mnist-conv-d10", "components-by-epoch-mnist-conv-d50"]
    for axes, dim in zip(elbo.drawing.axes, (10, 50), strict=True):
        for method, start in (("vae", 0), ("rme", 40)):
            of = recorded[
                (recorded["method"] == method) & (recorded["dim"] == dim) & (recorded["metric"] == "val_elbo")
            ]
            by_epoch = of.groupby("epoch")["value"].agg(["mean", "std"])
            assert drawn(axes, by_epoch.index + start, by_epoch["mean"], style.colour(method))
            band = next(b for b in bands(axes) if b[0] == style.colour(method))
            assert np.allclose(band[3] - band[2], 2 * by_epoch["std"])
    kl = parts[0].drawing.axes[-1]
    of = recorded[(recorded["metric"] == "kl") & (recorded["dim"] == 10)].groupby("epoch")["value"].mean()
    assert drawn(kl, of.index + 40, of, style.colour("rme"))


def test_a_short_stage_is_shown_again_larger():
    runs = made([("vae", None), ("rme", 2)], dims=(10,))
    whole = made_curves(runs, 60)
    recorded = whole[(whole["method"] == "vae") | (whole["epoch"] <= 8)]
    figure = curve_figures(recorded, runs)[0]
    left, right = figure.drawing.axes
    of = recorded[(recorded["method"] == "rme") & (recorded["metric"] == "val_elbo")]
    by_epoch = of.groupby("epoch")["value"].mean()
    for axes in (left, right):
        assert drawn(axes, by_epoch.index + 60, by_epoch, style.colour("rme"))
    low, high = right.get_xlim()
    assert (
        58 < low < 60
        and 68 < high < 70
        and left.get_xlim()[0] <= 1
        and "Right: the same from epoch 60" in figure.caption
    )
    late = by_epoch[by_epoch.index >= 4]
    assert right.get_ylim()[0] < late.min() and late.max() < right.get_ylim()[1]


def test_bands_stay_within_what_is_possible():
    runs = made([("vae", None), ("rme", 2)], dims=(10,))
    recorded = made_curves(runs)
    spread = np.random.default_rng(3).exponential(size=len(recorded)) ** 3  # sd larger than the mean
    recorded["value"] = recorded["value"].where(~recorded["metric"].isin(["alpha", "kl"]), spread)
    figure = curve_figures(recorded, runs)[1]
    _, weight, kl = figure.drawing.axes
    of = recorded[recorded["metric"] == "kl"].groupby("epoch")["value"].agg(["mean", "std"])
    assert (of["std"] > of["mean"]).any()
    (band,) = bands(kl)
    assert np.allclose(band[2], np.maximum(0, of["mean"] - of["std"])) and np.allclose(band[3], of["mean"] + of["std"])
    assert all(low.min() >= 0 and high.max() <= 1 for _, _, low, high in bands(weight))
    assert kl.get_ylim()[0] >= 0 and weight.get_ylim()[0] >= 0


@pytest.mark.parametrize("rows", [SMALL, PAPER])
def test_orders_differ_in_line_and_mark_and_legends_show_them(rows):
    runs = made(rows)
    figure = score_figures(runs)[0]
    level = figure.drawing.axes[0]
    looks = [
        (line.get_color(), str(line.get_linestyle()), line.get_marker(), line.get_fillstyle())
        for line in level.get_lines()
    ]
    assert len(looks) == len(set(looks)) == len(rows)
    times = time_figures(runs)[0].drawing.axes[0]
    marks = [(line.get_color(), line.get_fillstyle()) for line in times.get_lines() if line.get_marker() != "None"]
    assert len(set(marks)) == len(rows)
    for drawing in (figure.drawing, time_figures(runs)[0].drawing):
        legends = [*drawing.legends, *filter(None, (axes.get_legend() for axes in drawing.axes))]
        listed = {
            text.get_text(): handle.get_fillstyle()
            for legend in legends
            for handle, text in zip(legend.legend_handles, legend.get_texts(), strict=True)
        }
        if rows is SMALL:
            assert set(listed) == set(runs["method_label"]) and listed["RME(2)"] != listed["RME(5)"]
        else:
            assert {"RME", "smallest order", "fourth"} <= set(listed) and listed["second"] != listed["third"]


def test_caption_says_which_curves_are_left_out():
    runs = made(PAPER, dims=(10,), seeds=range(SEEDS + 2))
    chosen = to_read(runs)
    assert len(chosen.drop_duplicates(["method", "order"])) == 8 <= ROWS and chosen["seed"].nunique() == SEEDS
    figure = curve_figures(made_curves(chosen), runs)[0]
    assert "21 of 29 rows" in figure.caption and f"the first {SEEDS} of {SEEDS + 2}" in figure.caption


# ---------------------------------------------------------------------- curves from MLflow
@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = Store(tmp_path_factory)
    for seed in range(6):
        for method, order, more in (("vae", None, {}), ("rme", 2, {"stage_epochs": 5})):
            run = store.run("curves", method, order, seed, 500 + seed, **more)
            points = [("val_elbo", e, 100 * e + seed) for e in range(1, 4)] + [("val_elbo", 4, float("nan"))]
            points += [(f"loss_{method}", 1, 3.0)]
            if method == "rme":
                points += [
                    ("alpha_0", 1, 0.9),
                    ("alpha_1", 1, 0.1),
                    ("kl_1", 1, 7.0 + seed),
                    ("elbo_q_1", 1, float("inf")),
                ]
            store.client.log_batch(run, [Metric(f"train/{name}", value, 0, epoch) for name, epoch, value in points])
    store.run("bare", "vae", None, 0, 1.0)
    hostile = '<img src=x onerror="alert(1)">'
    for seed in range(2):
        store.run("hostile", "vae", None, seed, 1.0 + seed, label=hostile, method_label=hostile)
        store.run("hostile", "rme", 2, seed, 2.0 + seed, label=hostile, method_label=f"{hostile}(2)")
    return store


def test_curves_come_back_as_they_were_recorded(store):
    frame = curves(store.uri, "curves")
    rme = frame[(frame["method"] == "rme") & (frame["seed"] == 3)]
    assert rme.loc[rme["metric"] == "val_elbo", ["epoch", "value"]].to_numpy().tolist() == [
        [1, 103],
        [2, 203],
        [3, 303],
    ]
    assert set(rme["parent_epochs"]) == {20} and set(frame.loc[frame["method"] == "vae", "parent_epochs"]) == {0}
    parts = rme[rme["metric"] != "val_elbo"].set_index(["metric", "component"])["value"].to_dict()
    assert parts == {("alpha", 0): 0.9, ("alpha", 1): 0.1, ("kl", 1): 10.0}
    assert np.isfinite(frame["value"]).all()
    few = curves(store.uri, "curves", runs=collect(store.uri, "curves").head(2), metrics=["alpha"])
    assert len(few) == 4 and set(few["metric"]) == {"alpha"}


def test_curves_of_runs_that_have_none(store):
    frame = curves(store.uri, "bare")
    assert frame.empty and list(frame) == list(curves(store.uri, "curves")) and curve_figures(frame) == []


# ---------------------------------------------------------------------- legible
@pytest.fixture(scope="module")
def whole():
    """All figures of the paper's grid for one data set and both decoders."""
    conv = made(PAPER, dims=(10, 20, 50, 100), seeds=range(10))
    fc = made([(m, o) for m, o in PAPER if m in ("vae", "sa", "rme")], decoder="fc")
    both = pd.concat([conv, fc], ignore_index=True)
    return figures(both, made_curves(to_read(both)))


def shown_texts(drawing):
    """Visible texts and their boxes in dots, without ticks beyond the axes' ends."""
    beyond = set()
    for axes in drawing.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            room = 1e-6 * (high - low)
            hidden = [
                t for t in axis.get_major_ticks() if not low - room <= t.get_loc() <= high + room or not axes.axison
            ]
            beyond |= {text for tick in hidden for text in (tick.label1, tick.label2)}
    for text in drawing.findobj(Text):
        if text.get_visible() and text.get_text().strip() and text not in beyond:
            yield text.get_text(), text.get_window_extent()


def test_no_text_is_cut_or_covers_another(whole):
    for figure in whole:
        with style.printed():
            figure.drawing.draw_without_rendering()
            texts = list(shown_texts(figure.drawing))
        page = figure.drawing.bbox
        for text, box in texts:
            inside = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= page.x1 + 1 and box.y1 <= page.y1 + 1
            assert inside, f"{figure.name}: {text!r} is cut"
        for (a, one), (b, other) in combinations(texts, 2):
            across = min(one.x1, other.x1) - max(one.x0, other.x0)
            down = min(one.y1, other.y1) - max(one.y0, other.y0)
            assert min(across, down) < 1.5, f"{figure.name}: {a!r} and {b!r} overlap"


def test_one_column_wide_and_no_text_below_five_points(whole):
    for figure in whole:
        width, height = figure.drawing.get_size_inches()
        assert width == style.COLUMN_IN and height < 9
        assert min(text.get_fontsize() for text in figure.drawing.findobj(Text) if text.get_text()) >= 5


def test_the_same_colour_for_a_method_everywhere(whole):
    known = {to_hex(style.colour(method)): method for method, _ in PAPER}
    for figure in whole:
        for legend in [*figure.drawing.legends, *(a.get_legend() for a in figure.drawing.axes)]:
            for handle, text in zip(legend.legend_handles, legend.get_texts(), strict=True) if legend else ():
                label = text.get_text().partition("(")[0].lower()
                if label in known.values():
                    assert to_hex(handle.get_color()) == style.colour(label)
        coloured = {known[c] for a in figure.drawing.axes for c, _, _ in lines(a) if c in known}
        assert coloured == set(figure.data["method"]) | (coloured & {"vae"})


# Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB
MACHADO = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def seen(colour, vision):
    """A colour in CIELAB (D65) as seen with that kind of vision."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(np.asarray(MACHADO[vision]) @ linear, 0, 1)
    xyz = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    t = (xyz @ linear) / [0.95047, 1.0, 1.08883]
    f = np.where(t > (6 / 29) ** 3, np.cbrt(t), t / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("vision", MACHADO)
def test_colours_are_distinguishable_to_the_colour_blind(vision):
    names = methods.names()
    apart = {
        (a, b): np.linalg.norm(seen(style.colour(a), vision) - seen(style.colour(b), vision))
        for a, b in combinations(names, 2)
    }
    closest = min(apart, key=apart.get)
    assert apart[closest] > 15, f"{closest}: {apart[closest]:.1f}"  # 2.3 is just noticeable
    assert all(seen(style.colour(name), vision)[0] < 75 for name in names)  # against the white page


def test_every_method_has_its_own_marker():
    names = methods.names()
    assert len({style.marker(name) for name in names}) == len(names)


# ---------------------------------------------------------------------- files
def test_files_are_valid(tmp_path):
    figure = score_figures(made())[0]
    width, height = figure.drawing.get_size_inches()
    png, pdf, csv = (path.read_bytes() for path in figure.save(tmp_path))
    assert png[:8] == b"\x89PNG\r\n\x1a\n" and png[12:16] == b"IHDR"
    assert struct.unpack(">II", png[16:24]) == (int(width * 300), int(height * 300))
    box = re.search(rb"/MediaBox \[ 0 0 ([\d.]+) ([\d.]+) \]", pdf)
    assert pdf.startswith(b"%PDF-") and pdf.rstrip().endswith(b"%%EOF") and b"/FontFile2" in pdf
    assert [float(side) for side in box.groups()] == pytest.approx([width * 72, height * 72], abs=0.01)
    assert len(csv.decode().splitlines()) == 1 + len(figure.data)
    assert png == score_figures(made())[0].png()


# ---------------------------------------------------------------------- missing runs
PARTIAL = {
    "nothing is missing": lambda r: r,
    "nothing": lambda r: r.iloc[:0],
    "one run": lambda r: r.iloc[:1],
    "one seed": lambda r: r[r["seed"] == 0],
    "one dim": lambda r: r[r["dim"] == 10],
    "one row": lambda r: r[r["method"] == "vae"],
    "no VAE": lambda r: r[r["method"] != "vae"],
    "no seed in common": lambda r: r[(r["method"] == "vae") == (r["seed"] < 4)],
    "a cell is missing": lambda r: r[(r["dim"] == 10) | (r["method"] != "rme")],
    "no score": lambda r: r.assign(test_iwae=np.nan),
    "some scores": lambda r: r.assign(test_iwae=r["test_iwae"].where(r["seed"] > 5)),
    "no score of the VAE": lambda r: r.assign(test_iwae=r["test_iwae"].where(r["method"] != "vae")),
    "infinite": lambda r: r.assign(test_iwae=r["test_iwae"].where(r["seed"] > 0, -np.inf)),
    "all equal": lambda r: r.assign(test_iwae=1.0, inference_ms=1.0),
    "no time": lambda r: r.assign(inference_ms=np.nan),
    "no device": lambda r: r.assign(device=None),
    "a user's method": lambda r: r.assign(method=r["method"].replace("rme", "my-method")),
    "hostile": lambda r: r.assign(dataset_label="$\\bad{ & <b>", method_label=r["method_label"] + "$x_$"),
}  # fmt: skip


@pytest.mark.parametrize("what", PARTIAL)
def test_partial_runs_give_partial_figures(what):
    whole = made()
    runs = PARTIAL[what](whole)
    # curves depend only on the runs' identity: if no run is missing, the case "nothing is missing" has drawn them
    same = what != "nothing is missing" and runs[OF_CURVES].equals(whole[OF_CURVES])
    recorded = None if same or runs.empty else made_curves(runs)
    found = figures(runs, recorded)
    assert len({figure.name for figure in found}) == len(found)
    for figure in found:
        with style.printed():
            figure.drawing.draw_without_rendering()
        assert figure.title and figure.caption and figure.alt and "nan" not in figure.caption + figure.alt
        assert re.fullmatch(r"[\w.-]+", figure.name) and len(figure.data)
    kinds = {figure.name.split("-mnist")[0] for figure in found}
    if what in ("nothing", "no score"):
        assert not any(kind.startswith("test_iwae") for kind in kinds)
    if what in ("no VAE", "no seed in common", "no score of the VAE", "one row"):
        assert "test_iwae-minus-vae-by-seed" not in kinds


def test_data_sets_whose_file_names_would_be_equal():
    runs = pd.concat([made(dataset="/a/x.npz"), made(dataset="/a/X.npz")])
    assert len(list(subjects(runs))) == 2
    found = score_figures(runs)
    assert len({figure.name for figure in unique_names(found)}) == 2


# ---------------------------------------------------------------------- the report
def test_the_report_holds_and_writes_the_figures(store, tmp_path):
    report = build_report("curves", tmp_path, store.uri)
    assert [figure.name for figure in report.figures] == [
        "test_iwae-by-row-mnist-conv", "test_iwae-minus-vae-by-seed-mnist-conv", "test_iwae-by-time-mnist-conv",
        "val_elbo-by-epoch-mnist-conv", "components-by-epoch-mnist-conv-d10",
    ]  # fmt: skip
    page = report.index.read_text()
    packed = json.loads(gzip.decompress(base64.b64decode(re.search(r'id="packed">([^<]+)<', page).group(1))))
    assert page.count("<svg") == len(report.figures) and set(packed["marks"]) == {f.name for f in report.figures}
    for figure in report.figures:
        held = base64.b64decode(packed["pictures"][f"{figure.name}.png"])
        assert held == (tmp_path / "figures" / f"{figure.name}.png").read_bytes()
        assert f'<figure id="{figure.name}" class="drawing"' in page
        for suffix in ("png", "pdf", "csv"):
            assert f'href="figures/{figure.name}.{suffix}"' in page
            assert tmp_path / "figures" / f"{figure.name}.{suffix}" in report.files
    assert build_report("curves", tmp_path / "plain", store.uri, draw=False).figures == []
    assert not (tmp_path / "plain" / "figures").exists()


def test_names_in_figures_are_escaped_in_the_page(store, tmp_path):
    report = build_report("hostile", tmp_path, store.uri)
    page = report.index.read_text()
    assert len(report.figures) >= 2 and "onerror" in page
    assert page.count("<svg") == len(report.figures) and "<img" not in page
