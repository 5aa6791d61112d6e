"""The display fits the terminal, counts runs correctly, and estimates the time left."""

from __future__ import annotations

import io
import logging
import math
import time
from types import SimpleNamespace

import pyte
import pytest
import torch
from rich.console import Console

from rme.config import RunSpec
from rme.engine import all_members
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
    shown.progressed(trial.key, Outcome(epoch=epoch, seconds=seconds, val_elbos=(-123456.7,) * len(trial.runs)))


def lines(shown: Display) -> list[str]:
    with shown.console.capture() as captured:
        shown.console.print(shown._render())
    return captured.get().splitlines()


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (60, 10), (200, 60)])
def test_it_fits_the_terminal(width, height):
    shown = display([Trial((run,)) for run in runs(40, epochs=50)], width=width, height=height)
    started = start(shown, 36)
    for trial in started:
        report(shown, trial, 10, 3.0)
    for trial in started[:9]:
        shown.recorded(trial.runs[0], {"test/iwae": 1234.5, "val/iwae": 1230.1})
        shown.failed(trial.runs[0], "DivergedError: " + "no loss is finite, " * 20)
    shown.stopping("stopping: saving checkpoints")
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
    assert "3.0 model-epochs/s" in shown.summary()


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


def test_progress_has_each_seeds_newest_elbo_of_its_best_restart():
    nan, reported = float("nan"), []
    specs = runs(2, restarts=2)
    reporter = _Reporter(specs, Link(lambda outcome: reported.append(outcome.val_elbos), lambda: False))
    history = SimpleNamespace(val_elbo=[], seconds=[])
    engine = SimpleNamespace(epoch=0, members=all_members(specs), history=history)
    for elbo in ([nan] * 4, [1.0, 2.0, nan, nan], [nan, 5.0, 7.0, 6.0], [nan] * 4):
        history.val_elbo.append(torch.tensor(elbo))
        history.seconds.append(1e6)  # long enough that each epoch is reported
        engine.epoch += 1
        reporter(engine)  # type: ignore[arg-type]
    assert reported[0] == () and reported[2:] == [(5.0, 7.0)] * 2
    assert reported[1][0] == 2.0 and math.isnan(reported[1][1])


@pytest.mark.parametrize(
    ("values", "text"),
    [((571.2, 569.84), "571.2 / 569.8"), ((1.0, math.nan), "1.0 / –"), ((1.0, 2.0, 3.0, 4.0), "2.5")],
)
def test_the_elbos_of_a_trial_are_those_of_its_seeds_or_their_mean(values, text):
    shown = display([Trial(tuple(runs(len(values), epochs=9)))], width=120)
    (trial,) = start(shown, 1)
    shown.progressed(trial.key, Outcome(epoch=3, seconds=3.0, val_elbos=values))
    header, row = (line.split("  ")[-1].strip() for line in lines(shown)[3:5])
    assert row == text and ("mean" in header) == (len(values) > 3)


def test_the_overall_share_is_of_the_work_and_counts_what_was_done_before():
    works = {0: 30.0, 1: 10.0}
    shown = display([Trial((run,)) for run in runs(2, epochs=10)], work=lambda trial: works[trial.runs[0].seed])
    shown.done_before = 2  # each counts as an average run of this command: 20
    first, second = start(shown, 2)
    report(shown, first, 5, 10.0)
    assert shown.share() == pytest.approx((2 * 20 + 15) / 80)
    shown.ended(second)
    shown.schedule.finished(second)
    assert shown.share() == pytest.approx((2 * 20 + 15 + 10) / 80)
    shown.ended(first)
    shown.schedule.finished(first)
    assert shown.share() == 1.0


def test_scoring_is_called_scoring():
    shown = display([Trial((run,)) for run in runs(1, epochs=10)])
    (trial,) = start(shown, 1)
    report(shown, trial, 9, 9.0)
    assert "1 s to go" in shown.summary()
    report(shown, trial, 10, 10.0)
    assert "to go" not in "".join(lines(shown)) and sum("scoring" in line for line in lines(shown)) == 2


