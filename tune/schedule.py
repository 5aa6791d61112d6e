"""Which trial may start: one whose runs start from others waits for those, and for nothing else."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from tune.grid import Trial


class State(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass
class Entry:
    """A trial and how it stands. `needs` are the keys of runs, not there yet, from which it starts."""

    trial: Trial
    needs: set[str]
    runs: tuple[str, ...] = field(init=False)
    """Keys of the trial's runs."""
    state: State = State.WAITING
    reason: str = ""

    def __post_init__(self) -> None:
        self.runs = tuple(spec.key for spec in self.trial.runs)


@dataclass
class Schedule:
    """The trials to run, by key, each in its state."""

    entries: dict[str, Entry] = field(default_factory=dict)
    failed_runs: dict[str, str] = field(default_factory=dict)
    """Keys of runs that will not come, and why."""
    children: dict[str, set[str]] = field(default_factory=dict)
    """For a run's key, the keys of trials that wait for it."""

    @classmethod
    def of(cls, trials: Sequence[Trial], available: Collection[str] = ()) -> Schedule:
        """All trials waiting. `available`: keys of runs whose results are there already; the order breaks ties."""
        schedule = cls()
        there = set(available)
        for trial in trials:
            parents = {spec.parent.key for spec in trial.runs if spec.parent is not None}
            schedule._add(Entry(trial, parents - there))
        return schedule

    def _add(self, entry: Entry) -> None:
        self.entries[entry.trial.key] = entry
        for run in entry.needs:
            self.children.setdefault(run, set()).add(entry.trial.key)

    def next(self) -> Trial | None:
        """Start a trial that may start, of these the one for which most others wait; None if none may."""
        ready = [key for key, e in self.entries.items() if e.state is State.WAITING and not e.needs]
        if not ready:
            return None
        key = max(ready, key=self._dependents)  # the first of equals, so the grid's order decides
        self.entries[key].state = State.RUNNING
        return self.entries[key].trial

    def _dependents(self, key: str) -> int:
        return len(set().union(*(self.children.get(run, ()) for run in self.entries[key].runs)))

    def finished(self, trial: Trial, failures: dict[str, str] | None = None) -> None:
        """A trial ended. `failures`: for its runs that came to nothing, the reason, by run key."""
        self._settle(self.entries[trial.key], State.FAILED if failures else State.DONE, failures or {})

    def _settle(self, entry: Entry, state: State, failures: dict[str, str]) -> None:
        entry.state = state
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

    def _lose(self, entry: Entry, names: dict[str, str]) -> None:
        """Take the runs that start from failed ones, whose names are given by key, out of a waiting trial."""
        lost = {
            spec.key: f"skipped: it starts from {names[spec.parent.key]}, which failed"
            for spec in entry.trial.runs
            if spec.parent is not None and spec.parent.key in names
        }
        kept = tuple(spec for spec in entry.trial.runs if spec.key not in lost)
        if not kept:
            self._settle(entry, State.SKIPPED, lost)
            return
        # the others of the array go on without them, as another trial
        self.failed_runs |= lost
        del self.entries[entry.trial.key]
        for trials in self.children.values():
            trials.discard(entry.trial.key)
        self._add(Entry(Trial(kept), entry.needs - names.keys()))

    @property
    def exhausted(self) -> bool:
        """Nothing will be started any more."""
        return all(e.state is not State.WAITING for e in self.entries.values())

    def count(self, state: State) -> int:
        """How many runs are in trials of this state."""
        return sum(len(e.trial.runs) for e in self.entries.values() if e.state is state)
