"""The schedule: which trials wait for which, their order, and what a failure affects."""

from __future__ import annotations

import heapq
import random
from types import SimpleNamespace
from typing import Any

import pytest

from tests.tune.plan.test_grid import spec
from tune.plan import grid
from tune.plan.trials import Trial, trials, with_parents
from tune.run.schedule import Schedule, State


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


def test_children_wait_only_for_their_own_parents():
    schedule = make()
    first = start_all(schedule)
    assert names(first) == ["VAE 0,1", "VAE 2,3"]
    assert not schedule.exhausted
    schedule.finished(next(t for t in first if t.runs[0].seed == 2))
    assert names(start_all(schedule)) == ["RME(2) 2,3", "RME(3) 2,3"]  # although other VAEs still train
    schedule.finished(next(t for t in first if t.runs[0].seed == 0))
    assert names(start_all(schedule)) == ["RME(2) 0,1", "RME(3) 0,1"]
    assert schedule.exhausted


def test_runs_with_results_are_not_waited_for():
    parents = [spec("vae", seed=s).key for s in range(4)]
    assert names(start_all(make(available=parents)))[:2] == ["RME(2) 0,1", "RME(2) 2,3"]


def test_the_trial_that_unblocks_the_most_work_starts_first():
    wanted = [spec(seed=5), spec("rme", 2, seed=0), spec("rme", 3, seed=0)]
    schedule = Schedule.of(trials(with_parents(wanted), 2))
    # two runs an array: the VAEs of seeds 0 and 5 are one trial; one run an array: two trials
    assert names([schedule.next()]) == ["VAE 0,5"]
    schedule = Schedule.of(trials(with_parents(wanted), 1))
    assert names([schedule.next()]) == ["VAE 0"]


def test_children_of_a_failed_run_are_skipped_with_a_reason_that_names_it():
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


def test_only_the_failed_run_s_child_is_dropped_from_an_array():
    schedule = make()
    first = next(t for t in start_all(schedule) if t.runs[0].seed == 0)
    lost, kept = first.runs
    schedule.finished(first, {lost.key: "loss is NaN"})
    started = start_all(schedule)
    assert names(started) == [f"RME(2) {kept.seed}", f"RME(3) {kept.seed}"]
    for trial in started:
        schedule.finished(trial)
    assert schedule.failed_runs.keys() == {lost.key, *(spec("rme", o, lost.seed).key for o in (2, 3))}


# ---------------------------------------------------------------------- the order
def test_of_equals_the_longest_starts_first():
    wanted = [spec("vae", seed=s, epochs=e) for s, e in enumerate((3, 50, 7))]
    schedule = Schedule.of(trials(wanted, 1))
    assert [t.runs[0].epochs for t in start_all(schedule)] == [50, 7, 3]


def test_a_short_trial_that_unblocks_the_most_work_starts_before_a_long_one():
    wanted = [
        spec("rme", 2, seed=0, stage_epochs=5),
        spec("rme", 2, seed=1, stage_epochs=900),
        spec("rme", 3, seed=0, stage_epochs=5),
        spec("sa", 8, seed=0, epochs=100),
    ]
    order = [(t.runs[0].method, t.runs[0].seed) for t in start_all(Schedule.of(trials(with_parents(wanted), 1)))]
    assert order == [("vae", 1), ("vae", 0), ("sa", 0)]


def test_the_order_is_the_same_each_time():
    runs = with_parents(grid.load("paper", {"seed": ["0-3"], "dataset": ["mnist"]}).runs)

    def order():
        return [key for key, *_ in simulate(Schedule.of(trials(runs, 2)), 7)]

    assert order() == order()


