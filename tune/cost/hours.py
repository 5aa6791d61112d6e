"""Estimates a plan's core-hours or GPU-hours on this machine, from step times that are measured once and cached."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from rme import data
from rme.allocator import keep_freed_memory
from rme.config import RunSpec
from rme.device import device_name, pick_device
from rme.engine import all_members
from rme.nets import ImageShape
from rme.training import is_measured
from tune.cost import flops
from tune.cost.cache import UserCache, code
from tune.cost.measure import image_seconds, step_seconds
from tune.cost.one_thread import one_thread
from tune.cost.progress import progress

REFERENCE = (1, 28, 28)
"""The image shape on which every kind of training is timed. On other shapes only a VAE is."""

DIRECT_S = 0.2
"""Steps of a whole array up to this many seconds are timed; of longer ones, one member and a VAE's array."""


@dataclass(frozen=True)
class Hours:
    """Estimated core-hours, or GPU-hours, of a trial.

    Attributes:
        most: if patience ends no training early.
        least: if patience ends each training as early as it can; equal to `most` without patience.
    """

    most: float
    least: float


def trial_hours(arrays: Sequence[Sequence[RunSpec]], device: torch.device | None = None) -> list[Hours]:
    """Estimated core-hours (GPU-hours on a GPU) of each array on this machine.

    For each method, a training step and the scoring of a few images are timed on random 28x28 images, at the largest
    dim of its arrays and at their lowest and highest order. Orders between are interpolated by their FLOPs. Times for
    other image shapes are scaled by a VAE's. A step is timed in an array of the right size if that is quick
    (`DIRECT_S`), otherwise with one member, scaled by what an array saves a VAE.

    Args:
        arrays: the runs of each trial.
        device: the device to time; None: the GPU if available, else the CPU.
    """
    dims: dict[tuple[str, str], int] = {}
    orders: dict[tuple[str, str], set[int]] = defaultdict(set)
    kinds: dict[tuple[object, ...], Sequence[RunSpec]] = {}
    for runs in arrays:
        spec = runs[0]
        family = (spec.method, spec.decoder)
        dims[family] = max(dims.get(family, 0), spec.dim)
        if spec.order is not None:
            orders[family].add(spec.order)
        settings = (spec.batch_size, spec.precision, len(all_members(runs)))
        kinds.setdefault((*family, spec.order, *settings), runs)
        kinds.setdefault((data.get(spec.dataset).shape, *settings), runs)
    times = StepTimes(device or pick_device("auto"))

    def cost(runs: Sequence[RunSpec]) -> tuple[float, float]:
        family = (runs[0].method, runs[0].decoder)
        return times.cost(runs[0], dims[family], len(all_members(runs)), sorted(orders[family]))

    with times.only_known():
        missing = [runs for runs in kinds.values() if not _is_known(cost, runs)]
    with progress("measuring step times", len(missing)) as advance:
        for runs in missing:
            cost(runs)
            advance()
    return [_hours(runs, *cost(runs)) for runs in arrays]


def hours(
    arrays: Iterable[Sequence[RunSpec]], device: torch.device | None = None, *, earliest: bool = False
) -> dict[tuple[str, str], float]:
    """The sums of `trial_hours`, by (data set, row). `earliest`: of the least hours instead of the most."""
    arrays = list(arrays)
    total: dict[tuple[str, str], float] = defaultdict(float)
    for runs, found in zip(arrays, trial_hours(arrays, device), strict=True):
        spec = runs[0]
        total[data.label(spec.dataset), spec.method_label] += found.least if earliest else found.most
    return dict(total)


def _hours(runs: Sequence[RunSpec], step_s: float, image_s: float) -> Hours:
    spec, members = runs[0], len(all_members(runs))
    train, held_out, test = data.get(spec.dataset).split_sizes
    batches = math.ceil(train / spec.batch_size)
    # the test set is scored once for each run, the validation set once for each restart
    scoring = (len(runs) * test + members * held_out) * image_s * spec.iwae_samples / 100
    most, least = (
        members * epochs * batches * step_s + scoring for epochs in (spec.training_epochs, earliest_end(spec))
    )
    return Hours(most / 3600, least / 3600)


def _is_known(cost: Callable[[Sequence[RunSpec]], object], runs: Sequence[RunSpec]) -> bool:
    try:
        cost(runs)
    except UnknownTime:
        return False
    return True


def earliest_end(spec: RunSpec) -> int:
    """The earliest epoch at which patience can end this run's own training: if its first measured epoch is its best.

    Without patience it is the last epoch.
    """
    if spec.own_patience is None:
        return spec.training_epochs
    measured = [epoch for epoch in range(1, spec.training_epochs + 1) if is_measured(spec, epoch)]
    patient = (epoch for epoch in measured if epoch - measured[0] >= spec.own_patience)
    return next(patient, spec.training_epochs)


class UnknownTime(Exception):
    """A time that is not measured yet, and may not be measured now."""


