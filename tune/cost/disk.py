"""How many bytes a sweep writes, from the networks' numbers of parameters. Nothing is trained for that."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache

from rme import data, methods
from rme.config import RunSpec
from rme.engine import all_members
from rme.nets import ImageShape
from rme.precision import DTYPES
from rme.selection import KEPT, PICTURES
from rme.timing import TimingSpec
from rme.training import HISTORY_POINTS

OTHER = 1 << 13
"""Bytes of a file's names, settings and environment."""

RECORDED = 150_000
"""Bytes of a run in MLflow beside its model and its curves: params, tags, their indexes, and an example image."""

POINT = 250
"""Bytes of a point of a curve in a sqlite database, with its index."""

COPIES = 3
"""Checkpoints of a training at once: two are kept while the next is written."""


def result_bytes(spec: RunSpec) -> int:
    """Size of a run's result on the storage."""
    if isinstance(spec, TimingSpec):
        return OTHER
    dataset = data.get(spec.dataset)
    channels, height, width = dataset.shape
    pictures = (KEPT + 3 * PICTURES) * channels * height * width
    curves = 4 * spec.restarts * spec.training_epochs * _curves(spec) + 8 * spec.training_epochs
    return spec.restarts * model_bytes(spec) + 16 * dataset.split_sizes[2] + pictures + curves + OTHER


def recorded_bytes(spec: RunSpec) -> int:
    """What a run adds to MLflow's database and to the folder of its artifacts."""
    if isinstance(spec, TimingSpec):
        return RECORDED
    measured = min(spec.training_epochs, 2 * HISTORY_POINTS)
    return model_bytes(spec) + measured * _curves(spec) * POINT + RECORDED


def checkpoint_bytes(runs: Sequence[RunSpec]) -> int:
    """Size of one checkpoint of an array: the models, Adam's two moments, and the models that are kept if any."""
    spec = runs[0]
    if isinstance(spec, TimingSpec) or not spec.method_class.trains:
        return 0
    kept = spec.own_keep == "best" or spec.own_patience is not None
    members = len(all_members(runs))
    return members * ((4 if kept else 3) * model_bytes(spec) + 4 * spec.training_epochs * _curves(spec)) + OTHER


def sweep_bytes(arrays: Iterable[Sequence[RunSpec]], at_once: int) -> int:
    """What training these arrays adds to the storage at most: all results, and the largest `at_once` trainings."""
    arrays = list(arrays)
    results = sum(result_bytes(spec) for runs in arrays for spec in runs)
    return results + COPIES * sum(sorted(map(checkpoint_bytes, arrays), reverse=True)[:at_once])


def model_bytes(spec: RunSpec) -> int:
    """Size of one model's parameters and buffers."""
    return _parameters(
        spec.method, spec.order, spec.decoder, spec.dim, data.get(spec.dataset).shape,
        tuple(sorted(spec.options.items())),
    ) * DTYPES[spec.precision].itemsize  # fmt: skip


@cache
def _parameters(
    method: str, order: int | None, decoder: str, dim: int, shape: ImageShape, options: tuple[tuple[str, float], ...]
) -> int:
    spec = RunSpec.of(
        {"method": method, "order": order, "decoder": decoder, "dim": dim, "dataset": "digits"}
        | {"options": dict(options)}
    )
    # not on the device "meta": importing what it needs takes a second
    return sum(value.numel() for value in methods.get(method)(spec, shape, 1).state_dict().values())


def _curves(spec: RunSpec) -> int:
    """How many curves a run has: the validation ELBO, and about one loss and two diagnostics for each component."""
    return 4 + 2 * (spec.order or 0)