def simulate(
    schedule: Schedule, slots: int, available=frozenset(), failing=lambda trial: False
) -> list[tuple[str, float, float]]:
    """Run the schedule on `slots` slots; a trial's work is its duration. Returns (key, start, end) of each trial.

    Fails if a slot is idle while a trial may start, or if a trial starts before its parents have ended.
    """
    clock, done, history = 0.0, set(available), []
    running: list[tuple[float, int, Trial]] = []
    while True:
        while len(running) < slots and (trial := schedule.next()) is not None:
            assert all(parent is None or parent.key in done for parent in (run.parent for run in trial.runs))
            work = schedule.entries[trial.key].work
            heapq.heappush(running, (clock + work, len(history), trial))
            history.append((trial.key, clock, clock + work))
        if len(running) < slots:
            waiting = [e for e in schedule.entries.values() if e.state is State.WAITING]
            assert not any(e.needs <= done for e in waiting), "a slot is idle although a trial may start"
        if not running:
            assert schedule.exhausted
            return history
        clock, _, trial = heapq.heappop(running)
        failed = dict.fromkeys(trial.run_keys, "loss is NaN") if failing(trial) else {}
        done |= set(trial.run_keys) - failed.keys()
        schedule.finished(trial, failed)


def random_schedule(rng: random.Random) -> tuple[Schedule, list[Trial], set[str]]:
    """Some cells and seeds, arrays of 1-3, a few finished parents, and widely varying work.

    Returns the schedule, its trials, and the keys of the finished runs.
    """
    cells = [("vae", None), ("sa", 1), ("rme", 2), ("rme", 3), ("me", 2), ("iaf", 1)]
    wanted = [
        spec(m, o, seed, dim=dim)
        for dim in (2, 3)
        for m, o in rng.sample(cells, rng.randint(1, 6))
        for seed in rng.sample(range(8), rng.randint(1, 8))
    ]
    found = trials(with_parents(wanted), rng.randint(1, 3))
    works = {trial.key: rng.lognormvariate(0, 1.5) for trial in found}
    vaes = [run for trial in found for run in trial.runs if run.method == "vae"]
    available = {run.key for run in vaes if rng.random() < 0.2}
    left = [t for t in found if not all(run.key in available for run in t.runs)]
    available -= {run.key for t in left for run in t.runs}  # as in a sweep: runs to train are not available
    return Schedule.of(left, available, lambda trial: works.get(trial.key, 1.0)), left, available


@pytest.mark.parametrize("seed", range(25))
def test_no_slot_is_idle_and_the_end_is_near_the_best_possible(seed):
    """Graham (1966): without idle slots, the end is at most total / slots + (1 - 1 / slots) * the longest chain."""
    rng = random.Random(seed)
    schedule, wanted, available = random_schedule(rng)
    slots = rng.randint(1, 6)
    entries = dict(schedule.entries)
    history = simulate(schedule, slots, available)
    assert sorted(key for key, *_ in history) == sorted(trial.key for trial in wanted)
    of_run = {run: e for e in entries.values() for run in e.runs}

    def chain(entry) -> float:
        parents = [of_run[r.parent.key] for r in entry.trial.runs if r.parent and r.parent.key in of_run]
        return entry.work + max((chain(p) for p in parents), default=0.0)

    total, longest = sum(e.work for e in entries.values()), max(map(chain, entries.values()))
    assert max(end for *_, end in history) <= (total / slots + (1 - 1 / slots) * longest) * (1 + 1e-9)


def test_the_paper_grid_ends_close_to_the_lower_bound():
    """On 64 slots it ends less than 2% after total work / slots, which no schedule can undercut."""
    runs = with_parents(grid.load("paper").runs)
    schedule = Schedule.of(trials(runs, 2))
    assert len(schedule.entries) == 3280
    history = simulate(schedule, 64)
    total = sum(e.work for e in schedule.entries.values())
    assert max(end for *_, end in history) < 1.02 * total / 64


