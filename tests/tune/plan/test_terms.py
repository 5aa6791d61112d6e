"""How a plan describes each row's training, and when patience can end one."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from analysis.rate_text import rate_text
from rme.kept import Kept
from rme.training import is_measured
from tests.tune.plan.test_grid import spec
from tune.cost.hours import earliest_end
from tune.plan import terms
from tune.plan.terms import Terms


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
