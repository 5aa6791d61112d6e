"""The schedule against a simple model, for any runs, arrays, failures and other sweeps.

The model considers single runs: each is trained once, after its parent has succeeded, or lost because its parent failed
or was lost.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from rme.config import RunSpec
from tests.tune.plan.test_grid import spec
from tune.plan.trials import Trial, trials, with_parents
from tune.run.schedule import Schedule, State

CELLS = [("vae", None), ("vae-more", None), ("sa", 1), ("rme", 2), ("rme", 3), ("iaf", 1), ("svi", 50)]
RUNS = {(m, o, s, dim): spec(m, o, s, dim=dim) for m, o in CELLS for s in range(5) for dim in (2, 3)}


@dataclass
class Model:
    """The state of each run, by key."""

    wanted: dict[str, RunSpec]
    good: set[str]
    """Succeeded, or available from the start."""
    failed: set[str] = field(default_factory=set)
    """Failed, or skipped because the parent did."""
    started: list[str] = field(default_factory=list)
    """Ended here or elsewhere, in this order."""

    def parent(self, key: str) -> str | None:
        parent = self.wanted[key].parent
        return None if parent is None else parent.key

    def may_start(self, run: str) -> bool:
        return self.parent(run) is None or self.parent(run) in self.good

    def end(self, trial: Trial, failures: set[str]) -> None:
        keys = {run.key for run in trial.runs}
        self.good |= keys - failures
        self.failed |= failures
        lost = {key for key in self.wanted if self.parent(key) in self.failed}
        assert not lost & self.good, "what starts from a failed run was trained"
        self.failed |= lost


def check(schedule: Schedule, model: Model, running: list[Trial], elsewhere: list[Trial]) -> None:
    """After any event, the schedule's states are the model's, and it knows whether a trial may start."""
    assert set(schedule.failed_runs) == model.failed
    assert {trial.key for trial in schedule.elsewhere} == {trial.key for trial in elsewhere}
    held = [entry.trial for entry in schedule.entries.values()]
    runs = [run.key for trial in held for run in trial.runs]
    assert len(runs) == len(set(runs)), "a run is in two trials"
    for state in State:
        counted = sum(len(entry.runs) for entry in schedule.entries.values() if entry.state is state)
        assert schedule.count(state) == counted
    assert schedule.count(State.RUNNING) == sum(len(trial.runs) for trial in running)
    waiting = [entry for entry in schedule.entries.values() if entry.state is State.WAITING]
    may = [entry for entry in waiting if all(model.may_start(run) for run in entry.runs)]
    assert schedule.ready == bool(may)
    assert schedule.exhausted == (not waiting and not elsewhere)


@settings(max_examples=80)
@given(st.data())
def test_every_run_is_trained_once_or_lost_with_its_parent(data):
    chosen = data.draw(st.lists(st.sampled_from(sorted(RUNS, key=str)), min_size=1, max_size=14, unique=True))
    runs = with_parents([RUNS[name] for name in chosen])
    grouped = trials(runs, data.draw(st.integers(1, 4)))
    finished = {t.key for t in grouped if all(run.parent is None for run in t.runs) and data.draw(st.booleans())}
    available = {run.key for trial in grouped if trial.key in finished for run in trial.runs}
    left = [trial for trial in grouped if trial.key not in finished]
    works = st.floats(0.1, 10)
    schedule = Schedule.of(left, available, lambda trial: data.draw(works))
    model = Model({run.key: run for trial in left for run in trial.runs}, set(available))
    running: list[Trial] = []
    elsewhere: list[Trial] = []

    def some(trial: Trial) -> set[str]:
        return (
            data.draw(st.sets(st.sampled_from([run.key for run in trial.runs]))) if data.draw(st.booleans()) else set()
        )

    def end(trial: Trial) -> None:
        failures = some(trial)
        model.started += [run.key for run in trial.runs]
        schedule.finished(trial, dict.fromkeys(failures, "loss is NaN"))
        model.end(trial, failures)

    check(schedule, model, running, elsewhere)
    for _ in range(400):
        steps = ["start"] * schedule.ready + ["end"] * bool(running) + ["elsewhere"] * bool(elsewhere)
        if not steps:
            break
        step = data.draw(st.sampled_from(steps))
        if step == "start":
            trial = schedule.next()
            assert trial is not None
            assert all(model.may_start(run.key) for run in trial.runs), "started before its parent"
            assert not {run.key for run in trial.runs} & (model.good | model.failed), "started twice"
            fate = data.draw(st.sampled_from(["here", "here", "held", "done elsewhere"]))
            if fate == "here":
                running.append(trial)
            elif fate == "held":
                schedule.leave(trial)
                elsewhere.append(trial)
            else:
                end(trial)
        elif step == "end":
            end(running.pop(data.draw(st.integers(0, len(running) - 1))))
        else:
            trial = elsewhere.pop(data.draw(st.integers(0, len(elsewhere) - 1)))
            if data.draw(st.booleans()):
                end(trial)
            else:
                schedule.take_back(trial)
        check(schedule, model, running, elsewhere)
    assert schedule.exhausted and not running and not elsewhere
    assert schedule.next() is None
    assert len(model.started) == len(set(model.started)), "trained twice"
    # each run was trained, or lost with its parent and never started
    lost = {key for key in model.wanted if model.parent(key) in model.failed}
    assert set(model.started) | lost == set(model.wanted) and not set(model.started) & lost
    for key in lost:
        parent = model.wanted[key].parent
        assert parent.run_name in schedule.failed_runs[key]


@given(st.data())
def test_without_failures_trials_that_unblock_the_most_work_start_first(data):
    """The expected order is computed anew from all trials at each step."""
    chosen = data.draw(st.lists(st.sampled_from(sorted(RUNS, key=str)), min_size=1, max_size=14, unique=True))
    grouped = trials(with_parents([RUNS[name] for name in chosen]), data.draw(st.integers(1, 3)))
    works = {trial.key: float(data.draw(st.integers(1, 5))) for trial in grouped}
    schedule = Schedule.of(grouped, work=lambda trial: works[trial.key])
    done: set[str] = set()
    waiting = list(grouped)

    def behind(trial: Trial) -> float:
        keys = {run.key for run in trial.runs}
        children = [t for t in waiting if any(run.parent is not None and run.parent.key in keys for run in t.runs)]
        return sum(works[t.key] for t in children)  # one generation is enough: no child has children

    while waiting:
        may = [t for t in waiting if all(run.parent is None or run.parent.key in done for run in t.runs)]
        wanted = min(may, key=lambda t: (-behind(t), -works[t.key], grouped.index(t)))
        trial = schedule.next()
        assert trial == wanted
        waiting.remove(trial)
        done |= {run.key for run in trial.runs}
        schedule.finished(trial)
    assert schedule.exhausted


@given(st.data())
def test_with_failures_trials_that_unblock_the_most_work_start_first(data):
    """The expected order is computed from a list of waiting runs, from which children of failed runs are removed."""
    # few cells, so that many arrays start from runs of two other arrays
    names = [name for name in sorted(RUNS, key=str) if name[0] in ("vae-more", "rme")]
    chosen = data.draw(st.lists(st.sampled_from(names), min_size=6, max_size=16, unique=True))
    grouped = trials(with_parents([RUNS[name] for name in chosen]), data.draw(st.sampled_from([2, 3, 1])))
    starts = {run.key: run.parent and run.parent.key for trial in grouped for run in trial.runs}
    works = {key: float(data.draw(st.integers(1, 5))) for key in starts}
    schedule = Schedule.of(grouped, work=lambda trial: sum(works[key] for key in trial.run_keys))
    waiting = [list(trial.run_keys) for trial in grouped]
    running: list[Trial] = []
    done: set[str] = set()
    failed: set[str] = set()

    def work(keys: list[str]) -> float:
        return sum(works[key] for key in keys)

    def behind(keys: list[str]) -> float:
        return sum(work(other) for other in waiting if any(starts[key] in keys for key in other))

    for _ in range(200):
        may = [keys for keys in waiting if all(starts[key] is None or starts[key] in done for key in keys)]
        assert schedule.ready == bool(may)
        if may and (not running or data.draw(st.integers(0, 2)) == 0):
            first = min(may, key=lambda keys: (-behind(keys), -work(keys), waiting.index(keys)))
            trial = schedule.next()
            assert trial is not None and list(trial.run_keys) == first
            waiting.remove(first)
            running.append(trial)
        elif running:
            trial = running.pop(data.draw(st.integers(0, len(running) - 1)))
            failures = data.draw(st.sets(st.sampled_from(trial.run_keys), max_size=1))
            schedule.finished(trial, dict.fromkeys(failures, "loss is NaN"))
            done |= set(trial.run_keys) - failures
            lost = {key for keys in waiting for key in keys if starts[key] in failures}
            failed |= failures | lost
            waiting = [kept for keys in waiting if (kept := [key for key in keys if key not in lost])]
        else:
            break
    assert schedule.exhausted and not waiting and schedule.next() is None
    assert set(schedule.failed_runs) == failed and done | failed == set(starts)
