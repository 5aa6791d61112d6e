"""A plan's estimated hours: which steps are timed and cached."""

from __future__ import annotations

import json
import time

import pytest
import torch

from rme.config import RunSpec
from tune.cost import hours as estimate
from tune.cost.measure import medians
from tune.cost.progress import progress

CPU = torch.device("cpu")


def test_hours_are_timed_in_arrays_of_the_trials_size_and_cached(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    runs = tuple(
        RunSpec(method="vae", dataset="mnist", dim=2, decoder="fc", batch_size=4, epochs=1, seed=seed, restarts=2)
        for seed in range(3)
    )
    found = estimate.hours([runs], CPU)
    (timings,) = json.loads((tmp_path / "rme" / "steps.json").read_text()).values()
    in_array = {kind: seconds for kind, seconds in timings.items() if kind.startswith("step") and kind.endswith(" 6")}
    (step_s,) = in_array.values()
    (image_s,) = (seconds for kind, seconds in timings.items() if kind.startswith("image"))
    # 54,000 training images in batches of 4; three test sets, and a validation set for each member
    expected = 6 * 13_500 * step_s + (3 * 10_000 + 6 * 6_000) * image_s
    assert found == {("MNIST", "VAE"): pytest.approx(expected / 3600, rel=1e-9)}
    assert estimate.hours([runs], CPU) == found


def test_an_untrained_method_takes_the_hours_of_its_scoring(monkeypatch, tmp_path):
    """No step is timed. A variant takes as long as its method, and is a row of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    svi = RunSpec(method="svi", order=10, dataset="digits", dim=2, restarts=1, epochs=5)
    named = svi.model_copy(update={"variant": "short", "epochs": 900})
    found = estimate.hours([[svi], [named]], CPU)
    assert found.keys() == {("digits", "SVI(10)"), ("digits", "SVI(10), short")}
    assert found["digits", "SVI(10)"] == found["digits", "SVI(10), short"] > 0
    assert not any(kind.startswith("step_seconds") for kind in estimate.StepTimes(CPU).costs)


def measured(costs: dict[str, float], asked: list[list[str]]):
    """In place of a measurement: the time of each run by its label, times the array's members; notes what is asked."""

    def step_seconds(specs, shape, device, members=1):
        asked.append([spec.plain_label for spec in specs])
        return [costs[spec.plain_label] for spec in specs]

    return step_seconds


@pytest.fixture
def no_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(estimate, "image_seconds", lambda specs, *_: [0.0] * len(specs))


def alone(method: str, order: int | None) -> list[RunSpec]:
    return [RunSpec(method=method, order=order, dataset="mnist", dim=2, restarts=1, epochs=1)]


def test_orders_between_the_lowest_and_the_highest_are_not_timed(monkeypatch, no_cache):
    """SA's FLOPs are those of a VAE and, for each step, those of one more decoder pass: linear in the order."""
    asked: list[list[str]] = []
    monkeypatch.setattr(estimate, "step_seconds", measured({"SA(1)": 10.0, "SA(8)": 80.0}, asked))
    found = estimate.hours([alone("sa", order) for order in (4, 8, 2, 1)], CPU)
    assert asked == [["SA(1)", "SA(8)"]]  # in turn
    seconds = {label: value * 3600 / 422 for (_, label), value in found.items()}  # 54,000 images in batches of 128
    assert seconds == pytest.approx({"SA(1)": 10, "SA(2)": 20, "SA(4)": 40, "SA(8)": 80}, rel=1e-6)


def test_a_higher_order_is_never_cheaper(monkeypatch, no_cache):
    """If noise makes it seem so, all orders take as long as their mean."""
    monkeypatch.setattr(estimate, "step_seconds", measured({"HF(1)": 5.0, "HF(8)": 3.0}, []))
    found = estimate.hours([alone("hf", order) for order in (1, 2, 8)], CPU)
    assert list(found.values()) == pytest.approx([4.0 * 422 / 3600] * 3)


def test_works_are_timed_in_turn():
    """Each round times every work once, so that a disturbance meets all of them."""
    order: list[str] = []

    def slow(name: str) -> None:
        order.append(name)
        deadline = time.process_time() + 0.06
        while time.process_time() < deadline:
            pass

    found = medians([lambda: slow("a"), lambda: slow("b")], CPU)
    assert found == pytest.approx([0.06, 0.06], rel=0.5)
    assert order[:4] == ["a", "a", "b", "b"]  # a warm-up and the first sample
    assert order[4:] == ["a", "b"] * (len(order[4:]) // 2) and len(order) >= 6


def test_progress_is_one_line_on_standard_error_without_a_terminal(capsys):
    with progress("measuring step times", 3) as advance:
        advance()
    with progress("measuring step times", 0):
        pass
    assert capsys.readouterr() == ("", "measuring step times (3 kinds)\n")
