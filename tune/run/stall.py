"""When a running trial counts as stalled: it has not reported for far longer than its epochs or its scores take."""

from __future__ import annotations

from analysis.duration import duration

TIMES = 10
"""How many times as long as usual a report may take."""

TRAINING_S = 60.0
"""The least patience between two epochs, s: a machine may be busy for a moment."""

STARTING_S = 600.0
"""The least patience before the first epoch of a worker, s: it reads the data set, and a GPU compiles."""

SCORING_S = 1800.0
"""The least patience with scores, and with methods that train nothing, s: they are reported once, at the end."""


def patience_s(started: bool, scoring: bool, usual_s: float) -> float:
    """How long a trial may go without a report, in seconds.

    Args:
        started: whether its worker has reported an epoch.
        scoring: whether its epochs are done, or its method has none.
        usual_s: seconds of an epoch, or of the scores; 0 if nothing like it has been measured yet.
    """
    least = SCORING_S if scoring else TRAINING_S if started else STARTING_S
    return max(least, TIMES * usual_s)


def stall_text(name: str, silent_s: float, scoring: bool, usual_s: float, look_at: str) -> str:
    """One line about a stalled trial: its name, how long it has been silent, what is usual, and where to look."""
    what = "the scores take" if scoring else "an epoch takes"
    usual = f", {what} {duration(usual_s)}" if usual_s else ""
    return f"{name}: no report for {duration(silent_s)}{usual}: it hangs, or the machine is overloaded; {look_at}"
