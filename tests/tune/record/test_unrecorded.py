"""Results that are not recorded in MLflow are still read, so that a damaged one is noticed."""

from __future__ import annotations

from bench.sweep_overhead import made_up
from rme.result import MARKER
from tests.tune.plan.test_grid import spec
from tune.record.unrecorded import Unrecorded
from tune.store.failure import Failure
from tune.store.storage import Storage


def test_a_damaged_result_is_a_failure_and_deleted(tmp_path):
    storage, runs = Storage(tmp_path), [spec(seed=seed) for seed in range(2)]
    for run in runs:
        made_up(run).save(storage.run_folder(run.key))
    (storage.run_folder(runs[1].key) / MARKER).write_bytes(b"not a result")
    shown = []
    with Unrecorded(storage, lambda run, metrics: shown.append((run, metrics))) as recorder:
        for run in runs:
            recorder.result(run)
        recorder.failure(runs[1], Failure("it failed"))
    assert recorder.failures.keys() == {runs[1].key} and not recorder.left
    ((run, metrics),) = shown
    assert run == runs[0] and metrics["test/iwae"] == 600.0
    assert not storage.has_result(runs[1].key)