@pytest.mark.parametrize("seed", range(25))
def test_a_failed_run_affects_only_its_children(seed):
    rng = random.Random(seed)
    schedule, wanted, available = random_schedule(rng)
    unlucky = {run.key for t in wanted if rng.random() < 0.3 for run in t.runs}
    history = simulate(schedule, rng.randint(1, 4), available, lambda t: any(r.key in unlucky for r in t.runs))
    assert len({key for key, *_ in history}) == len(history), "a trial was started twice"
    for run in (run for t in wanted for run in t.runs):
        lost_parent = run.parent is not None and run.parent.key in schedule.failed_runs
        reason = schedule.failed_runs.get(run.key, "")
        assert lost_parent == (reason == f"skipped: it starts from {run.parent and run.parent.run_name}, which failed")
        if not lost_parent and run.key not in unlucky:
            # it has not failed, unless another run of its own array made the trial fail
            entry = next(e for e in schedule.entries.values() if run.key in e.runs)
            assert (run.key in schedule.failed_runs) == any(r in unlucky for r in entry.runs)
    counts = {s: sum(len(e.runs) for e in schedule.entries.values() if e.state is s) for s in State}
    assert {s: schedule.count(s) for s in State} == counts


# ---------------------------------------------------------------------- other sweeps
def test_a_trial_left_to_another_sweep_is_waited_for_and_may_be_taken_back():
    schedule = make()
    ours, theirs = schedule.next(), schedule.next()
    schedule.leave(theirs)
    assert schedule.elsewhere == [theirs] and not schedule.ready and not schedule.exhausted
    schedule.finished(ours)
    seed = ours.runs[0].seed
    assert {t.runs[0].seed for t in start_all(schedule)} == {seed}, "children of the other sweep's trial wait"
    schedule.take_back(theirs)
    assert schedule.elsewhere == [] and schedule.ready
    assert schedule.next() == theirs
    schedule.leave(theirs)
    schedule.finished(theirs)
    assert {t.runs[0].seed for t in start_all(schedule)} == {2 - seed} and schedule.exhausted


def test_a_schedule_is_not_exhausted_while_another_sweep_has_its_last_trial():
    schedule = Schedule.of(trials([spec(seed=0)], 1))
    schedule.leave(schedule.next())
    assert not schedule.exhausted
    schedule.take_back(schedule.elsewhere[0])
    schedule.finished(schedule.next())
    assert schedule.exhausted


# ---------------------------------------------------------------------- by hand
VAES = [Trial((spec(seed=seed),)) for seed in range(3)]
PAIR = Trial((spec("rme", 2, 0), spec("rme", 2, 1)))
LAST = Trial((spec("rme", 2, 2),))


def by_hand(found, **works) -> Schedule:
    """A schedule of these trials. `works`: their work by method and seeds, like `rme_01=10`; 1 by default."""

    def work(trial: Trial) -> float:
        return works.get(f"{trial.runs[0].method}_{''.join(str(run.seed) for run in trial.runs)}", 1.0)

    return Schedule.of(found, work=work)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_equals_start_in_the_grids_order(order):
    found = [VAES[i] for i in order]
    assert start_all(by_hand(found)) == found


def test_the_order_is_by_unblocked_work_then_own_work_then_place():
    found = [*VAES, PAIR, LAST]
    assert start_all(by_hand(found, rme_01=10, rme_2=20)) == [VAES[2], VAES[0], VAES[1]]
    assert start_all(by_hand(found, rme_01=10, rme_2=10, vae_1=2)) == [VAES[1], VAES[0], VAES[2]]
    assert start_all(by_hand(found, rme_01=10, rme_2=5, vae_2=99)) == [VAES[0], VAES[1], VAES[2]]


