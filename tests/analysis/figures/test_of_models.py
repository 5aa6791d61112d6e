"""The figures of trained models, drawn from MLflow alone after a sweep's tracker recorded the runs."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import rme
from analysis import measures
from analysis.collect import collect
from analysis.figures.gaps import summarise_gaps
from analysis.figures.of_models import figures_of_runs, model_figures
from analysis.figures.posteriors import _levels
from analysis.measures import Budget, measure
from analysis.models import shown_models
from analysis.names import IMAGES
from analysis.progress import Steps
from analysis.report import build_report
from rme import RunSpec
from rme.model_file import NAME as MODEL
from tests.databases import blank_database
from tests.sweeping import SMALL
from tests.tiny import write_npz
from tune.record.tracking import Tracker

BUDGET = Budget(images=5, samples=20, steps=5, panels=2, minutes=None)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A VAE with two seeds, the second better, an RME(2) and an IAF(1); the data set's file is deleted."""
    path = write_npz(tmp_path_factory.mktemp("data") / "spots.npz", 40, 12)
    common = {"dataset": str(path), **SMALL, "dim": 2, "epochs": 1}
    vae = rme.fit(RunSpec.of({"method": "vae", **common}))
    results = [
        vae,
        replace(vae, spec=vae.spec.model_copy(update={"seed": 1}), val_iwae=vae.val_iwae + 1),
        rme.fit(RunSpec.of({"method": "rme", "order": 2, **common}), parent=vae),
        rme.fit(RunSpec.of({"method": "iaf", "order": 1, **common}), parent=vae),
    ]
    uri = blank_database(tmp_path_factory.mktemp("mlflow") / "mlflow.db")
    tracker = Tracker(uri, "spots")
    for result in results:
        tracker.record(result)
        tracker.show(result)
    path.unlink()
    return tracker, results


@pytest.fixture(scope="module")
def runs(recorded):
    return collect(recorded[0].uri, "spots")


