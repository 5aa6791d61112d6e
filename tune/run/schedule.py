"""Decides which trial starts next. A trial whose runs start from other runs waits for those only.

Of the trials that may start, those that unblock the most work (of all their descendants) start first; of equals the
longest, so that no long trial is left at the end. Work is counted in FLOPs (`tune.cost.flops`), not timed, so the order
is always the same.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from enum import StrEnum, auto

from tune.cost.flops import array_flops
from tune.plan.trials import Trial
from tune.store.failure import skipped


def _flops(trial: Trial) -> float:
    return array_flops(trial.runs)


class State(StrEnum):
    WAITING = auto()
    RUNNING = auto()
    ELSEWHERE = auto()
    DONE = auto()
    FAILED = auto()
    SKIPPED = auto()


@dataclass
class Entry:
    """A trial and its state."""

    trial: Trial
    needs: set[str]
    """Keys of the runs that it starts from and that are not finished."""
    place: int
    """Position in the grid; decides between equals."""
    work: float
    """Relative cost."""
    runs: tuple[str, ...] = field(init=False)
    """Keys of the trial's runs."""
    state: State = State.WAITING
    reason: str = ""

    def __post_init__(self) -> None:
        self.runs = self.trial.run_keys


@dataclass
class Schedule:
    """The trials to run, by key. `next` and `finished` take well under a millisecond each."""

    entries: dict[str, Entry] = field(default_factory=dict)
    failed_runs: dict[str, str] = field(default_factory=dict)
    """Failed and skipped runs: the reasons by run key."""
    children: dict[str, dict[str, None]] = field(default_factory=dict)
    """For a run's key, the keys of the trials that wait for it (in order)."""
    work_of: Callable[[Trial], float] = _flops
    _ready: list[tuple[float, float, int, str]] = field(default_factory=list)
    """A heap of the trials that may start: (-work that it unblocks, -its own work, place, key)."""
    _trials: Counter[State] = field(default_factory=Counter)
    _runs: Counter[State] = field(default_factory=Counter)

    @classmethod
    def of(
        cls,
        trials: Sequence[Trial],
        available: Collection[str] = (),
        work: Callable[[Trial], float] = _flops,
    ) -> Schedule:
        """A schedule in which all trials are waiting.

        Args:
            trials: what to run; their order decides between equals.
            available: keys of runs whose results exist.
            work: a trial's relative cost, in any unit.
        """
        schedule = cls(work_of=work)
        finished = set(available)
        for place, trial in enumerate(trials):
            parents = {parent.key for spec in trial.runs if (parent := spec.parent) is not None}
            schedule._add(trial, parents - finished, place)
        for key, entry in schedule.entries.items():
            schedule._offer(key, entry)
        return schedule

    def _add(self, trial: Trial, needs: set[str], place: int) -> None:
        entry = self.entries[trial.key] = Entry(trial, needs, place, self.work_of(trial))
        for run in sorted(needs):
            self.children.setdefault(run, {})[trial.key] = None
        self._trials[entry.state] += 1
        self._runs[entry.state] += len(entry.runs)

    def _remove(self, entry: Entry) -> None:
        del self.entries[entry.trial.key]
        for run in entry.needs:
            self.children.get(run, {}).pop(entry.trial.key, None)
        self._trials[entry.state] -= 1
        self._runs[entry.state] -= len(entry.runs)

    def _move(self, entry: Entry, state: State) -> None:
        self._trials[entry.state] -= 1
        self._runs[entry.state] -= len(entry.runs)
        entry.state = state
        self._trials[state] += 1
        self._runs[state] += len(entry.runs)

    # ------------------------------------------------------------------ the order
    def _offer(self, key: str, entry: Entry) -> None:
        if entry.state is State.WAITING and not entry.needs:
            heapq.heappush(self._ready, (-self._unblocks(key), -entry.work, entry.place, key))

    def _unblocks(self, key: str) -> float:
        """The total work of all trials that cannot start before this one has ended."""
        found: dict[str, None] = {}
        front = [key]
        while front:
            runs = self.entries[front.pop()].runs
            new = [child for run in runs for child in self.children.get(run, ()) if child not in found]
            new = list(dict.fromkeys(new))
            found |= dict.fromkeys(new)
            front += new
        return sum(self.entries[child].work for child in found)

    @property
    def ready(self) -> bool:
        """Whether any trial may start."""
        return bool(self._ready)

    def leave(self, trial: Trial) -> None:
        """Leave a trial that `next` returned to another sweep, which is training one of its runs."""
        self._move(self.entries[trial.key], State.ELSEWHERE)

    def take_back(self, trial: Trial) -> None:
        """Let a trial start here that was left to another sweep, because that sweep stopped."""
        self._move(self.entries[trial.key], State.WAITING)
        self._offer(trial.key, self.entries[trial.key])

    @property
    def elsewhere(self) -> list[Trial]:
        """The trials left to other sweeps."""
        return [e.trial for e in self.entries.values() if e.state is State.ELSEWHERE]

    def next(self) -> Trial | None:
        """Mark the first of the trials that may start as running, and return it; None if none may start."""
        while self._ready:
            waits, _, _, key = heapq.heappop(self._ready)
            entry = self.entries[key]
            if self._unblocks(key) < -waits:  # a trial that waited for it was skipped because another parent failed
                self._offer(key, entry)
                continue
            self._move(entry, State.RUNNING)
            return entry.trial
        return None

    # ------------------------------------------------------------------ events
    def finished(self, trial: Trial, failures: dict[str, str] | None = None) -> None:
        """Note that a trial ended. `failures`: the reasons of its failed runs, by run key."""
        self._settle(self.entries[trial.key], State.FAILED if failures else State.DONE, failures or {})

    def _settle(self, entry: Entry, state: State, failures: dict[str, str]) -> None:
        self._move(entry, state)
        entry.reason = "; ".join(dict.fromkeys(failures.values()))
        self.failed_runs |= failures
        names = {spec.key: spec.run_name for spec in entry.trial.runs if spec.key in failures}
        for run in entry.runs:
            for key in self.children.pop(run, ()):
                child = self.entries[key]
                if run in failures and child.state is State.WAITING:
                    self._lose(child, names)
                else:
                    child.needs.discard(run)
                    self._offer(key, child)

    def _lose(self, entry: Entry, names: dict[str, str]) -> None:
        """Remove the runs that start from failed ones from a waiting trial. `names`: of the failed runs, by key."""
        lost = {
            spec.key: skipped(names[spec.parent.key])
            for spec in entry.trial.runs
            if spec.parent is not None and spec.parent.key in names
        }
        kept = tuple(spec for spec in entry.trial.runs if spec.key not in lost)
        if not kept:
            self._settle(entry, State.SKIPPED, lost)
            return
        # the array's other runs become a new trial
        self.failed_runs |= lost
        self._remove(entry)
        rest = Trial(kept)
        self._add(rest, entry.needs - names.keys(), entry.place)
        self._offer(rest.key, self.entries[rest.key])

    @property
    def exhausted(self) -> bool:
        """Whether no trial is left that may start, now or later."""
        return not self._trials[State.WAITING] and not self._trials[State.ELSEWHERE]

    def count(self, state: State) -> int:
        """Number of runs in trials of this state."""
        return self._runs[state]

    @property
    def unfinished(self) -> set[str]:
        """Keys of the runs whose trials have not ended."""
        open_states = (State.WAITING, State.RUNNING, State.ELSEWHERE)
        return {run for entry in self.entries.values() if entry.state in open_states for run in entry.runs}
