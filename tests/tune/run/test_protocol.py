"""Jobs and outcomes survive the way through Ray's configurations and results, which are plain values."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rme.timing import TimingSpec
from tests.tune.plan.test_grid import spec
from tune.run.protocol import Job, Outcome
from tune.store.failure import Failure

TIMING = TimingSpec.of({"method": "iaf", "order": 2, "dataset": "digits", "dim": 3, "repeats": 7})


@pytest.mark.parametrize("runs", [(spec("rme", 2, variant="kl 20"), spec("rme", 2, seed=1)), (TIMING,)])
def test_a_job_arrives_as_it_was_sent(tmp_path, runs):
    folders = tmp_path / "s", tmp_path / "s" / "trials", tmp_path / "d"
    job = Job("key", "name", runs, *folders, 2, "cuda", 0.25, "a sweep")
    config = job.to_config()
    assert {type(value) for value in config.values()} <= {str, int, float}
    assert (config["key"], config["threads"], config["gpus"]) == ("key", 2, 0.25), "the driver reads these"
    again = Job.from_config(config)
    assert again == job
    assert [(type(run), run.variant) for run in again.runs] == [(type(run), run.variant) for run in runs]


FAILURE = Failure("DivergedError: no loss is finite", "Traceback ...", lasting=True)


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome(),
        Outcome(epoch=3, epochs=9, members=6, seconds=1.5, val_elbo=-12.25),
        Outcome(epoch=3, epochs=9, members=6, seconds=1.5, val_elbos=(-12.25, 3.5)),
        Outcome(epoch=9, val_iwae=(-1.5, 2.0), seconds=3.0),
        Outcome(epoch=2, diverged="no loss is finite"),
        Outcome(ended={"a": None, "b": FAILURE}),
        Outcome(held_elsewhere=True, warnings=("one", 'and "two"')),
        Outcome(stopped=True),
        Outcome(raised=FAILURE),
    ],
)
def test_an_outcome_arrives_as_it_was_sent(outcome):
    result = outcome.to_result()
    assert {type(value) for value in result.values()} <= {str, int, float, bool}
    of_ray = {"training_iteration": 4, "trial_id": "0", "config": {}, "done": False}
    assert Outcome.from_result(result | of_ray) == outcome


def test_a_result_has_the_scores_for_optuna_and_asha_only_if_they_are_known():
    result = Outcome(epoch=4, val_iwae=(1.0, 4.0)).to_result()
    assert result["val_iwae"] == 2.5 and "val_elbo" not in result
    assert "val_iwae" not in Outcome(epoch=4, val_elbo=1.0).to_result()
    assert replace(Outcome(), epoch=4).to_result()["epoch"] == 4
    assert Outcome.from_result({}) == Outcome()
