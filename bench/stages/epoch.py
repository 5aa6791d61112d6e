"""A whole epoch of an array of VAEs: its seconds, and which part of it is not training steps."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench import models
from bench.stages.case import Case, Number
from bench.stages.named import named
from rme.checkpoint import Checkpoints
from rme.data import Split
from rme.engine import Engine
from rme.evaluate import synchronise
from rme.untrained import random_images, untrained_engine

MEMBERS = {"cpu": (2,), "cuda": (6, 30)}
"""Of the arrays."""

IMAGES = 50_000
"""Of an epoch on a GPU."""

CPU_SECONDS = 3.0
"""Of an epoch on a CPU."""


def cases(device: torch.device) -> Iterator[Case]:
    """A case for each size of an array."""
    for members in MEMBERS[device.type]:
        yield named(f"{members} VAEs", partial(epoch, models.spec("vae"), members, device))


@dataclass(frozen=True)
class Seconds:
    """Seconds of an epoch and of its parts.

    Attributes:
        epoch: all of `Engine.train_epoch`.
        order: in it, drawing the order of the images and moving it to the device.
        steps: in it, the training steps.
        validation: after it.
        checkpoint: writing one.
    """

    epoch: float
    order: float
    steps: float
    validation: float
    checkpoint: float


def epoch(run: Any, members: int, device: torch.device, images: int | None = None) -> list[Number]:
    """The entries of an epoch of `images` images; None: IMAGES, or on a CPU as many as CPU_SECONDS allow."""
    if images is None:
        images = IMAGES if device.type == "cuda" else _images_in(CPU_SECONDS, run, members, device)
    return entries(parts(_array(run, members, device, images)), images)


def entries(found: Seconds, images: int) -> list[Number]:
    """Seconds of the epoch, and its parts in % of it. Steps, order and the rest are at most 100 % together."""
    # a GPU's clock and the CPU's may differ by a few microseconds a step
    whole = max(found.epoch, found.order + found.steps)
    rest = whole - found.order - found.steps

    def share(seconds: float) -> float:
        return 100 * seconds / whole

    return [
        Number(f"epoch of {images:,} images", found.epoch, "s"),
        Number("steps", share(found.steps), "%"),
        Number("drawing the order and moving it to the device", share(found.order), "%"),
        Number("the rest: choosing batches, adding losses", share(rest), "%"),
        Number(f"in addition, a validation on {validated(images):,} images", share(found.validation), "%"),
        Number("in addition, a checkpoint", share(found.checkpoint), "%"),
        Number("validation", found.validation, "s"),
        Number("checkpoint", found.checkpoint, "s"),
    ]


def parts(engine: Engine) -> Seconds:
    """Train for an epoch, after another on a GPU, then validate and save a checkpoint."""
    if engine.device.type == "cuda":
        engine.train_epoch()  # chooses kernels, captures graphs of full batches and of the last one
        engine.validate()
    order, steps = Watch(engine._next_order, engine.device), Watch(engine.train_step, engine.device)
    engine._next_order, engine.train_step = order, steps  # type: ignore[method-assign, assignment]
    whole = _seconds(engine.train_epoch, engine.device)
    validation = _seconds(engine.validate, engine.device)
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(Path(folder))
        checkpoint = _seconds(lambda: checkpoints.save(engine.epoch, engine.state(), {}), engine.device)
    return Seconds(
        epoch=whole, order=order.seconds(), steps=steps.seconds(), validation=validation, checkpoint=checkpoint
    )


class Watch:
    """A function that also measures how long its calls take, on a GPU without waiting for it."""

    def __init__(self, function: Callable[..., Tensor], device: torch.device) -> None:
        self.function = function
        self.device = device
        self.events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self.elapsed = 0.0

    def __call__(self, *arguments: Tensor) -> Tensor:
        if self.device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            result = self.function(*arguments)
            end.record()
            self.events.append((start, end))
            return result
        began = time.perf_counter()
        result = self.function(*arguments)
        self.elapsed += time.perf_counter() - began
        return result

    def seconds(self) -> float:
        """Seconds of all calls together. The device must have done them."""
        return self.elapsed + sum(start.elapsed_time(end) for start, end in self.events) / 1e3


def validated(images: int) -> int:
    """How many validation images there are beside these training images: a tenth of all, as in training."""
    return max(1, images // 9)


def _array(run: Any, members: int, device: torch.device, images: int) -> Engine:
    pixels = random_images(images + validated(images), models.image_shape(run))
    train, validation = torch.arange(len(pixels)).split([images, validated(images)])
    runs = [run.model_copy(update={"seed": i, "restarts": 1}) for i in range(members)]
    return untrained_engine(runs, pixels, device, Split(train, validation, validation))


def _images_in(seconds: float, run: Any, members: int, device: torch.device) -> int:
    """A number of images whose epoch takes about so many seconds: whole batches, at least one."""
    probe = _array(run, members, device, run.batch_size)
    index = torch.arange(run.batch_size, device=device).expand(members, -1)
    probe.train_step(index)
    step = min(_seconds(lambda: probe.train_step(index), device) for _ in range(2))
    return run.batch_size * max(1, round(seconds / step))


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """Elapsed seconds until the device has done the work."""
    synchronise(device)
    began = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - began
