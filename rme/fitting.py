"""Trains complete runs: all restarts, of which one is chosen by validation and scored on the test set."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rme import callbacks as calls
from rme import data
from rme.array_halving import train_members
from rme.callbacks import Callback, Epoch
from rme.checkpoint import digest
from rme.config import RunSpec
from rme.data import DataError, Images
from rme.device import pick_device
from rme.engine import DivergedError, Engine
from rme.images import as_bytes, as_images
from rme.model import Model
from rme.progress import epoch_bar
from rme.result import STOPPED, Result
from rme.selection import choose

log = logging.getLogger(__name__)


def fit(
    spec: RunSpec,
    *,
    images: Any = None,
    data_dir: str | Path = "data",
    device: str = "auto",
    parent: Result | Model | None = None,
    fine_tune: bool = False,
    callbacks: Sequence[Callback] | Callback | None = (),
    checkpoint_dir: str | Path | None = None,
    progress: bool | None = None,
) -> Result:
    """Train one run: its restarts as one array. The best by validation is scored on the test set.

    An array that does not fit into memory is halved (`rme.array_halving`).

    Args:
        spec: the run.
        images: images at hand, for a spec with `dataset="images"`: training images, or a pair of training and test
            images; uint8 or floating point in [0, 1] (stored as uint8), in the layouts of `rme.Model`. A tenth of the
            training images is held out for validation. The result's spec names them by a hash. Without test images the
            result has no test scores.
        data_dir: the data sets' folder, to which missing ones are downloaded.
        device: 'auto', 'cpu', 'cuda', 'cuda:1', ...
        parent: the finished run that `spec` starts from; None: it is trained first, if the method needs one.
        fine_tune: let `parent` be any run, or a `Model`, of the method that `spec` starts from, with the same decoder,
            latents and image size: trained on other images, or with other settings. Only with `images`, whose hash then
            also covers the parent, so that the run's key differs from that of an ordinary run.
        callbacks: functions of an `rme.Epoch`, called after each epoch of this run's own training; one may stop it. Not
            called for epochs that a checkpoint has.
        checkpoint_dir: where to keep checkpoints; the training resumes from the newest one. None: no checkpoints.
        progress: whether to show a progress bar; None: only in a terminal or a notebook.

    Raises:
        DataError: the data set is missing, damaged or cannot be trained on.
        ImagesError: `images` are of another type, shape or range.
        ValueError: `parent` is not the run that `spec` starts from; the message names the fields that differ.
        TypeError: `parent` is no result, or a callback is no function.
        DivergedError: no restart has a finite score.
        OutOfMemory: even one restart at a time does not fit into memory.

    Example:
        >>> spec = rme.RunSpec(method="vae", dataset="images", dim=2, epochs=3, restarts=1, batch_size=16)
        >>> pixels = numpy.random.default_rng(0).random((40, 16, 16))
        >>> def first_epoch_only(epoch):
        ...     epoch.stop()
        >>> result = rme.fit(spec, images=pixels, callbacks=[first_epoch_only])
        >>> result.environment["stopped_after_epoch"], result.model.image_shape
        ('1', (1, 16, 16))
    """
    if not isinstance(spec, RunSpec):
        raise TypeError(f"spec={spec!r} is a {type(spec).__name__}; expected an rme.RunSpec")
    callbacks = [callbacks] if callable(callbacks) else list(callbacks or ())
    calls.check(callbacks)
    if parent is not None and not isinstance(parent, (Result, Model)):
        raise TypeError(f"parent={parent!r} is a {type(parent).__name__}; expected the Result of the run that "
                        f"{spec.run_name} starts from")  # fmt: skip
    given = _given(spec, images)
    if fine_tune:
        _check_fine_tuning(spec, given, parent)
    if given is not None:
        spec = _named(spec, given, parent if fine_tune else None)
    dataset = data.get(spec.dataset)
    if given is None:
        dataset.prepare(Path(data_dir))
        given = dataset.load(Path(data_dir))
    if dataset.users_own:
        for line in data.check(dataset, given, spec):
            warnings.warn(line, stacklevel=2)
    chosen_device = pick_device(device)
    folder = Path(checkpoint_dir) if checkpoint_dir is not None else None
    if spec.parent is not None and parent is None:
        parent = _fit(spec.parent, given, chosen_device, None, folder, progress, ())
    if parent is not None and not fine_tune:
        _check_parent(spec, parent)
    return _fit(spec, given, chosen_device, parent, folder, progress, callbacks)


def _fit(
    spec: RunSpec,
    images: Images,
    device: torch.device,
    parent: Result | Model | None,
    folder: Path | None,
    progress: bool | None,
    callbacks: Sequence[Callback],
) -> Result:
    stopped: dict[str, str] = {}
    models = [_models_of(parent, spec)] if parent is not None else None
    # also where the caller has switched gradients off
    with torch.inference_mode(False), torch.enable_grad(), epoch_bar(spec, progress) as advance:

        def on_epoch(engine: Engine) -> None:
            advance(engine)
            if callbacks:
                epoch = Epoch.of(engine)
                for callback in callbacks:
                    callback(epoch)
            if engine.stopped:
                stopped[STOPPED] = str(engine.epoch)

        found = train_runs([spec], images, device, models, folder / spec.key if folder else None, on_epoch)
    result = found[spec.key]
    if isinstance(result, DivergedError):
        raise result
    return replace(result, environment=result.environment | stopped)


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

    A run has a DivergedError instead of a result if none of its restarts has a finite validation score. Without test
    images, results have no test scores. Arguments and errors are those of `rme.array_halving.train_members`.
    """
    members = train_members(specs, images, device, parents, folder, on_epoch, on_smaller)
    dataset = data.get(specs[0].dataset)
    splits = {spec.key: dataset.split(images, spec.seed) for spec in specs}
    tests = {key: split.test.to(device) for key, split in splits.items()}
    instead = None
    if not len(images.test):
        instead = {key: images.train[split.validation].to(device) for key, split in splits.items()}
    found = choose(members, images.test.to(device), tests, instead)
    return {key: _with_sizes(result, splits[key]) for key, result in found.items()}


