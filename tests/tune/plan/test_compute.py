"""Compute in a readable unit, and its wall time on a machine."""

from __future__ import annotations

import os

import pytest
import torch

from tests.tune.plan.test_grid import spec
from tune.plan.compute import Compute, number, unit_of
from tune.plan.trials import trials, with_parents
from tune.run.machine import compute_of
from tune.run.options import Resources

CPU = torch.device("cpu")


@pytest.mark.parametrize(("hours", "unit"), [
    ([0.002, 0.02], "seconds"),  # 7.2 s
    ([0.02, 0.3, 5.0], "minutes"),  # 1.2 to 300 minutes
    ([1.0, 20.0], "hours"),
    ([0.02, 2000.0], "hours"),  # 1.2 to 120,000 minutes would be too wide
    ([380.0, 165_161.0], "days"),
    ([9000.0, 90_000.0], "years"),
    ([], "hours"),
    ([0.0, 3.0], "hours"),
])  # fmt: skip
def test_a_table_s_unit_shows_its_smallest_number(hours, unit):
    assert unit_of(hours) == unit


@pytest.mark.parametrize(("hours", "unit", "text"), [
    (1.0, "minutes", "60"), (0.0, "hours", "0"), (0.0123, "hours", "0.012"), (1.26, "hours", "1.3"),
    (9.96, "hours", "10"), (24 * 365.25 * 2.34, "years", "2.3"), (1_234_567, "hours", "1,234,567"),
])  # fmt: skip
def test_numbers_have_two_digits_or_all(hours, unit, text):
    assert number(hours, unit) == text


def test_wall_time_is_bounded_by_the_cores_and_by_the_longest_chain():
    runs = with_parents([spec("rme", 2, seed) for seed in range(8)])
    arrays = trials(runs, 2)  # four of the VAE, then four of RME
    hours = {trial.key: 1.0 if trial.runs[0].method == "vae" else 3.0 for trial in arrays}
    assert Compute(CPU, 2, 2).wall_hours(hours, arrays) == 16 / 2
    assert Compute(CPU, 64, 64).wall_hours(hours, arrays) == 1 + 3
    assert Compute(CPU, 2, 1).wall_hours({}, []) == 0


def test_the_words_for_a_machine():
    assert Compute(CPU, 2, 2).here == "these 2 cores" and Compute(CPU, 1, 1).here == "this core"
    assert Compute(CPU, 2, 1).here == "these 2 cores, one trial at a time"
    gpu = Compute(torch.device("cuda"), 4, 4)
    assert (gpu.resource, gpu.here) == ("GPU", "these 4 GPUs")


def test_this_machine_s_cores():
    cores = len(os.sched_getaffinity(0))
    assert compute_of(Resources(None, 1, 0), inline=False) == Compute(CPU, cores, cores)
    assert compute_of(Resources(None, cores, 0), inline=False) == Compute(CPU, cores, 1)
    assert compute_of(Resources(None, 1, 0), inline=True) == Compute(CPU, cores, 1)
