"""`--members auto`: array sizes from measured step times."""

from __future__ import annotations

import json

import pytest
import torch

from rme.config import RunSpec
from tune.cost import array_size as members
from tune.cost.hours import StepTimes
from tune.plan.trials import trials
from tune.store.storage import Storage

CPU = torch.device("cpu")


def runs(seeds: int, **fields) -> list[RunSpec]:
    settings = {"method": "vae", "dataset": "digits", "dim": 3, "restarts": 1, "batch_size": 4, **fields}
    return [RunSpec(seed=seed, **settings) for seed in range(seeds)]


class Machine:
    """Simulated step times: one second a member, and an overhead in seconds once for the whole array."""

    def __init__(self, overhead: float, holds: int = 1000) -> None:
        self.overhead, self.holds, self.device = overhead, holds, CPU

    def member_step(self, spec: RunSpec, count: int) -> float:
        if count > self.holds:
            raise torch.OutOfMemoryError("too many")
        return 1.0 + self.overhead / count


@pytest.mark.parametrize(("overhead", "holds", "seeds", "wanted"), [
    (0.0, 1000, 10, 1),  # nothing to gain
    (100.0, 1000, 10, 8),  # as large as the cell's runs allow
    (100.0, 13, 10, 4),  # as memory allows: 4 runs of 3 members
    (1.0, 1000, 64, 4),  # a member's step takes 1 + 1/12 s; with 8 runs 1 + 1/24 s, less than 5% better
])  # fmt: skip
def test_an_array_is_doubled_while_that_saves_time(overhead, holds, seeds, wanted) -> None:
    (spec,) = runs(1, restarts=3)
    found = members._best(spec, seeds, Machine(overhead, holds))
    assert found == wanted


def test_an_untrained_method_has_arrays_of_one_run() -> None:
    (spec,) = runs(1, method="svi", order=10)
    assert members._best(spec, 10, Machine(100.0)) == 1


def test_variants_have_the_same_kind() -> None:
    plain, named = runs(1)[0], runs(1, variant="long")[0]
    assert members.kind(plain) == members.kind(named)


def test_sizes_are_measured_once_and_kept_on_the_storage(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    storage = Storage(tmp_path / "storage")
    size = members.measured(runs(5), storage, CPU)
    kept = dict(StepTimes(CPU).costs)
    wanted, times = 1, StepTimes(CPU)
    while wanted < 4 and times.member_step(runs(1)[0], 2 * wanted) <= 0.95 * times.member_step(runs(1)[0], wanted):
        wanted *= 2
    assert size(runs(1)[0]) == wanted
    assert times.costs == kept, "the times that the size was chosen by are cached"
    (name,) = json.loads(storage.arrays_file.read_text())
    assert name == members.kind(runs(1)[0]) == "VAE conv 1x28x28 restarts 1 batch 4 float32"
    storage.arrays_file.write_text(json.dumps({name: 3}))
    again = members.measured(runs(5), storage, CPU)
    assert [len(trial.runs) for trial in trials(runs(5), again)] == [3, 2]
