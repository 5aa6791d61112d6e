"""Trains complete runs: all restarts, of which one is chosen by validation and scored on the test set."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor

from rme import data
from rme.array_halving import train_members
from rme.config import RunSpec
from rme.device import pick_device
from rme.engine import DivergedError, Engine
from rme.result import Result
from rme.selection import choose

log = logging.getLogger(__name__)


def fit(
    spec: RunSpec,
    *,
    data_dir: str | Path = "data",
    device: str = "auto",
    parent: Result | None = None,
    checkpoint_dir: str | Path | None = None,
    progress: bool | None = None,
) -> Result:
    """Train one run: its restarts as one array. The best by validation is scored on the test set.

    An array that does not fit into memory is halved (`rme.array_halving`).

    Args:
        spec: the run.
        data_dir: the data sets' folder, to which missing ones are downloaded.
        device: 'auto', 'cpu', 'cuda', 'cuda:1', ...
        parent: the finished run that `spec` starts from; None: it is trained first, if the method needs one.
        checkpoint_dir: where to keep checkpoints; the training resumes from the newest one. None: no checkpoints.
        progress: whether to show a progress bar; None: only if standard error is a terminal.

    Raises:
        DataError: the data set is missing or damaged.
        ValueError: `parent` is not the run that `spec` starts from.
        DivergedError: no restart has a finite score.
        OutOfMemory: even one restart at a time does not fit into memory.
    """
    dataset = data.get(spec.dataset)
    dataset.prepare(Path(data_dir))
    images = dataset.load(Path(data_dir))
    chosen_device = pick_device(device)
    folder = Path(checkpoint_dir) if checkpoint_dir is not None else None
    if spec.parent is not None and parent is None:
        parent = fit(spec.parent, data_dir=data_dir, device=device, progress=progress, checkpoint_dir=folder)
    if parent is not None and (spec.parent is None or parent.spec.key != spec.parent.key):
        raise ValueError(
            f"{spec.run_name} does not start from the run given as parent, {parent.spec.run_name}"
            + _differences(spec, parent.spec)
        )

    own_folder = folder / spec.key if folder else None
    with _progress_bar(spec, progress) as advance:
        found = train_runs([spec], images, chosen_device, [parent.models] if parent else None, own_folder, advance)
    result = found[spec.key]
    if isinstance(result, DivergedError):
        raise result
    return result


def train_runs(
    specs: Sequence[RunSpec],
    images: data.Images,
    device: torch.device,
    parents: Sequence[Sequence[Mapping[str, Tensor]]] | None = None,
    folder: Path | None = None,
    on_epoch: Callable[[Engine], None] | None = None,
    on_smaller: Callable[[str], None] = log.warning,
) -> dict[str, Result | DivergedError]:
    """Train runs of one cell as one array, choose each one's best restart, and score it on the test set; by run key.

    A run has a DivergedError instead of a result if none of its restarts has a finite validation score. Arguments and
    errors are those of `rme.array_halving.train_members`.
    """
    members = train_members(specs, images, device, parents, folder, on_epoch, on_smaller)
    dataset = data.get(specs[0].dataset)
    tests = {spec.key: dataset.split(images, spec.seed).test.to(device) for spec in specs}
    return choose(members, images.test.to(device), tests)


def _differences(spec: RunSpec, parent: RunSpec) -> str:
    """Why a run does not start from this parent, for an error: the settings in which its own parent differs."""
    if spec.parent is None:
        return f": {spec.method_label} starts from scratch"
    wanted, given = spec.parent.canonical, parent.canonical
    names = [name for name in {**wanted, **given} if wanted.get(name) != given.get(name)]
    return ": " + ", ".join(f"{name} is {given.get(name)}, not {wanted.get(name)}" for name in names)


def _progress_bar(spec: RunSpec, wanted: bool | None):
    """A context manager whose value is a function to call with the engine after each epoch."""
    if wanted is False or (wanted is None and not sys.stderr.isatty()):
        return nullcontext(lambda engine: None)
    from rme.progress import epoch_bar

    return epoch_bar(spec)