def _with_sizes(result: Result | DivergedError, split: data.Split) -> Result | DivergedError:
    """The result, whose environment also says how many images it was trained on and validated by."""
    if isinstance(result, DivergedError):
        return result
    sizes = {"train_images": str(len(split.train)), "validation_images": str(len(split.validation))}
    return replace(result, environment=result.environment | sizes)


# ---------------------------------------------------------------------- images at hand
def _given(spec: RunSpec, images: Any) -> Images | None:
    """The images that were passed, as training and test images; None if the spec names its data set."""
    named = not data.is_in_memory(spec.dataset)
    if images is None:
        if not named:
            raise DataError(f"dataset={spec.dataset!r} stands for images at hand: pass images=train or (train, test)")
        return None
    if named:
        raise DataError(f"images= and dataset={spec.dataset!r}: give one of them; with images=, dataset='images'")
    pair = images if isinstance(images, (tuple, list)) else (images,)
    if len(pair) not in (1, 2):
        raise DataError(f"images= has {len(pair)} parts; expected training images, or (training, test) images")
    train = as_bytes(as_images(pair[0], name="training images"))
    shape = (train.shape[1], train.shape[2], train.shape[3])
    if not data.is_supported(shape):
        raise DataError(f"training images have the shape {shape}; expected {data.SUPPORTED}")
    if len(pair) == 1:
        return Images(train, train.new_empty(0, *shape))
    return Images(train, as_bytes(as_images(pair[1], shape, name="test images")))


def _named(spec: RunSpec, images: Images, fine_tuned: Result | Model | None) -> RunSpec:
    """The spec with the name of these images. DataError if it has the name of others."""
    name = data.name_in_memory(images, "" if fine_tuned is None else _digest(fine_tuned))
    if spec.dataset not in (data.IN_MEMORY, name):
        raise DataError(
            f"dataset={spec.dataset!r}, but images= are {name}: dataset={data.IN_MEMORY!r} takes any images"
        )
    return spec.model_copy(update={"dataset": name})


# ---------------------------------------------------------------------- parents
def _models_of(parent: Result | Model, spec: RunSpec) -> list[dict[str, Tensor]]:
    """For each restart the model that it starts from: a single model serves all of them."""
    models = parent.models if isinstance(parent, Result) else [parent.parameters]
    if len(models) == spec.restarts:
        return models
    one = models[parent.chosen] if isinstance(parent, Result) else models[0]
    return [one] * spec.restarts


def _check_parent(spec: RunSpec, parent: Result | Model) -> None:
    wanted = spec.parent
    if wanted is None or parent.spec.key != wanted.key:
        raise ValueError(
            f"{spec.run_name} does not start from the run given as parent, {parent.spec.run_name}"
            + _differences(spec, parent.spec)
        )
    if parent.stopped is not None:
        name, epoch = parent.spec.run_name, parent.stopped
        raise ValueError(f"parent is not the finished run {name}: it was stopped by a callback after epoch {epoch}; "
                         "fine_tune=True continues it all the same")  # fmt: skip
    if isinstance(parent, Model) and spec.restarts > 1:
        raise ValueError(f"parent is one model, but {spec.run_name} has {spec.restarts} restarts, each of which starts "
                         "from its own: give the Result, set restarts=1, or fine_tune=True")  # fmt: skip


def _differences(spec: RunSpec, parent: RunSpec) -> str:
    """Why a run does not start from this parent, for an error: the settings in which its own parent differs."""
    if spec.parent is None:
        return f": {spec.method_label} starts from scratch"
    wanted, given = spec.parent.canonical, parent.canonical
    names = [name for name in {**wanted, **given} if wanted.get(name) != given.get(name)]
    return ": " + ", ".join(f"{name} is {given.get(name)}, not {wanted.get(name)}" for name in names)


def _check_fine_tuning(spec: RunSpec, images: Images | None, parent: Result | Model | None) -> None:
    if images is None or parent is None:
        raise ValueError("fine_tune=True needs images= and parent=")
    starts_from = spec.method_class.starts_from
    own = {"method": parent.spec.method, "dim": parent.spec.dim, "decoder": parent.spec.decoder,
           "image shape": tuple(_models_of(parent, spec)[0]["pixel_mean"].shape)}  # fmt: skip
    wanted = {"method": starts_from, "dim": spec.dim, "decoder": spec.decoder, "image shape": images.shape}
    wrong = [f"{name} is {own[name]}, not {wanted[name]}" for name in own if own[name] != wanted[name]]
    if starts_from is None:
        raise ValueError(f"fine_tune=True: {spec.method_label} starts from scratch; vae-more continues a VAE")
    if wrong:
        raise ValueError(f"{spec.run_name} cannot start from {parent.spec.run_name}: {', '.join(wrong)}")


def _digest(parent: Result | Model) -> str:
    models = parent.models if isinstance(parent, Result) else [parent.parameters]
    return " ".join(digest(model, "") for model in models)
