"""Trains one array of members, with checkpoints, and validates it."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rme import allocator, data, evaluate, hooks, noise
from rme.checkpoint import Checkpoints
from rme.config import RunSpec
from rme.engine import Engine, Member, all_members, member_parameters
from rme.model_file import stack_models

log = logging.getLogger(__name__)

HISTORY_POINTS = 50
"""About how often the validation ELBO is measured in a training before its finish, and again in the finish."""

CHECKPOINT_SHARE = 0.02
"""Largest part of the training time that checkpoints may take."""


class StopTraining(Exception):
    """Raised by a function called after an epoch: the training saves a checkpoint and ends; it can be resumed."""


def build(
    specs: Sequence[RunSpec],
    images: data.Images,
    device: torch.device | str,
    parents: Sequence[Sequence[Mapping[str, Tensor]]] | None,
    members: range | None = None,
) -> Engine:
    """An engine for runs of one cell. If `images` has no test set, it can be validated but not tested.

    Args:
        specs: the runs.
        images: the data set's.
        device: where to train.
        parents: for each run its parent's models, restart by restart.
        members: indices of the restarts that the array contains, counted run by run; None: all.
    """
    chosen = members or range(len(all_members(specs)))
    rows = [all_members(specs)[i] for i in chosen]
    specs = [spec for spec in specs if spec in {member.spec for member in rows}]
    dataset = data.get(specs[0].dataset)
    splits = [dataset.split(images, spec.seed) for spec in specs]
    if not len(images.test):
        splits = [split.without_test() for split in splits]
    stacked = None
    if parents is not None:
        models = [dict(model) for run in parents for model in run]
        stacked = stack_models([models[i] for i in chosen])
    return Engine(specs, images, splits, device=device, parents=stacked, members=rows)


def train(
    engine: Engine, checkpoints: Checkpoints | None = None, on_epoch: Callable[[Engine], None] | None = None
) -> None:
    """Train to the end, resuming from the newest undamaged checkpoint if any; then set each member to what it keeps.

    The end is the last epoch, or the epoch at which all members have diverged or been finished by their patience, or
    after which `Engine.stop` was called. A resumed training equals the uninterrupted one; on the CPU, bit for bit.
    Checkpoints are as frequent as `CHECKPOINT_SHARE` of the time allows. After each epoch, `hooks.on_epoch` and then
    `on_epoch` are called, if given; if one raises StopTraining, a checkpoint of this epoch is saved first, and the
    exception propagates.
    """
    after_epoch = [call for call in (hooks.on_epoch(), on_epoch) if call is not None]
    if engine.device.type == "cpu":
        allocator.keep_freed_memory()
    if checkpoints is not None and (newest := checkpoints.newest()) is not None:
        state, meta = newest
        own = identity(engine)
        if meta == own:
            engine.load_state(state)
            log.info("%s: resumed after epoch %d", engine.spec.cell, engine.epoch)
        elif meta | {"device": None} == own | {"device": None}:
            log.warning("%s: checkpoints from a training on %s cannot be resumed on %s: starting from the beginning",
                        checkpoints.folder, meta.get("device", "cpu"), engine.device.type)  # fmt: skip
        else:
            log.warning("%s: checkpoints of another training are not used: starting from the beginning",
                        checkpoints.folder)  # fmt: skip
    total = engine.spec.training_epochs
    due = 0.0
    while engine.epoch < total and engine.goes_on:
        engine.train_epoch()
        engine.check_alive()
        if is_measured(engine.spec, engine.epoch):
            engine.validate()
        ends = engine.epoch == total or not engine.goes_on
        saved = checkpoints is not None and (time.monotonic() >= due or ends)
        if checkpoints is not None and saved:
            began = time.monotonic()
            checkpoints.save(engine.epoch, engine.state(), identity(engine))
            now = time.monotonic()
            due = now + (now - began) / CHECKPOINT_SHARE
        try:
            for call in after_epoch:
                call(engine)
        except StopTraining:
            if checkpoints is not None and not saved:
                checkpoints.save(engine.epoch, engine.state(), identity(engine))
            raise
    engine.keep()


def is_measured(spec: RunSpec, epoch: int) -> bool:
    """Whether the validation ELBO is measured after this epoch (counted from 1) of a run's own training.

    It is measured at least at the end, at the start of the finish, and as often as patience needs; in a short training
    after each epoch.
    """
    finish = spec.own_finish_epochs
    before = spec.training_epochs - finish
    part, at = (before, epoch) if epoch <= before else (finish, epoch - before)
    every = max(1, min(part // HISTORY_POINTS, spec.own_patience or part))
    return at % every == 0 or at == part


def identity(engine: Engine) -> dict[str, Any]:
    """Which training a checkpoint is of: the runs, the device type unless CPU, and the members unless all."""
    runs: dict[str, Any] = {"runs": [spec.key for spec in engine.specs]}
    if engine.device.type != "cpu":
        runs["device"] = engine.device.type  # random streams have other states on each type of device
    if engine.members != all_members(engine.specs):
        runs["members"] = [[member.spec.key, member.restart] for member in engine.members]
    return runs


def validate(engine: Engine) -> tuple[Tensor, Tensor]:
    """IWAE and ELBO of each member on its validation images: (B,) in nats per image, on the CPU.

    Both are NaN for a diverged member, even if it keeps an earlier epoch, because alone it would have failed.
    """
    validation = evaluate.scores(
        engine.method,
        engine.pixels,
        engine.val_index,
        samples=engine.spec.iwae_samples,
        generators=engine.generators(noise.EVALUATE),
    )
    iwae, elbo = (
        score.mean(1).cpu().masked_fill(engine.diverged, math.nan) for score in (validation.iwae, validation.elbo)
    )
    return iwae, elbo


@dataclass(frozen=True)
class Trained:
    """A member at the end of its training, on the CPU.

    Attributes:
        model: parameters and buffers, name -> tensor.
        val_iwae, val_elbo: (), nats per image; NaN if it diverged.
        kept_epoch: (), the epoch whose parameters it kept.
        losses, history_elbo: (E, U) by epoch and update, and (E,); nats per image.
        diagnostics: (E,) by name. As losses and history_elbo, NaN after the end of the member's training.
        finished_at: (E,), when each epoch ended, s since 1970.
        epoch: number of epochs of its array.
        seconds: its share of its array's training time.
        array: number of members of its array.
        diverged: why its array's training ended early, if all members diverged; else empty.
    """

    member: Member
    model: dict[str, Tensor]
    val_iwae: Tensor
    val_elbo: Tensor
    kept_epoch: Tensor
    losses: Tensor
    history_elbo: Tensor
    diagnostics: dict[str, Tensor]
    finished_at: Tensor
    epoch: int
    seconds: float
    updates: list[str]
    array: int
    diverged: str = ""


def trained(engine: Engine, diverged: str = "") -> list[Trained]:
    """The members of an engine at the end of its training, validated.

    `diverged`: the reason, if all members diverged; then they are not validated. Values that were not measured are NaN.
    """
    members, total = len(engine.members), engine.spec.training_epochs
    nothing = torch.full((members,), math.nan, dtype=torch.float64)
    val_iwae, val_elbo = (nothing, nothing) if diverged else validate(engine)
    history = engine.history
    ends = torch.where(engine.kept.finished > 0, engine.kept.finished, engine.epoch)
    beyond = torch.arange(1, total + 1).unsqueeze(1) > ends  # (E, B)

    def by_epoch(measured: list[Tensor], *shape: int) -> Tensor:
        """(E, *shape, B), NaN after each member's end."""
        filled = torch.full((total, *shape, members), math.nan, dtype=torch.float64)
        if measured:
            filled[: len(measured)] = torch.stack(measured)
        return filled.masked_fill(beyond.view(total, *(1 for _ in shape), members), math.nan)

    losses = by_epoch(history.losses, len(engine.updates))
    elbo = by_epoch(history.val_elbo)
    diagnostics = {name: by_epoch(measured) for name, measured in history.diagnostics.items()}
    times = torch.tensor(history.finished_at, dtype=torch.float64)
    return [
        Trained(
            member=member,
            model=member_parameters(engine.method, i),
            val_iwae=val_iwae[i],
            val_elbo=val_elbo[i],
            kept_epoch=engine.kept.epochs(engine.epoch)[i],
            losses=losses[:, :, i],
            history_elbo=elbo[:, i],
            diagnostics={name: measured[:, i] for name, measured in diagnostics.items()},
            finished_at=times[torch.arange(total).clamp_max(ends[i] - 1)],
            epoch=engine.epoch,
            seconds=sum(history.seconds) / members,
            updates=[update.name for update in engine.updates],
            array=members,
            diverged=diverged,
        )
        for i, member in enumerate(engine.members)
    ]