def test_work_that_no_longer_waits_does_not_count():
    """A failure removes one run from the array of two, so that then the third VAE unblocks more work."""
    schedule = by_hand([VAES[1], VAES[0], VAES[2], PAIR, LAST], rme_01=10, rme_2=5, rme_0=2)
    assert schedule.next() == VAES[1]
    schedule.finished(VAES[1], {VAES[1].runs[0].key: "loss is NaN"})
    assert start_all(schedule) == [VAES[2], VAES[0]]
    assert schedule.count(State.RUNNING) == schedule.count(State.WAITING) == 2
    schedule.finished(VAES[0])
    rest = Trial(PAIR.runs[:1])
    assert start_all(schedule) == [rest] and schedule.entries.keys() == {t.key for t in (*VAES, rest, LAST)}
    schedule.finished(rest)
    assert not schedule.exhausted and not schedule.ready
    schedule.finished(VAES[2])
    assert schedule.ready and start_all(schedule) == [LAST]
    schedule.finished(LAST)
    assert schedule.exhausted and schedule.count(State.DONE) == 4 and schedule.count(State.FAILED) == 1
    assert schedule.failed_runs.keys() == {VAES[1].runs[0].key, PAIR.runs[1].key}


def test_a_child_waits_for_all_of_its_missing_parents():
    schedule = Schedule.of([VAES[0], VAES[1], PAIR], {VAES[1].runs[0].key})
    assert start_all(schedule) == [VAES[0], VAES[1]]
    schedule.finished(VAES[0])
    assert schedule.next() == PAIR and schedule.next() is None


def test_equal_reasons_of_a_trial_s_runs_are_given_once():
    schedule = by_hand([PAIR])
    assert schedule.next() is None, "its parents are neither available nor in the schedule"
    schedule = Schedule.of([PAIR], {run.parent.key for run in PAIR.runs})
    trial = schedule.next()
    schedule.finished(trial, {run.key: "loss is NaN" for run in trial.runs})
    assert schedule.entries[trial.key].reason == "loss is NaN"
    assert schedule.entries[trial.key].state is State.FAILED and schedule.count(State.FAILED) == 2


def test_trials_of_other_sweeps_are_counted_as_elsewhere():
    schedule = by_hand([VAES[0], PAIR, LAST])
    trial = schedule.next()
    assert (schedule.count(State.RUNNING), schedule.count(State.ELSEWHERE)) == (1, 0)
    schedule.leave(trial)
    assert (schedule.count(State.RUNNING), schedule.count(State.ELSEWHERE), schedule.count(State.WAITING)) == (0, 1, 3)
    schedule.take_back(trial)
    assert (schedule.count(State.ELSEWHERE), schedule.count(State.WAITING)) == (0, 4)
    assert schedule.next() == trial and schedule.count(State.RUNNING) == 1


def stand_in(name: str, parent: Any = None) -> Any:
    """A trial of one run, with only the attributes that the schedule reads; `parent`: the trial it starts from."""
    run = SimpleNamespace(key=f"run {name}", run_name=name, parent=parent and parent.runs[0])
    return SimpleNamespace(key=name, runs=(run,), run_keys=(run.key,))


@pytest.mark.parametrize("seed", range(20))
def test_the_work_of_all_generations_counts(seed):
    """Random trees: each trial starts from one of the eight before it, or from nothing."""
    rng = random.Random(seed)
    family: list[Any] = []
    for i in range(30):
        family.append(stand_in(str(i), rng.choice([None, *family[-8:]])))
    works = {trial.key: float(rng.randint(1, 100)) for trial in family}

    def descendants(trial) -> float:
        children = [t for t in family if t.runs[0].parent is trial.runs[0]]
        return sum(works[t.key] + descendants(t) for t in children)

    schedule = Schedule.of(family, work=lambda trial: works[trial.key])
    left = list(family)
    ended: list[Any] = []
    while left:
        may = [t for t in left if t.runs[0].parent is None or any(t.runs[0].parent is e.runs[0] for e in ended)]
        first = min(may, key=lambda t: (-descendants(t), -works[t.key], family.index(t)))
        assert schedule.next() is first
        schedule.finished(first)
        left = [t for t in left if t is not first]
        ended.append(first)
    assert schedule.exhausted and schedule.count(State.DONE) == 30
