"""The worker of timings: measures one model at a time, alone on its GPUs or cores, and saves the result."""

from __future__ import annotations

import time

from rme import allocator, data, timing
from rme.timing import TimingSpec
from tune.run.protocol import Job, Outcome
from tune.run.worker import Link, device_of
from tune.store.storage import Storage


def time_inference(job: Job, storage: Storage, link: Link) -> Outcome:
    """Measure a trial's timings, and write each one's result to the storage. Repeats are reported as epochs."""
    device = device_of(job)
    if device.type == "cpu":
        allocator.keep_freed_memory()  # as in training and evaluation
    last = Outcome()
    for spec in job.runs:
        assert isinstance(spec, TimingSpec)
        if storage.has_result(spec.key):  # from another sweep
            continue
        images = data.get(spec.dataset).load(job.data_dir)
        began = time.monotonic()

        def tell(repeat: int, repeats: int = spec.repeats, began: float = began) -> None:
            nonlocal last
            last = Outcome(epoch=repeat, epochs=repeats, members=1, seconds=time.monotonic() - began)
            link.report(last)
            link.check()

        timing.measure(spec, images, device, tell).save(storage.run_folder(spec.key))
    return Outcome(last.epoch, last.epochs, last.members, last.seconds, ended=dict.fromkeys(s.key for s in job.runs))
