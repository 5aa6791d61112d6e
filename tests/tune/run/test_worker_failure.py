"""Which runs have failed once Ray has given a trial up."""

from __future__ import annotations

from tests.tune.plan.test_grid import spec
from tests.tune.plan.test_plan import finish
from tune.run.worker_failure import WORKER_DIED, failures_of
from tune.store.failure import Failure
from tune.store.storage import Storage


def test_a_run_without_a_result_fails_with_what_was_raised_last_or_that_its_worker_died(tmp_path):
    storage, runs = Storage(tmp_path), [spec(seed=seed) for seed in range(3)]
    finish(storage, runs[1])
    raised = Failure("RuntimeError: a bad day", "Traceback ...", lasting=True)
    assert failures_of(runs, raised, storage) == {runs[0].key: raised, runs[2].key: raised}
    died = failures_of(runs, None, storage)
    assert died.keys() == {runs[0].key, runs[2].key}
    assert all(failure.reason == WORKER_DIED and not failure.lasting for failure in died.values())
