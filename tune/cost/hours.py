"""Estimates a plan's core-hours or GPU-hours on this machine, from step times that are measured once and cached."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

import rme
from rme import data
from rme.allocator import keep_freed_memory
from rme.config import RunSpec
from rme.device import device_name, pick_device
from rme.engine import all_members
from rme.training import is_measured
from tune.cost.cache import UserCache
from tune.cost.measure import image_seconds, step_seconds

REFERENCE = (1, 28, 28)
"""The image shape on which every kind of training is timed. On other shapes only a VAE is."""

DIRECT_S = 0.2
"""Steps of a whole array up to this many seconds are timed; of longer ones, one member and a VAE's array."""


def hours(
    arrays: Iterable[Sequence[RunSpec]], device: torch.device | None = None, *, earliest: bool = False
) -> dict[tuple[str, str], float]:
    """Estimated core-hours (GPU-hours on a GPU) on this machine, by (data set, row).

    For each method and order, a training step and the scoring of a few images are timed on random 28x28 images, at the
    largest dim in the plan. Times for other image shapes are scaled by a VAE's. A step is timed in an array of the
    right size if that is quick (`DIRECT_S`), otherwise with one member, scaled by what an array saves a VAE.

    Args:
        arrays: the runs of each trial.
        device: the device to time; None: the GPU if available, else the CPU.
        earliest: assume that patience ends each training as early as it can; otherwise that it ends none early.
    """
    arrays = list(arrays)
    dims: dict[tuple[str, str], int] = {}
    for runs in arrays:
        spec = runs[0]
        kind = (spec.plain_label, spec.decoder)
        dims[kind] = max(dims.get(kind, 0), spec.dim)
    times = StepTimes(device or pick_device("auto"))
    total: dict[tuple[str, str], float] = defaultdict(float)
    for runs in arrays:
        spec, members = runs[0], len(all_members(runs))
        step_s, image_s = times.cost(spec, dims[spec.plain_label, spec.decoder], members)
        train, held_out, test = data.get(spec.dataset).split_sizes
        steps = (earliest_end(spec) if earliest else spec.training_epochs) * math.ceil(train / spec.batch_size)
        # the test set is scored once for each run, the validation set once for each restart
        images = len(runs) * test + members * held_out
        seconds = members * steps * step_s + images * image_s * spec.iwae_samples / 100
        total[data.label(spec.dataset), spec.method_label] += seconds / 3600
    return dict(total)


def earliest_end(spec: RunSpec) -> int:
    """The earliest epoch at which patience can end this run's own training: if its first measured epoch is its best.

    Without patience it is the last epoch.
    """
    if spec.own_patience is None:
        return spec.training_epochs
    measured = [epoch for epoch in range(1, spec.training_epochs + 1) if is_measured(spec, epoch)]
    patient = (epoch for epoch in measured if epoch - measured[0] >= spec.own_patience)
    return next(patient, spec.training_epochs)


class StepTimes:
    """Step times of this machine, measured when first needed and cached in the user's cache folder."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._cache = UserCache("steps.json", f"{device_name(device)}, torch {torch.__version__}, rme {_code()}")
        self.costs: dict[str, float] = self._cache.values

    def cost(self, spec: RunSpec, dim: int, members: int) -> tuple[float, float]:
        """Estimated seconds of a member's training step in an array of `members`, and of one image's IWAE (K = 100).

        The step of a method that is not trained takes 0 s.
        """
        shape = data.get(spec.dataset).shape
        # images are random here; a data set other than MNIST might need its files
        spec = spec.model_copy(update={"dim": dim, "dataset": "mnist"})
        step_s, image_s = self._step(spec, REFERENCE, members), self._image(spec, REFERENCE)
        if shape == REFERENCE:
            return step_s, image_s
        vae = _vae(spec)
        ratio = self._step(vae, shape, members) / self._step(vae, REFERENCE, members)
        return step_s * ratio, image_s * self._image(vae, shape) / self._image(vae, REFERENCE)

    def member_step(self, spec: RunSpec, members: int) -> float:
        """Measured seconds of a member's training step in an array of `members`, without any scaling."""
        shape = data.get(spec.dataset).shape
        return self._timed(step_seconds, spec.model_copy(update={"dataset": "mnist"}), shape, members)

    def _step(self, spec: RunSpec, shape: tuple[int, int, int], members: int) -> float:
        if not spec.method_class.trains:
            return 0.0
        alone = self._timed(step_seconds, spec, shape, 1)
        if members == 1:
            return alone
        if members * alone <= DIRECT_S:
            return self._timed(step_seconds, spec, shape, members)
        vae = _vae(spec)
        return alone * self._timed(step_seconds, vae, shape, members) / self._timed(step_seconds, vae, shape, 1)

    def _image(self, spec: RunSpec, shape: tuple[int, int, int]) -> float:
        return self._timed(image_seconds, spec, shape)

    def _timed(self, measure: Callable[..., float], spec: RunSpec, shape: tuple[int, int, int], *members: int) -> float:
        kind = " ".join(map(str, (
            measure.__name__, spec.plain_label, spec.decoder, shape, "dim", spec.dim, "batch", spec.batch_size,
            spec.precision, *members,
        )))  # fmt: skip
        if kind not in self.costs:
            with _as_in_a_trial(self.device):
                self.costs[kind] = measure(spec, shape, self.device, *members)
            self._cache.save()  # an interrupted estimate resumes from here
        return self.costs[kind]


def _vae(spec: RunSpec) -> RunSpec:
    """The VAE whose times scale those of `spec` to other image shapes and array sizes."""
    return spec.model_copy(update={"method": "vae", "order": None, "decoder": "conv", "options": {}})


@contextmanager
def _as_in_a_trial(device: torch.device) -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    if device.type == "cpu":
        keep_freed_memory()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _code() -> str:
    """A digest of the code of `rme`, because times of other code do not apply."""
    files = sorted(Path(rme.__file__).parent.rglob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]
