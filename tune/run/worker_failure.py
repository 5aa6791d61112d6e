"""What happens when a worker raises or dies: its trial is restarted, a few times, and then its runs have failed.

A restarted trial resumes from its newest checkpoint, on another machine if its own is lost. A run that diverges or does
not fit into memory would do so again: its worker returns that as the run's failure, without a restart
(`tune.run.training`). Which failures need `--retry-failed` is decided in `tune.store.failure`.
"""

from __future__ import annotations

from collections.abc import Iterable

from rme.config import RunSpec
from tune.store.failure import Failure
from tune.store.storage import Storage

MAX_FAILURES = 3
"""How often a trial whose worker failed is restarted from its newest checkpoint."""

WORKER_DIED = f"its worker died {MAX_FAILURES + 1} times without a message: killed, or out of memory"


def failures_of(runs: Iterable[RunSpec], raised: Failure | None, storage: Storage) -> dict[str, Failure]:
    """The failures, by key, of a trial's runs after the last restart; runs with a result have none.

    Args:
        runs: the trial's.
        raised: what its worker raised last; None if it died.
        storage: where the results are.
    """
    return {spec.key: raised or Failure(WORKER_DIED) for spec in runs if not storage.has_result(spec.key)}
