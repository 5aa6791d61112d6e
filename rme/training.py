"""Train runs from beginning to end: an array of members with checkpoints, then validation, selection and test."""

from __future__ import annotations

import logging
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor

from rme import allocator, data, evaluate, noise
from rme.checkpoint import Checkpoints
from rme.config import RunSpec
from rme.engine import DivergedError, Engine, member_parameters, single
from rme.result import Result, stack_models

log = logging.getLogger(__name__)

HISTORY_POINTS = 50
"""How often, in a whole training, the validation ELBO is measured."""

CHECKPOINT_SHARE = 0.02
"""Part of the training time that checkpoints may take."""

PICTURES = 16
"""Test images reconstructed, and samples drawn, for the record."""


def fit(
    spec: RunSpec,
    *,
    data_dir: str | Path = "data",
    device: str = "auto",
    parent: Result | None = None,
    checkpoint_dir: str | Path | None = None,
    progress: bool | None = None,
) -> Result:
    """Run one run: train its restarts as an array, choose one by validation, score it on the test set.

    Args:
        spec: what to run. A method that starts from a finished VAE has that VAE trained first.
        data_dir: where data sets are, or are downloaded to.
        device: 'auto', 'cpu', 'cuda', 'cuda:1', ...
        parent: the finished run that `spec` starts from, if it is at hand.
        checkpoint_dir: keep checkpoints there, and go on from the newest; None: keep none.
        progress: show a progress bar; None: if standard error is a terminal.

    Raises:
        DataError: the data set is not there or not right.
        ValueError: `parent` is not the run that `spec` starts from.
        DivergedError: no restart ended with a finite score.
    """
    dataset = data.get(spec.dataset)
    dataset.prepare(Path(data_dir))
    images = dataset.load(Path(data_dir))
    chosen_device = pick_device(device)
    folder = Path(checkpoint_dir) if checkpoint_dir is not None else None
    if spec.parent is not None and parent is None:
        parent = fit(spec.parent, data_dir=data_dir, device=device, progress=progress, checkpoint_dir=folder)
    if parent is not None and (spec.parent is None or parent.spec.key != spec.parent.key):
        raise ValueError(f"{spec.run_name} does not start from the run given as parent, {parent.spec.run_name}")

    engine = build([spec], images, chosen_device, [parent.models] if parent else None)
    checkpoints = Checkpoints(folder / spec.key) if folder else None
    with _progress_bar(spec, progress) as advance:
        train(engine, checkpoints, on_epoch=advance)
    (result,) = results(engine).values()
    if isinstance(result, DivergedError):
        raise result
    return result


def build(
    specs: Sequence[RunSpec],
    images: data.Images,
    device: torch.device | str,
    parents: Sequence[Sequence[Mapping[str, Tensor]]] | None,
) -> Engine:
    """An engine for runs of one cell. `parents`: for each run its parent's models, restart by restart."""
    dataset = data.get(specs[0].dataset)
    splits = [dataset.split(images, spec.seed) for spec in specs]
    stacked = stack_models([dict(model) for run in parents for model in run]) if parents is not None else None
    return Engine(specs, images, splits, device=device, parents=stacked)


