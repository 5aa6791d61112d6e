"""Decides the GPUs of each of Ray's trials: what was asked for, what exists, and what share of a GPU that makes.

A share that is to be measured (`--gpus-per-trial auto`) comes from `tune.cost.gpu_share`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from tune.run.cluster import ClusterError  # sets Ray's environment, so it comes before Ray

# isort: split
import ray

from rme.config import RunSpec
from tune.cost import gpu_share
from tune.plan.kinds import Kind
from tune.run.options import AUTO, Resources


def gpus_of(
    resources: Resources, kind: Kind, arrays: Iterable[Sequence[RunSpec]]
) -> Callable[[Sequence[RunSpec]], float]:
    """A function from runs to the number of GPUs that their trial gets. Needs a connection to Ray.

    `arrays` are all of the sweep's arrays; the function takes one of them, or a part of one. By default a trial gets a
    whole GPU if Ray has any. Raises ClusterError if it is not known yet whether it has.
    """
    asked = resources.gpus
    total = ray.cluster_resources()
    if not total.get("GPU") and asked in (None, AUTO):
        if resources.address is not None and not total.get("CPU"):
            # a head whose workers have not joined: a wrong guess would apply to the whole sweep
            raise ClusterError(
                f"--address {resources.address}: no worker machine has joined yet, so it is unknown whether trials get "
                "GPUs; say --gpus-per-trial 1 (or a fraction), or 0"
            )
        return lambda runs: 0.0
    if asked is None or (asked == AUTO and kind.alone):
        return lambda runs: 1.0
    if asked == AUTO:
        return gpu_share.shares(arrays, resources.cpus)
    gpus = float(asked)
    return lambda runs: gpus