@pytest.fixture(scope="module")
def drawn(recorded, runs, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    return *figures_of_runs(recorded[0].uri, runs, cache, BUDGET), cache


def artifact(tracker: Tracker, run_id: str, name: str) -> Path:
    return Path(tracker.client.get_run(run_id).info.artifact_uri.removeprefix("file://")) / name


def test_each_cell_shows_its_best_run(recorded, runs) -> None:
    tracker, results = recorded
    models = shown_models(tracker.uri, runs)
    assert [run.row.label for run in models.shown] == ["VAE", "IAF(1)", "RME(2)"] and models.notes == []
    vae = models.shown[0]
    assert (vae.seed, vae.run_key) == (1, runs.loc[runs["seed"] == 1, "run_key"].item())
    assert torch.equal(vae.images, results[1].test_images)
    assert torch.equal(models.shown[2].reconstructions, results[2].reconstructions[1])
    model, wanted = models.shown[2].load(), results[2].model.method
    assert all(torch.equal(value, wanted.state_dict()[name]) for name, value in model.state_dict().items())


def test_all_figures_are_drawn(drawn) -> None:
    figures, notes, _ = drawn
    assert notes == []
    assert [figure.name for figure in figures] == [
        "gaps-spots-d2-conv", "growth-spots-d2-conv", "posteriors-spots-conv", "reconstructions-spots-d2-conv",
        "samples-spots-d2-conv",
    ]  # fmt: skip
    for figure in figures:
        assert figure.png().startswith(b"\x89PNG") and figure.pdf().startswith(b"%PDF")
        assert set(figure.data["method_label"]) == {"VAE", "RME(2)", "IAF(1)"}
        assert figure.alt and "Left out" not in figure.caption


def test_the_numbers_agree_with_one_another(drawn) -> None:
    gaps, growth, posteriors = (figure.data.set_index("method_label") for figure in drawn[0][:3])
    assert (gaps["images"] == 5).all()
    assert (growth["samples"].unique() == [1, 2, 5, 10, 20]).all()
    first = growth[growth["samples"] == 1]["iwae"]
    elbo = gaps["log_p"] - gaps["approximation"] - gaps["amortisation"]
    np.testing.assert_allclose(first.sort_index(), elbo.sort_index())
    assert (growth["above_elbo"] >= 0).all()
    assert posteriors.loc["RME(2)", "weight"].groupby(posteriors.loc["RME(2)", "image"].to_numpy()).sum().tolist() == (
        pytest.approx([1, 1], abs=1e-5)
    )
    assert (posteriors["kl"] >= -1e-3).all() and (posteriors["q_outside"] < 0.1).all()


def test_finding_of_the_gaps(drawn) -> None:
    figure = drawn[0][0]
    data = figure.data.set_index("method_label")
    low, high = (f"{end(data['amortisation']):.1f}" for end in (min, max))
    assert f"the amortisation gap (due to the encoder) is {low} to {high} nats: " in figure.finding
    for label, row in data.iterrows():
        assert f"{label} {row['approximation']:.1f} and {row['amortisation']:.1f}" in figure.finding
    assert figure.finding.endswith("; means over 5 test images of one run each.")
    assert not any(other.finding for other in drawn[0][1:])


def test_a_second_report_computes_nothing(recorded, runs, drawn, monkeypatch) -> None:
    monkeypatch.setattr(measures, "_compute", lambda *_: pytest.fail("computed again"))
    again = measure(shown_models(recorded[0].uri, runs), BUDGET, drawn[2])
    assert again.notes == [] and len(again.gaps) == 15 and len(again.panels) == 6
    figure = drawn[0][0]
    pd.testing.assert_frame_equal(summarise_gaps(again.gaps), figure.data)


def test_cells_beyond_the_budget_are_noted(recorded, runs, tmp_path) -> None:
    figures, notes = figures_of_runs(recorded[0].uri, runs, tmp_path, replace(BUDGET, minutes=-1))
    assert [figure.name.partition("-")[0] for figure in figures] == ["reconstructions", "samples"]
    assert notes == [f"spots d2 {label}: not computed yet" for label in ("VAE", "IAF(1)", "RME(2)")]


class Told(Steps):
    """Keeps the lines that a terminal or a log would show."""

    def __init__(self):
        self.lines = []

    def slow(self, text, done=0, total=None):
        self.lines.append(text)

    say = slow


def test_what_is_measured_is_announced(recorded, runs, tmp_path) -> None:
    """Also how long it may take, before it begins; models at hand are not announced again."""
    told = Told()
    models = shown_models(recorded[0].uri, runs)
    measure(replace(models, shown=models.shown[:1]), BUDGET, tmp_path)
    measure(models, BUDGET, tmp_path, told)
    opening, *lines = told.lines
    assert opening.startswith("to measure: 2 models, ") and "1 are measured already; about" in opening
    assert [line.split(" in ")[0].split(",")[0] for line in lines] == [
        "measuring 1 of 2: spots d2 IAF(1)", "measured spots d2 IAF(1)", "measuring 2 of 2: spots d2 RME(2)",
        "measured spots d2 RME(2)",
    ]  # fmt: skip
    assert "to go" in lines[2]
    told.lines.clear()
    measure(models, BUDGET, tmp_path, told)
    assert told.lines == []


def test_ctrl_c_keeps_what_is_measured(recorded, runs, tmp_path, monkeypatch) -> None:
    told, compute, calls = Told(), measures._compute, []

    def interrupted_at_the_second(shown, budget):
        calls.append(shown)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return compute(shown, budget)

    monkeypatch.setattr(measures, "_compute", interrupted_at_the_second)
    models = shown_models(recorded[0].uri, runs)
    found = measure(models, BUDGET, tmp_path, told)
    assert set(found.gaps["method_label"]) == {"VAE"} and len(calls) == 2
    assert [(note.row.label, note.reason) for note in found.notes] == [
        ("IAF(1)", "not computed yet"), ("RME(2)", "not computed yet"),
    ]  # fmt: skip
    assert told.lines[-1] == "interrupted: 1 of 3 are measured; the next report continues with the rest"
    assert len(list(tmp_path.glob("*.safetensors"))) == 1


def test_what_is_missing_is_left_out_with_a_reason(recorded, runs, tmp_path) -> None:
    """Images that were not recorded, a damaged model, and a shown run that `where` excludes."""
    tracker, _ = recorded
    of = {label: runs[runs["method_label"] == label].iloc[0] for label in ("RME(2)", "IAF(1)")}
    images = artifact(tracker, of["IAF(1)"]["mlflow_parent_id"], IMAGES)
    model = artifact(tracker, of["RME(2)"]["mlflow_run_id"], f"model/{MODEL}")
    kept = images.read_bytes(), model.read_bytes()
    images.unlink()
    model.write_bytes(b"no model")
    try:
        models = shown_models(tracker.uri, runs[runs["seed"] == 0])
        figures, notes = model_figures(models, tmp_path, BUDGET)
    finally:
        images.write_bytes(kept[0])
        model.write_bytes(kept[1])
    assert [(note.row.label, note.reason) for note in models.notes] == [
        ("VAE", "the run with images is not among those chosen"),
        ("IAF(1)", "no images.safetensors was recorded"),
    ]
    assert [note.row.label for note in notes] == ["RME(2)"] and notes[0].reason.startswith("model.safetensors is dam")
    assert [figure.name.partition("-")[0] for figure in figures] == ["reconstructions", "samples"]
    assert figures[0].caption.endswith(
        "Left out: VAE (the run with images is not among those chosen); IAF(1) (no images.safetensors was recorded)."
    )


def test_report_with_model_minutes_writes_them(recorded, drawn, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(measures, "Budget", lambda minutes: replace(BUDGET, minutes=minutes))
    shutil.copytree(drawn[2], tmp_path / "models")  # as an earlier report leaves it
    report = build_report("spots", tmp_path, recorded[0].uri, model_minutes=5, draw=False)
    assert [figure.name for figure in report.figures] == [figure.name for figure in drawn[0]]
    assert all(f'id="{figure.name}"' in report.index.read_text() for figure in drawn[0])
    assert {path.name for path in report.files if path.parent.name == "figures"} == {
        f"{figure.name}.{suffix}" for figure in drawn[0] for suffix in ("png", "pdf", "csv")
    }
    assert all(path.stat().st_size > 0 for path in report.files)
    assert drawn[0][0].finding in report.answer and "the amortisation gap" in report.index.read_text()


def test_levels_hold_the_mass() -> None:
    density = np.array([[4.0, 3.0], [2.0, 1.0]])
    assert _levels(density, (0.9, 0.5)) == [2.0, 3.0]