class StepTimes:
    """Step times of this machine, measured when first needed and cached in the user's cache folder."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._cache = UserCache("steps.json", f"{device_name(device)}, torch {torch.__version__}, rme {code()}")
        self.costs: dict[str, float] = self._cache.values
        self._measures = True

    @contextmanager
    def only_known(self) -> Iterator[None]:
        """Within it, a time that would have to be measured raises UnknownTime."""
        self._measures = False
        try:
            yield
        finally:
            self._measures = True

    def cost(self, spec: RunSpec, dim: int, members: int, orders: Sequence[int] = ()) -> tuple[float, float]:
        """Estimated seconds of a member's training step in an array of `members`, and of one image's IWAE (K = 100).

        The step of a method that is not trained takes 0 s.

        Args:
            spec: a run of the array.
            dim: the latent dimension to time.
            members: of the array.
            orders: of the method, ascending. Only the first and the last are timed, in turn, so that a higher order
                does not seem cheaper because the machine was busier; the others are between.
        """
        shape = data.get(spec.dataset).shape
        # images are random here; a data set other than MNIST might need its files
        spec = spec.model_copy(update={"dim": dim, "dataset": "mnist"})
        ends = _ends(spec, orders)
        step_s, image_s = self._step(spec, ends, REFERENCE, members), self._image(spec, ends, REFERENCE)
        if shape == REFERENCE:
            return step_s, image_s
        vae = _vae(spec)
        ratio = self._step(vae, [vae], shape, members) / self._step(vae, [vae], REFERENCE, members)
        return step_s * ratio, image_s * self._image(vae, [vae], shape) / self._image(vae, [vae], REFERENCE)

    def member_step(self, spec: RunSpec, members: int) -> float:
        """Measured seconds of a member's training step in an array of `members`, without any scaling."""
        spec, shape = spec.model_copy(update={"dataset": "mnist"}), data.get(spec.dataset).shape
        return self._timed(step_seconds, [spec], shape, members)[0]

    def _step(self, spec: RunSpec, ends: Sequence[RunSpec], shape: ImageShape, members: int) -> float:
        if not spec.method_class.trains:
            return 0.0
        training = 0  # of image_flops
        if members == 1 or spec == _vae(spec):
            return _between(spec, ends, self._timed(step_seconds, ends, shape, members), training)
        alone = self._timed(step_seconds, ends, shape, 1)
        if members * max(alone) <= DIRECT_S:
            return _between(spec, ends, self._timed(step_seconds, ends, shape, members), training)
        vae = [_vae(spec)]
        saved = self._timed(step_seconds, vae, shape, members)[0] / self._timed(step_seconds, vae, shape, 1)[0]
        return _between(spec, ends, alone, training) * saved

    def _image(self, spec: RunSpec, ends: Sequence[RunSpec], shape: ImageShape) -> float:
        scoring = 1  # of image_flops
        return _between(spec, ends, self._timed(image_seconds, ends, shape), scoring)

    def _timed(
        self, measure: Callable[..., list[float]], specs: Sequence[RunSpec], shape: ImageShape, *members: int
    ) -> list[float]:
        """The time of each of these runs; those that are not known are measured in turn."""
        kinds = {_kind(measure.__name__, spec, shape, *members): spec for spec in specs}
        missing = {kind: spec for kind, spec in kinds.items() if kind not in self.costs}
        if missing:
            if not self._measures:
                raise UnknownTime(", ".join(missing))
            with _as_in_a_trial(self.device):
                times = measure(list(missing.values()), shape, self.device, *members)
            self.costs |= dict(zip(missing, times, strict=True))
            self._cache.save()  # an interrupted estimate resumes from here
        return [self.costs[kind] for kind in kinds]


def _kind(name: str, spec: RunSpec, shape: ImageShape, *members: int) -> str:
    return " ".join(map(str, (
        name, spec.plain_label, spec.decoder, shape, "dim", spec.dim, "batch", spec.batch_size,
        spec.precision, *members,
    )))  # fmt: skip


def _ends(spec: RunSpec, orders: Sequence[int]) -> list[RunSpec]:
    """The run at the lowest and at the highest of these orders; itself without orders."""
    if spec.order is None or not orders:
        return [spec]
    return [spec.model_copy(update={"order": order}) for order in dict.fromkeys((orders[0], orders[-1]))]


def _between(spec: RunSpec, ends: Sequence[RunSpec], times: Sequence[float], of: int) -> float:
    """The time of a run from those of its lowest and highest order, in proportion to its FLOPs.

    `of`: which of the counts of `tune.cost.flops.image_flops`.
    """
    low, high = times[0], times[-1]
    if high < low:  # noise: they take equally long
        return (low + high) / 2
    if spec.order in (ends[0].order, ends[-1].order):
        return low if spec.order == ends[0].order else high
    least, own, most = (flops.image_flops(each, REFERENCE)[of] for each in (ends[0], spec, ends[-1]))
    share = (own - least) / (most - least) if least < own < most else 0.5
    return low + share * (high - low)


def _vae(spec: RunSpec) -> RunSpec:
    """The VAE whose times scale those of `spec` to other image shapes and array sizes."""
    return spec.model_copy(update={"method": "vae", "order": None, "decoder": "conv", "options": {}})


@contextmanager
def _as_in_a_trial(device: torch.device) -> Iterator[None]:
    if device.type == "cpu":
        keep_freed_memory()
    with one_thread():
        yield