def train(
    engine: Engine, checkpoints: Checkpoints | None = None, on_epoch: Callable[[Engine], None] | None = None
) -> None:
    """Train to the end, from the newest good checkpoint if there is one.

    An interrupted training that goes on equals the uninterrupted one; on the CPU, bit for bit. Checkpoints are as
    frequent as `CHECKPOINT_SHARE` of the time allows.
    """
    if engine.device.type == "cpu":
        allocator.keep_freed_memory()
    if checkpoints is not None and (newest := checkpoints.newest()) is not None:
        state, meta = newest
        if meta.get("runs") == [spec.key for spec in engine.specs]:
            engine.load_state(state)
            log.info("%s: going on after epoch %d", engine.spec.cell, engine.epoch)
        else:
            log.warning("%s holds another training's checkpoints: they are not used", checkpoints.folder)
    total = engine.spec.training_epochs
    every = max(1, total // HISTORY_POINTS)
    due = 0.0
    while engine.epoch < total:
        engine.train_epoch()
        engine.check_alive()
        if engine.epoch % every == 0 or engine.epoch == total:
            engine.validate()
        if checkpoints is not None and (time.monotonic() >= due or engine.epoch == total):
            began = time.monotonic()
            checkpoints.save(engine.epoch, engine.state(), {"runs": [spec.key for spec in engine.specs]})
            now = time.monotonic()
            due = now + (now - began) / CHECKPOINT_SHARE
        if on_epoch is not None:
            on_epoch(engine)


def results(engine: Engine) -> dict[str, Result | DivergedError]:
    """Validate every member, choose each run's best restart, and score that one on the test set; by run key.

    A run none of whose restarts has a finite validation score has its DivergedError instead.
    """
    spec = engine.spec
    validation = evaluate.scores(
        engine.method,
        engine.pixels,
        engine.val_index,
        samples=spec.iwae_samples,
        generators=engine._generators(noise.EVALUATE, engine.device),
    )
    val_iwae = validation.iwae.mean(1).cpu()
    val_elbo = validation.elbo.mean(1).cpu()
    seconds = sum(engine.history.seconds) / len(engine.specs)
    environment = {
        "device": device_name(engine.device),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "members": str(len(engine.members)),
        "threads": str(torch.get_num_threads()),
    }
    found: dict[str, Result | DivergedError] = {}
    for run, own in enumerate(engine.specs):
        rows = slice(run * spec.restarts, (run + 1) * spec.restarts)
        try:
            chosen = best_restart(val_iwae[rows])
        except DivergedError as error:
            found[own.key] = DivergedError(f"{own.run_name}: {error}; the learning rate was {own.rate:g}")
            continue
        member = rows.start + chosen
        model = single(engine.method, member)
        test_index = engine.test_index[member : member + 1]
        test = evaluate.scores(
            model,
            engine.test_pixels,
            test_index,
            samples=spec.iwae_samples,
            generators=[noise.generator(own.seed, chosen, noise.EVALUATE, engine.device)],
        )
        pixels = engine.test_pixels[test_index[0]]
        pictures = noise.generator(own.seed, chosen, noise.PICTURES, engine.device)
        found[own.key] = Result(
            spec=own,
            chosen=chosen,
            models=[member_parameters(engine.method, i) for i in range(rows.start, rows.stop)],
            val_iwae=val_iwae[rows],
            val_elbo=val_elbo[rows],
            test_iwae=test.iwae[0].cpu(),
            test_elbo=test.elbo[0].cpu(),
            inference_ms=evaluate.inference_ms(model, pixels, pictures),
            train_s=seconds,
            updates=[u.name for u in engine.updates],
            losses=torch.stack(engine.history.losses)[:, :, rows],
            history_elbo=torch.stack(engine.history.val_elbo)[:, rows],
            finished_at=torch.tensor(engine.history.finished_at, dtype=torch.float64),
            reconstructions=evaluate.reconstructions(model, pixels[:PICTURES], pictures).cpu(),
            samples=evaluate.prior_samples(model, PICTURES, pictures).cpu(),
            environment=environment,
        )
    return found


def best_restart(val_iwae: Tensor) -> int:
    """Index of the best validation score (section 1.4). NaN is never chosen; DivergedError if nothing else is left."""
    finite = torch.where(val_iwae.isfinite(), val_iwae, -torch.inf)
    if not finite.isfinite().any():
        raise DivergedError(f"none of {len(val_iwae)} restarts has a finite validation score")
    return int(finite.argmax())


def pick_device(name: str) -> torch.device:
    """'auto' is the first CUDA device, else the CPU. Raises ValueError for one that is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device={name!r} is no device; say auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={name!r}: torch sees no CUDA device here; say cpu")
    return device


def device_name(device: torch.device) -> str:
    """What a reader calls it: the GPU's or the processor's name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):  # not Linux, or a processor that does not say
        model = platform.processor() or platform.machine()
    return f"{model} ({torch.backends.cpu.get_cpu_capability()})"


def _progress_bar(spec: RunSpec, wanted: bool | None):
    """A context that gives a function of the engine to call after each epoch."""
    if wanted is False or (wanted is None and not sys.stderr.isatty()):
        return nullcontext(lambda engine: None)
    from rme.progress import epoch_bar

    return epoch_bar(spec)
