"""A plan's estimated hours: which steps are timed and cached."""

from __future__ import annotations

import json

import pytest
import torch

from rme.config import RunSpec
from tune.cost import hours as estimate

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
