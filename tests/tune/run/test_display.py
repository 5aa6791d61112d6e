"""The display fits the terminal, counts runs correctly, and estimates the time left."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from rme.config import RunSpec
from tests.tune.plan.test_grid import spec
from tune.plan.trials import Trial
from tune.run.display import Display
from tune.run.protocol import Outcome
from tune.run.schedule import Schedule
from tune.run.training import RESULT_S, _Reporter, epochs_between_reports
from tune.run.worker import Link


def runs(count: int, **fields) -> list[RunSpec]:
    return [spec(seed=seed, **fields) for seed in range(count)]


def display(
    trials: list[Trial], work=lambda trial: 1.0, width: int = 80, height: int = 24, available: set[str] | None = None
) -> Display:
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None)
    return Display(Schedule.of(trials, available or (), work), 0, console)


def start(shown: Display, count: int) -> list[Trial]:
    started = []
    for _ in range(count):
        trial = shown.schedule.next()
        assert trial is not None
        shown.started(trial.key)
        started.append(trial)
    return started


def report(shown: Display, trial: Trial, epoch: int, seconds: float) -> None:
    shown.progressed(trial.key, Outcome(epoch=epoch, seconds=seconds, val_elbo=-123456.7))


def lines(shown: Display) -> list[str]:
    with shown.console.capture() as captured:
        shown.console.print(shown._render())
    return captured.get().splitlines()


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (60, 10), (200, 60)])
def test_it_fits_the_terminal(width, height):
    shown = display([Trial((run,)) for run in runs(40)], width=width, height=height)
    started = start(shown, 36)
    for trial in started:
        report(shown, trial, 10, 3.0)
    for trial in started[:9]:
        shown.recorded(trial.runs[0], {"test/iwae": 1234.5, "val/iwae": 1230.1})
        shown.failed(trial.runs[0], "DivergedError: " + "no loss is finite, " * 20)
    found = lines(shown)
    assert len(found) < height and max(map(len, found)) <= width
    named = sum("seed" in line and "/" in line and "failed" not in line and "test" not in line for line in found)
    more = [int(line.split()[1]) for line in found if "more trials" in line]
    assert named + sum(more) == 36, "hidden trials are counted"
    failures = sum("failed:" in line for line in found)
    assert failures + sum(int(line.split()[0]) for line in found if "failures before these" in line) == 9


def test_runs_are_counted_by_state():
    shown = display([Trial((run,)) for run in runs(5)])
    first, second = start(shown, 2)
    shown.ended(first)
    shown.schedule.finished(first, {first.runs[0].key: "NaN"})
    assert "0 done, 1 running, 3 waiting, 1 failed" in shown.summary()
    assert second.key in shown.running


def test_speed_and_time_left_follow_from_measured_epochs():
    shown = display([Trial((run,)) for run in runs(4, epochs=100, restarts=3)])
    a, b = start(shown, 2)
    report(shown, a, 10, 20.0)
    report(shown, b, 10, 20.0)
    # 2 s an epoch; two trials with 90 epochs left and two with 100, two at a time
    assert shown.seconds_left() == pytest.approx(2 * (90 + 90 + 100 + 100) / 2)
    assert "3.0 member-epochs/s" in shown.summary() and "1.8 members/min" in shown.summary()


def test_a_kind_that_has_not_run_is_estimated_from_its_work():
    trials = [Trial((spec(epochs=100),)), Trial((spec(dim=50, epochs=100),))]
    shown = display(trials, work=lambda trial: 2.0 if trial.runs[0].dim == 50 else 6.0)
    (first,) = start(shown, 1)
    assert first.runs[0].dim != 50
    report(shown, first, 50, 150.0)
    # 3 s an epoch, 50 epochs left; and a whole training with a third of the work
    assert shown.seconds_left() == pytest.approx(50 * 3 + 100 * 1)


def test_a_method_without_training_is_shown_and_has_an_estimate_of_its_own():
    trials = [Trial((spec(epochs=100),)), *(Trial((spec("svi", 10, seed=s, epochs=100),)) for s in range(3))]
    works = {"vae": 6.0, "svi": 2.0}
    available = {trial.runs[0].parent.key for trial in trials[1:]}
    shown = display(trials, work=lambda trial: works[trial.runs[0].method], available=available)
    started = start(shown, 4)
    assert shown.seconds_left() is None and any("scoring" in line for line in lines(shown))
    (vae,) = (trial for trial in started if trial.runs[0].method == "vae")
    report(shown, vae, 50, 150.0)
    # 3 s an epoch, 50 epochs left; each of the others a third of the whole training
    assert shown.seconds_left() == pytest.approx(max((150 + 3 * 100) / 4, 150))
    first, second, third = (trial for trial in started if trial is not vae)
    for trial in (first, second):
        report(shown, trial, 0, 0.0)
        shown.running[trial.key].since -= 30.0
        shown.ended(trial)
        shown.schedule.finished(trial)
    report(shown, vae, 99, 297.0)
    assert shown.seconds_left() == pytest.approx(30, abs=1), "as long as the finished ones, and not added to the VAE"
    shown.ended(third)
    shown.schedule.finished(third)
    assert shown.seconds_left() == pytest.approx(3)


def test_the_time_left_is_at_least_the_longest_trial_s():
    trials = [Trial((spec(epochs=1000),)), Trial((spec(dim=50, epochs=10),))]
    shown = display(trials)
    long, short = sorted(start(shown, 2), key=lambda trial: -trial.runs[0].epochs)
    report(shown, long, 1, 1.0)
    report(shown, short, 9, 9.0)
    assert shown.seconds_left() == pytest.approx(999)


@pytest.mark.parametrize("epoch_s", [1e-4, 0.01, 0.3, 5.0])
@pytest.mark.parametrize("report_s", [0.0, 0.002, 0.05])
def test_reports_take_at_most_a_hundredth_of_the_time(epoch_s, report_s):
    every = epochs_between_reports(epoch_s, report_s)
    assert every >= 1
    assert (report_s + RESULT_S) / (every * epoch_s) <= 0.01
    # and they are no rarer than that or one a second requires
    assert (every - 1) * epoch_s < max(1.0, 100 * (report_s + RESULT_S)) + 1e-9


def test_progress_names_the_newest_elbo_of_the_best_member(monkeypatch):
    nan, reported = float("nan"), []
    link = Link(lambda outcome: reported.append(outcome.val_elbo), lambda: False)
    reporter = _Reporter([spec(restarts=2)], link)
    history = SimpleNamespace(val_elbo=[], seconds=[])
    engine = SimpleNamespace(epoch=0, members=[0, 1], history=history)
    for elbo in ([1.0, 2.0], [nan, 5.0], [nan, nan]):
        history.val_elbo.append(torch.tensor(elbo))
        history.seconds.append(1e6)  # long enough that each epoch is reported
        engine.epoch += 1
        reporter(engine)  # type: ignore[arg-type]
    assert reported == [2.0, 5.0, 5.0]
