"""Train one array of members, with checkpoints, and validate it."""

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
"""How often, in a training and again in its finish, the validation ELBO is measured at the most."""

CHECKPOINT_SHARE = 0.02
"""Part of the training time that checkpoints may take."""


def build(
    specs: Sequence[RunSpec],
    images: data.Images,
    device: torch.device | str,
    parents: Sequence[Sequence[Mapping[str, Tensor]]] | None,
    members: range | None = None,
) -> Engine:
    """An engine for runs of one cell. From images without a test set comes one that can be validated alone.

    Args:
        specs: the runs.
        images: the data set's.
        device: where to train.
        parents: for each run its parent's models, restart by restart.
        members: which of the runs' restarts, counted run by run, the array holds; None: all.
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
    """Train to the end, from the newest good checkpoint if there is one, and give each member what it keeps.

    The end is the last epoch, or where each member has diverged or been finished by its patience. An interrupted
    training that goes on equals the uninterrupted one; on the CPU, bit for bit. Checkpoints are as frequent as
    `CHECKPOINT_SHARE` of the time allows. After each epoch come `hooks.on_epoch` and then `on_epoch`, if there are any.
    """
    after_epoch = [call for call in (hooks.on_epoch(), on_epoch) if call is not None]
    if engine.device.type == "cpu":
        allocator.keep_freed_memory()
    if checkpoints is not None and (newest := checkpoints.newest()) is not None:
        state, meta = newest
        own = identity(engine)
        if meta == own:
            engine.load_state(state)
            log.info("%s: going on after epoch %d", engine.spec.cell, engine.epoch)
        elif meta | {"device": None} == own | {"device": None}:
            log.warning("%s holds a training on %s, whose random streams %s does not have: beginning anew",
                        checkpoints.folder, meta.get("device", "cpu"), engine.device.type)  # fmt: skip
        else:
            log.warning("%s holds another training's checkpoints: they are not used", checkpoints.folder)
    total = engine.spec.training_epochs
    due = 0.0
    while engine.epoch < total and engine.goes_on:
        engine.train_epoch()
        engine.check_alive()
        if is_measured(engine.spec, engine.epoch):
            engine.validate()
        ends = engine.epoch == total or not engine.goes_on
        if checkpoints is not None and (time.monotonic() >= due or ends):
            began = time.monotonic()
            checkpoints.save(engine.epoch, engine.state(), identity(engine))
            now = time.monotonic()
            due = now + (now - began) / CHECKPOINT_SHARE
        for call in after_epoch:
            call(engine)
    engine.keep()


def is_measured(spec: RunSpec, epoch: int) -> bool:
    """Whether the validation ELBO is measured after this epoch, from 1, of a run's own training.

    At least at the end, at the finish's beginning, and as often as patience needs; in few epochs, at each.
    """
    finish = spec.own_finish_epochs
    before = spec.training_epochs - finish
    part, at = (before, epoch) if epoch <= before else (finish, epoch - before)
    every = max(1, min(part // HISTORY_POINTS, spec.own_patience or part))
    return at % every == 0 or at == part


def identity(engine: Engine) -> dict[str, Any]:
    """Whose training it is, for its checkpoints: runs, members unless it is all, and where unless on a CPU."""
    runs: dict[str, Any] = {"runs": [spec.key for spec in engine.specs]}
    if engine.device.type != "cpu":
        runs["device"] = engine.device.type  # each type's generators have states of their own
    if engine.members != all_members(engine.specs):
        runs["members"] = [[member.spec.key, member.restart] for member in engine.members]
    return runs


def validate(engine: Engine) -> tuple[Tensor, Tensor]:
    """IWAE and ELBO of each member on its validation images, (B,) nats per image, on the CPU. Sees no test image.

    A member that diverged has NaN, also where an epoch from before that is kept, as when it trains alone.
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
        kept_epoch: (), the epoch whose parameters the model has.
        losses: (E, U) by epoch and update; history_elbo: (E,); diagnostics: (E,) by name, all NaN from where patience
            ended it; finished_at: (E,), s since 1970.
        epoch: after how many epochs its array's training ended.
        seconds: its share of its array's training time.
        array: how many members trained with it, itself included.
        diverged: why its training was broken off; empty if it was not.
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
    """The members of an engine whose training has ended, validated; or not, because all of it diverged.

    What a diverged training did not come to is NaN.
    """
    members, total = len(engine.members), engine.spec.training_epochs
    nothing = torch.full((members,), math.nan, dtype=torch.float64)
    val_iwae, val_elbo = (nothing, nothing) if diverged else validate(engine)
    history = engine.history
    ends = torch.where(engine.kept.finished > 0, engine.kept.finished, engine.epoch)
    beyond = torch.arange(1, total + 1).unsqueeze(1) > ends  # (E, B)

    def by_epoch(measured: list[Tensor], *shape: int) -> Tensor:
        """(E, *shape, B), NaN from each member's end."""
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
