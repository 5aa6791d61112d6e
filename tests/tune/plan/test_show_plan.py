"""What a plan prints, as text and as JSON, and whether it says that the sweep would be refused."""

from __future__ import annotations

import json

import pytest
import torch

from tests.tune.plan.test_grid import spec
from tune.cost.hours import Hours, earliest_end
from tune.plan.compute import Compute
from tune.plan.grid import Grid
from tune.plan.show_plan import Questions, show_plan
from tune.store.errors import CommandError
from tune.store.storage import Storage


def vae(**fields):
    return spec(epochs=60, learning_rate=5e-4, **fields)


@pytest.fixture
def planned(tmp_path, monkeypatch, capsys):
    """A function that returns what a plan prints, with one hour for each epoch, and whether it would be refused."""
    monkeypatch.setenv("COLUMNS", "200")

    def trial_hours(arrays, device):
        return [Hours(float(runs[0].training_epochs), float(earliest_end(runs[0]))) for runs in arrays]

    monkeypatch.setattr("tune.cost.hours.trial_hours", trial_hours)

    def show(runs, as_json=False, at_once=2, **questions):
        compute = Compute(torch.device("cpu"), 2, at_once)
        refused = show_plan(
            Grid("g", "a grid", tuple(runs), ()), 2, Storage(tmp_path), compute, Questions(**questions), as_json=as_json
        )
        text = capsys.readouterr().out
        return (json.loads(text) if as_json else text), refused

    return show


def test_hours_with_and_without_patience(planned):
    runs = [vae(patience=5), spec("rme", 2, epochs=60, learning_rate=5e-4, patience=5, stage_patience=2)]
    plan, _ = planned(runs, as_json=True)
    assert plan["hours"] == 60 + 60 and plan["hours_if_patience_ends_all"] == 6 + 3
    assert [(row["method"], row["patience"]) for row in plan["rows"]] == [("VAE", 5), ("RME(2)", 2)]
    text, _ = planned(runs)
    assert "upper bound" in text and "as soon as its patience allows" in text
    assert planned([vae()], as_json=True)[0]["hours_if_patience_ends_all"] is None
    assert "bound" not in planned([vae()])[0]


def test_a_starting_point_that_no_row_names_has_terms_too(planned):
    plan, _ = planned([spec("rme", 2, epochs=60, variant="low", stage_learning_rate=1e-5)], as_json=True)
    assert [(row["method"], row["starts_from"], row["learning_rate"]) for row in plan["rows"]] == [
        ("VAE", "scratch", 1e-3),
        ("RME(2), low", "vae", 1e-5),
    ]


def test_the_wall_time_of_trials_that_wait_for_one_another(planned):
    """A VAE of 60 h, then RME of 60 h after it, and SA of 20 h beside them: 140 core-hours, but 120 h on any cores."""
    runs = [vae(), spec("rme", 2, epochs=60, learning_rate=5e-4), spec("sa", 1, epochs=20)]
    plan, _ = planned(runs, as_json=True)
    assert (plan["hours"], plan["wall_hours"], plan["unit"]) == (140, 120, "core-hours")
    assert (plan["available"], plan["trials_at_once"]) == (2, 2)
    assert planned(runs, as_json=True, at_once=1)[0]["wall_hours"] == 140
    text, _ = planned(runs)
    assert "in all 5.8 core-days (140 core-hours); on these 2 cores: about 5.0 days" in text


def test_a_grand_total_and_one_unit_for_the_table(planned):
    text, _ = planned([vae(dataset="digits"), vae(dataset="mnist"), spec("sa", 1, epochs=30_000)])
    assert "core-days" in text  # 60 and 30,000 h
    rows = [line.replace("│", " ").split() for line in text.splitlines() if line.startswith("│")]
    assert ["VAE", "2.5", "2.5", "5.0"] in rows and ["SA(1)", "1,250", "1,250"] in rows
    assert ["all", "1,252", "2.5", "1,255"] in rows
    assert "in all 3.4 core-years (30,120 core-hours)" in text  # 30,120 / 8,766


def test_reasons_for_a_refusal_are_printed_and_returned(planned):
    plan, refused = planned([vae()], as_json=True)
    assert plan["refused"] is None and plan["warnings"] == [] and refused is False
    plan, refused = planned([vae()], as_json=True, refusal=lambda: "no images", cautions=lambda: ["beware"])
    assert plan["refused"] == "no images" and plan["warnings"] == ["beware"] and refused is True
    text, refused = planned([vae()], recorded=lambda: ((), "other settings"), cautions=lambda: ["beware"])
    assert "the sweep would be refused: other settings" in text and "warning: beware" in text and refused is True

    def unreadable():
        raise CommandError("--tracking-uri http://x: no answer")

    plan, refused = planned([vae()], as_json=True, recorded=unreadable)
    assert plan["refused"] == "--tracking-uri http://x: no answer" and plan["hours"] == 60 and refused is True


def test_recorded_runs_need_no_hours(planned):
    runs = [vae(seed=seed) for seed in range(4)]
    plan, _ = planned(runs, as_json=True, recorded=lambda: ([run.key for run in runs[:2]], None))
    assert (plan["runs"], plan["done_runs"], plan["to_train_runs"], plan["hours"]) == (4, 2, 2, 60)
    plan, _ = planned(runs, as_json=True, recorded=lambda: ([run.key for run in runs], None))
    assert (plan["to_train_runs"], plan["hours"], plan["wall_hours"], plan["hours_by"]) == (0, 0, 0, [])
    assert "4 of the runs are done" in planned(runs, recorded=lambda: ([run.key for run in runs], None))[0]


def test_the_counts_are_printed_before_anything_is_asked(planned, capsys):
    said = []

    def refusal():
        said.append(capsys.readouterr().out)

    planned([vae(seed=seed) for seed in range(4)], refusal=refusal)
    assert "1 cell, 4 runs, 4 trainings" in said[0]