def test_what_the_sweep_does_is_shown_until_a_trial_starts_and_the_stop_until_the_end():
    shown = display([Trial((run,)) for run in runs(3, epochs=10)])
    shown.doing("starting Ray, 2 cores")
    assert any(line.strip() == "starting Ray, 2 cores" for line in lines(shown))
    started = start(shown, 3)
    assert not any("Ray" in line for line in lines(shown))
    for trial in started:
        report(shown, trial, 5, 10.0)
    shown.stopping("stopping: saving checkpoints")
    for left, trial in zip((3, 2, 1), started, strict=True):
        (state,) = (line.strip() for line in lines(shown) if "stopping" in line)
        assert state == f"stopping: saving checkpoints, {left} training{'s' if left > 1 else ''} still saving"
        assert "to go" not in shown.summary()
        shown.progressed(trial.key, Outcome(stopped=True))
    shown.doing("recording in MLflow")
    assert any(line.strip() == "stopping: saving checkpoints, recording in MLflow" for line in lines(shown))


def test_without_a_terminal_each_line_has_the_elapsed_time(monkeypatch):
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    console = Console(file=io.StringIO(), force_terminal=False)
    trial = Trial((spec(epochs=10),))
    shown = Display(Schedule.of([trial], (), lambda trial: 1.0), 0, console, began=40.0)
    shown.doing("starting Ray, 2 cores")
    now += 3600
    shown.started(shown.schedule.next().key)
    shown.stopping("stopping: saving checkpoints")
    assert console.file.getvalue().splitlines() == [
        "0:01:00  starting Ray, 2 cores",
        f"1:01:00  started    {trial.name}",
        "1:01:00  stopping: saving checkpoints, 1 training still saving",
    ]


def stalled(shown: Display, trial: Trial, caplog, after_s: float) -> list[str]:
    """The warnings logged when a trial has not reported for so long."""
    caplog.clear()
    shown.running[trial.key].reported = time.monotonic() - after_s
    shown.check_stalls()
    return [record.getMessage() for record in caplog.records]


def test_a_trial_that_does_not_report_is_named_once_until_it_reports_again(caplog):
    shown = display([Trial(tuple(runs(2, epochs=100)))], width=200)
    shown.look_at = "look there"
    (trial,) = start(shown, 1)
    report(shown, trial, 3, 120.0)
    assert not stalled(shown, trial, caplog, 399), "an epoch takes 40 s"
    (line,) = stalled(shown, trial, caplog, 720)
    assert line.startswith(f"{trial.name}: no report for 12 min, an epoch takes 40 s") and "look there" in line
    assert any(line in shown_line for shown_line in lines(shown))
    assert not stalled(shown, trial, caplog, 730), "named already"
    report(shown, trial, 4, 160.0)
    assert not any("no report" in shown_line for shown_line in lines(shown))
    assert "reports again" in caplog.text


def test_starting_and_scoring_may_take_longer_than_an_epoch(caplog):
    trials = [Trial((run,)) for run in runs(3, epochs=10)]
    shown = display(trials)
    first, second, third = start(shown, 3)
    assert not stalled(shown, first, caplog, 599) and stalled(shown, first, caplog, 601), "nothing reported yet"
    report(shown, second, 9, 0.9)
    assert not stalled(shown, second, caplog, 59) and stalled(shown, second, caplog, 61), "epochs of 0.1 s"
    report(shown, third, 10, 1.0)
    assert not stalled(shown, third, caplog, 1799) and stalled(shown, third, caplog, 1801), "its scores"
    shown.stopping("stopping: saving checkpoints")
    report(shown, second, 9, 0.9)
    assert not stalled(shown, second, caplog, 61), "no new ones while stopping"


def test_nothing_of_the_live_display_remains_and_nothing_is_printed_twice():
    """On a terminal of 60 columns and 24 lines, as pyte emulates it."""
    screen = pyte.HistoryScreen(60, 24)
    stream = pyte.Stream(screen)
    stream.use_utf8 = False
    output = io.StringIO()
    console = Console(file=output, width=60, height=24, force_terminal=True, color_system=None, legacy_windows=False)
    trials = [Trial((run,)) for run in runs(30, epochs=10)]
    shown = Display(Schedule.of(trials, (), lambda trial: 1.0), 0, console)
    console.print("before")
    with shown.live():
        started = start(shown, 30)
        for trial in started:
            report(shown, trial, 3, 3.0)
            shown._refresh()
        logging.getLogger("tune").warning("a warning")
        shown.stopping("stopping: saving checkpoints")
        during = output.getvalue()
    console.print("after")
    stream.feed(output.getvalue().replace("\n", "\r\n"))
    scrolled = ["".join(line[column].data for column in range(60)) for line in screen.history.top]
    left = [line.rstrip() for line in [*scrolled, *screen.display] if line.strip()]
    assert left == ["before", "a warning", "after"]
    assert "stopping: saving checkpoints, 30 trainings still saving" in during
