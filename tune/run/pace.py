"""Estimates how long trials take, from measured times."""

from __future__ import annotations

import statistics

from tune.run.schedule import Entry


class Pace:
    """What is known of a sweep's times.

    A trial's kind is its cell and its number of members. Its overhead is the time that it takes besides its epochs.
    """

    def __init__(self) -> None:
        self.known: dict[tuple, float] = {}
        """Seconds per epoch, by kind."""
        self._per_work: dict[tuple, float] = {}
        """Seconds of a whole training per unit of its trial's work, by kind."""
        self._scales: dict[str, float] = {}
        """Cached results of `_scale`."""
        self._overhead: dict[str, float] = {}
        """Seconds, by trial."""
        self._untrained: dict[str, float] = {}
        """Seconds per unit of a trial's work, by method, for methods without training."""

    def trained(self, entry: Entry, epoch_s: float) -> None:
        kind = entry.trial.kind
        self.known[kind] = epoch_s
        if entry.work > 0:
            self._per_work[kind] = epoch_s * entry.trial.runs[0].training_epochs / entry.work
            self._scales.clear()

    def ended(self, entry: Entry, overhead_s: float) -> None:
        """Note a finished trial's overhead (start, scores, files); for a method without training that is all of it."""
        if entry.trial.runs[0].training_epochs:
            self._overhead[entry.trial.key] = overhead_s
        elif entry.work > 0:
            self._untrained[entry.trial.runs[0].method] = overhead_s / entry.work

    @property
    def overhead_s(self) -> float:
        """Mean overhead of the trials with training."""
        return statistics.fmean(self._overhead.values()) if self._overhead else 0.0

    def scoring_s(self, entry: Entry) -> float:
        """Seconds from a trial's last epoch to its end, at most: as of others; 0 if none has ended yet."""
        if entry.trial.runs[0].training_epochs:
            return self.overhead_s
        return self._untrained.get(entry.trial.runs[0].method, 0.0) * entry.work

    def seconds(self, entry: Entry, epochs: int) -> float:
        """Estimated seconds of this many epochs; of the whole trial if its method has no training.

        Needs at least one measured kind.
        """
        spec = entry.trial.runs[0]
        if not spec.training_epochs:
            scale = self._untrained.get(spec.method, self._scale(spec.method) if self._per_work else 0.0)
            return scale * entry.work
        epoch_s = self.known.get(entry.trial.kind)
        if epoch_s is None:
            if self._per_work:
                epoch_s = self._scale(spec.method) * entry.work / spec.training_epochs
            else:
                epoch_s = max(self.known.values())
        return epochs * epoch_s

    def _scale(self, method: str) -> float:
        """Seconds per unit of work: of the same method if measured, because its steps are similarly efficient."""
        if method not in self._scales:
            same = [value for (cell, _), value in self._per_work.items() if cell[0] == method]
            self._scales[method] = statistics.fmean(same or self._per_work.values())
        return self._scales[method]
