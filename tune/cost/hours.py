"""How long a plan takes on this machine: a step of each kind of training is timed here, once, and remembered."""

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
"""The images on which every kind of training is timed; for others only a VAE is."""

DIRECT_S = 0.2
"""The longest step of a whole array that is timed; of a longer one a member alone is, and a VAE's array."""


def hours(
    arrays: Iterable[Sequence[RunSpec]], device: torch.device | None = None, *, earliest: bool = False
) -> dict[tuple[str, str], float]:
    """Estimated core-hours (or GPU-hours) of this machine, by (data set, row).

    For each method and order a training step and the scoring of a few images are timed on random 28x28 images, at the
    largest dim that occurs. Other image shapes are scaled by what they cost a VAE. A step is timed in an array of that
    size where this is quick (`DIRECT_S`); otherwise alone, scaled by what an array saves a VAE.

    Args:
        arrays: the runs of each trial.
        device: what is timed; None: the GPU if there is one.
        earliest: whether each training ends as early as its patience allows, else as late.
    """
    arrays = list(arrays)
    dims: dict[tuple[str, str], int] = {}
    for runs in arrays:
        spec = runs[0]
        kind = (spec.plain_label, spec.decoder)
        dims[kind] = max(dims.get(kind, 0), spec.dim)
    known = StepTimes(device or pick_device("auto"))
    total: dict[tuple[str, str], float] = defaultdict(float)
    for runs in arrays:
        spec, members = runs[0], len(all_members(runs))
        step_s, image_s = known.cost(spec, dims[spec.plain_label, spec.decoder], members)
        train, held_out, test = data.get(spec.dataset).split_sizes
        steps = (earliest_end(spec) if earliest else spec.training_epochs) * math.ceil(train / spec.batch_size)
        # one test set is scored for a run, one validation set for each restart
        images = len(runs) * test + members * held_out
        seconds = members * steps * step_s + images * image_s * spec.iwae_samples / 100
        total[data.label(spec.dataset), spec.method_label] += seconds / 3600
    known.save()
    return dict(total)


def earliest_end(spec: RunSpec) -> int:
    """The epoch after which patience can end this run's own training at the earliest: its first measured one was best.

    Where there is no patience, the last one.
    """
    if spec.own_patience is None:
        return spec.training_epochs
    measured = [epoch for epoch in range(1, spec.training_epochs + 1) if is_measured(spec, epoch)]
    patient = (epoch for epoch in measured if epoch - measured[0] >= spec.own_patience)
    return next(patient, spec.training_epochs)


class StepTimes:
    """Timings of this machine, kept between commands in the user's cache folder."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._cache = UserCache("steps.json", f"{device_name(device)}, torch {torch.__version__}, rme {_code()}")
        self.costs: dict[str, float] = self._cache.values

    def cost(self, spec: RunSpec, dim: int, members: int) -> tuple[float, float]:
        """Seconds of a member's training step in an array of so many, and of one image's IWAE with 100 samples.

        The step of a method that is not trained takes none.
        """
        shape = data.get(spec.dataset).shape
        # the images are made up here: another data set's name would only ask for its files
        spec = spec.model_copy(update={"dim": dim, "dataset": "mnist"})
        step_s, image_s = self._step(spec, REFERENCE, members), self._image(spec, REFERENCE)
        if shape == REFERENCE:
            return step_s, image_s
        vae = _vae(spec)
        dearer = self._step(vae, shape, members) / self._step(vae, REFERENCE, members)
        return step_s * dearer, image_s * self._image(vae, shape) / self._image(vae, REFERENCE)

    def member_step(self, spec: RunSpec, members: int) -> float:
        """Seconds of a member's training step in an array of so many, timed as it is."""
        shape = data.get(spec.dataset).shape
        return self._known(step_seconds, spec.model_copy(update={"dataset": "mnist"}), shape, members)

    def _step(self, spec: RunSpec, shape: tuple[int, int, int], members: int) -> float:
        if not spec.method_class.trains:
            return 0.0
        alone = self._known(step_seconds, spec, shape, 1)
        if members == 1:
            return alone
        if members * alone <= DIRECT_S:
            return self._known(step_seconds, spec, shape, members)
        vae = _vae(spec)
        return alone * self._known(step_seconds, vae, shape, members) / self._known(step_seconds, vae, shape, 1)

    def _image(self, spec: RunSpec, shape: tuple[int, int, int]) -> float:
        return self._known(image_seconds, spec, shape)

    def _known(self, measure: Callable[..., float], spec: RunSpec, shape: tuple[int, int, int], *members: int) -> float:
        kind = " ".join(map(str, (
            measure.__name__, spec.plain_label, spec.decoder, shape, "dim", spec.dim, "batch", spec.batch_size,
            spec.precision, *members,
        )))  # fmt: skip
        if kind not in self.costs:
            with _as_in_a_trial(self.device):
                self.costs[kind] = measure(spec, shape, self.device, *members)
        return self.costs[kind]

    def save(self) -> None:
        self._cache.save()


def _vae(spec: RunSpec) -> RunSpec:
    """The VAE that stands for `spec` where other images or arrays are concerned."""
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
    """A digest of `rme`: timings of other code are of no use."""
    files = sorted(Path(rme.__file__).parent.rglob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]
