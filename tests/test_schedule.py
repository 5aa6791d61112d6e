"""The schedule: who waits for whom, and what a failure costs."""

from __future__ import annotations

from test_grid import spec

from tune.grid import Trial, trials, with_parents
from tune.schedule import Schedule, State


def start_all(schedule: Schedule) -> list[Trial]:
    started = []
    while (trial := schedule.next()) is not None:
        started.append(trial)
    return started


def names(found: list[Trial]) -> list[str]:
    return sorted(f"{t.runs[0].method_label} {','.join(str(r.seed) for r in t.runs)}" for t in found)


def make(available=(), seeds_per_trial=2):
    wanted = [spec("rme", order, seed) for order in (2, 3) for seed in range(4)]
    return Schedule.of(trials(with_parents(wanted), seeds_per_trial), available)


def test_children_wait_for_their_own_parents_alone():
    schedule = make()
    first = start_all(schedule)
    assert names(first) == ["VAE 0,1", "VAE 2,3"]
    assert not schedule.exhausted
    schedule.finished(next(t for t in first if t.runs[0].seed == 2))
    assert names(start_all(schedule)) == ["RME(2) 2,3", "RME(3) 2,3"]  # without a barrier
    schedule.finished(next(t for t in first if t.runs[0].seed == 0))
    assert names(start_all(schedule)) == ["RME(2) 0,1", "RME(3) 0,1"]
    assert schedule.exhausted


def test_what_is_available_is_not_waited_for():
    parents = [spec("vae", seed=s).key for s in range(4)]
    assert names(start_all(make(available=parents)))[:2] == ["RME(2) 0,1", "RME(2) 2,3"]


def test_what_unblocks_most_comes_first():
    wanted = [spec(seed=5), spec("rme", 2, seed=0), spec("rme", 3, seed=0)]
    schedule = Schedule.of(trials(with_parents(wanted), 2))
    # of the VAEs of seed 0 and 5, which are one array here, and alone when arrays are of one run
    assert names([schedule.next()]) == ["VAE 0,5"]
    schedule = Schedule.of(trials(with_parents(wanted), 1))
    assert names([schedule.next()]) == ["VAE 0"]


def test_children_of_a_failed_run_are_skipped_with_its_name():
    schedule = make()
    first = start_all(schedule)
    failed = next(t for t in first if t.runs[0].seed == 0)
    schedule.finished(failed, {run.key: "loss is NaN" for run in failed.runs})
    assert start_all(schedule) == []
    skipped = [e for e in schedule.entries.values() if e.state is State.SKIPPED]
    assert names([e.trial for e in skipped]) == ["RME(2) 0,1", "RME(3) 0,1"]
    assert all("digits d3 VAE seed" in e.reason for e in skipped)
    assert len(schedule.failed_runs) == 2 + 4
    schedule.finished(next(t for t in first if t.runs[0].seed == 2))
    assert names(start_all(schedule)) == ["RME(2) 2,3", "RME(3) 2,3"]
    assert schedule.exhausted
    assert schedule.count(State.SKIPPED) == 4


def test_the_other_runs_of_an_array_go_on_without_a_failed_one():
    schedule = make()
    first = next(t for t in start_all(schedule) if t.runs[0].seed == 0)
    lost, kept = first.runs
    schedule.finished(first, {lost.key: "loss is NaN"})
    started = start_all(schedule)
    assert names(started) == [f"RME(2) {kept.seed}", f"RME(3) {kept.seed}"]
    for trial in started:
        schedule.finished(trial)
    assert schedule.failed_runs.keys() == {lost.key, *(spec("rme", o, lost.seed).key for o in (2, 3))}
