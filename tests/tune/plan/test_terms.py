"""How a plan describes each row's training, and its bounds on the hours."""

from __future__ import annotations

import json
from functools import partial

import pytest
import torch

from analysis.rate_text import rate_text
from rme.kept import Kept
from rme.training import is_measured
from tests.tune.plan.test_grid import spec
from tune.cost.hours import earliest_end
from tune.plan import terms
from tune.plan.grid import Grid
from tune.plan.plan import make_plan
from tune.plan.show_plan import show_plan
from tune.plan.terms import Terms
from tune.store.storage import Storage


def vae(**fields):
    return spec(epochs=60, learning_rate=5e-4, **fields)


def test_terms_of_each_way_of_training():
    common = {"epochs": 60, "learning_rate": 5e-4, "stage_learning_rate": None, "stage_epochs": 8}
    assert Terms.of(spec(**common)) == Terms("VAE", "scratch", 0, None, 60, 5e-4, 0, None, "best", None)
    rme, iaf = Terms.of(spec("rme", 2, **common)), Terms.of(spec("iaf", 2, variant="own", **common))
    assert (rme.start, rme.epochs, rme.learning_rate) == ("VAE, 60 at 5e-4", 8, 1e-6)
    assert (iaf.method, iaf.epochs, iaf.learning_rate) == ("IAF(2), own", 8, 5e-4)
    svi = Terms.of(spec("svi", 10, **common))
    assert (svi.start_epochs, svi.epochs, svi.learning_rate) == (60, 0, None)
    finished = Terms.of(spec("sa", 1, **common, finish_epochs=8, finish_learning_rate=2e-5, keep="last"))
    assert (finished.start, finished.finish, finished.keep) == ("scratch", "last 8 at 2e-5", "last")
    from_finished = Terms.of(spec("rme", 2, **common, finish_epochs=8, finish_learning_rate=2e-5))
    assert from_finished.start == "VAE, 60 at 5e-4, last 8 at 2e-5"


def test_a_row_that_is_trained_in_two_ways_is_listed_twice():
    wanted = [spec(seed=s, dataset=d, epochs=e) for d, e in (("mnist", 60), ("digits", 80)) for s in (0, 1)]
    found = terms.rows([*wanted, *(spec(dataset="omniglot", epochs=60, dim=dim) for dim in (2, 3))])
    assert [(row.terms.epochs, row.datasets, row.cells) for row in found] == [
        (60, ("MNIST", "OMNIGLOT"), 3),
        (80, ("digits",), 1),
    ]


@pytest.mark.parametrize(
    ("value", "text"), [(5e-4, "5e-4"), (2.5e-4, "2.5e-4"), (1e-6, "1e-6"), (0.05, "0.05"), (1.25e-3, "1.25e-3")]
)
def test_a_rate_is_written_without_padding(value, text):
    assert rate_text(value) == text and float(text) == value


@pytest.mark.parametrize(
    ("fields", "end"),
    [
        ({"epochs": 60, "patience": 5}, 6),  # measured at every epoch, the first is best
        ({"epochs": 400, "patience": 20}, 8 + 24),  # measured at every 8th epoch
        ({"epochs": 400, "patience": 3}, 6),  # measured at every 3rd epoch
        ({"epochs": 4, "patience": 9}, 4),
        ({"epochs": 60}, 60),
    ],
)
def test_the_earliest_end_is_that_of_a_training_that_only_gets_worse(fields, end):
    """Compared with `Kept`, which applies patience during training."""
    run = vae().model_copy(update=fields)
    kept = Kept({"weight": torch.zeros(1)}, run.keep, run.own_patience)
    for epoch in filter(partial(is_measured, run), range(1, run.training_epochs + 1)):
        kept.measured(epoch, torch.tensor([-epoch], dtype=torch.float64), {"weight": torch.zeros(1)})
    assert earliest_end(run) == end == (kept.finished.item() or run.training_epochs)


@pytest.fixture
def planned(tmp_path, monkeypatch):
    """A function that prints the plan of some runs, with one hour for each epoch."""
    monkeypatch.setenv("COLUMNS", "200")

    def hours(arrays, *, earliest=False):
        epochs = [(earliest_end if earliest else lambda run: run.training_epochs)(runs[0]) for runs in arrays]
        return {("digits", "all"): float(sum(epochs))}

    monkeypatch.setattr("tune.cost.hours.hours", hours)

    def show(runs, as_json=False):
        plan = make_plan(Grid("g", "a grid", tuple(runs), ()), 2, (), Storage(tmp_path))
        show_plan(plan, as_json, None)

    return show


def test_a_plan_shows_hours_with_and_without_patience(planned, capsys):
    runs = [vae(patience=5), spec("rme", 2, epochs=60, learning_rate=5e-4, patience=5, stage_patience=2)]
    planned(runs, as_json=True)
    plan = json.loads(capsys.readouterr().out)
    assert plan["hours"] == 60 + 60 and plan["hours_if_patience_ends_all"] == 6 + 3
    assert [(row["method"], row["patience"]) for row in plan["rows"]] == [("VAE", 5), ("RME(2)", 2)]
    planned(runs)
    text = capsys.readouterr().out
    assert "upper bound" in text and "as soon as its patience allows" in text
    planned([vae()], as_json=True)
    assert json.loads(capsys.readouterr().out)["hours_if_patience_ends_all"] is None
    planned([vae()])
    assert "bound" not in capsys.readouterr().out


def test_a_starting_point_that_no_row_names_has_terms_too(planned, capsys):
    planned([spec("rme", 2, epochs=60, variant="low", stage_learning_rate=1e-5)], as_json=True)
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [(row["method"], row["starts_from"], row["learning_rate"]) for row in rows] == [
        ("VAE", "scratch", 1e-3),
        ("RME(2), low", "vae", 1e-5),
    ]
