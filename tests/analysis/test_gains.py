"""Gains of small frames, whose order and differences are known by sight."""

from __future__ import annotations

import pandas as pd
import pytest

from analysis.findings import findings
from analysis.gains import gains, levels_text, own_words
from analysis.runs import frame_of, row_of

LABELS = {"vae": "VAE", "vae-more": "VAE-more", "rme": "RME"}


def frame(rows: dict[tuple[str, int | None], list[float]]) -> pd.DataFrame:
    """Runs on one data set: by method and order, the scores of seeds 0, 1, ..."""
    made = []
    for (method, order), scores in rows.items():
        label = LABELS[method] + ("" if order is None else f"({order})")
        own = {"method": method, "order": str(order), "dataset": "mnist", "dim": "10", "decoder": "conv", "epochs": "9"}
        stage = {} if method == "vae" else {"stage_epochs": "5", "stage_learning_rate": "1e-6"}
        tags = {"method_label": label, "dataset_label": "MNIST", "starts_from": "scratch" if method == "vae" else "vae"}
        for seed, score in enumerate(scores):
            params = own | stage | {"seed": str(seed)}
            key = {"run_key": f"{label} {seed}", "start_time": None, "mlflow_parent_id": label}
            made.append(row_of(params, tags, {}, label) | {"test_iwae": score} | key)
    return frame_of(made)


def test_a_row_that_lacks_runs_is_behind_those_that_have_all():
    """The seeds that are left out are the worst, so the incomplete mean is the highest; its gain is not the best's."""
    seeds = [100.0, 101.0, 102.0, 103.0, 104.0, 105.0]
    runs = frame({
        ("vae", None): seeds,
        ("rme", 2): [score + 3 for score in seeds],
        ("rme", 5): [score + 20 for score in seeds[:3]],
    })  # fmt: skip
    assert [gain.label for gain in gains(runs)] == ["RME(2)", "RME(5)"]
    opening = findings(runs)[0]
    assert "RME(2) has the best" in opening and "RME(2) is 3.0 nats above the VAE" in opening
    assert "RME(5)" not in opening


@pytest.mark.parametrize(
    ("differences", "words"),
    [
        ([0.0] * 9, "+0.0 nats [+0.0, +0.0] (Hodges-Lehmann), all 9 pairs equal"),
        ([0.0], "+0.0 nats (Hodges-Lehmann), the only pair equal"),
        ([0.0] * 7 + [1.0, 2.0], "too few pairs for a test (7 of 9 equal)"),
        ([1.0, 2.0, 3.0], "too few pairs (3) for a test"),
        ([1.0, 2.0, 3.0, 4.0, 5.0], "p = 0.031"),  # 1 of 32 sign patterns
    ],
)
def test_why_there_is_no_p(differences, words):
    control = [100.0 + seed for seed in range(len(differences))]
    own = [a + b for a, b in zip(control, differences, strict=True)]
    runs = frame({("vae", None): [50.0] * len(own), ("vae-more", None): control, ("rme", 2): own})
    (gain,) = [gain for gain in gains(runs) if gain.label == "RME(2)"]
    assert own_words(gain).endswith(words)


def test_the_levels_that_intervals_attain():
    """Of n pairs: 1 - 2/2^n if the outermost average is the bound: 6 pairs 96.9%; 7 pairs, with P(W+ <= 2) 3/128."""
    seeds = [100.0 + seed for seed in range(7)]
    runs = frame({
        ("vae", None): seeds,
        ("vae-more", None): seeds,
        ("rme", 2): [score + 1 for score in seeds],
        ("rme", 5): [score + 1 for score in seeds[:6]],
        ("rme", 9): [score + 1 for score in seeds[:2]],
    })  # fmt: skip
    found = gains(runs)
    assert levels_text(found) == "95.3% to 96.9%"
    assert levels_text(gain for gain in found if gain.n == 6) == "96.9%"
    assert levels_text(gain for gain in found if gain.n == 2) == ""
