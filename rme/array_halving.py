"""Trains runs as one array of members, which is halved if it does not fit into memory.

The halves are trained one after another; each may be halved again, down to one member. A member has its own random
streams, so its result does not depend on the other members, up to rounding.
"""

from __future__ import annotations

import gc
import json
import logging
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from rme import data
from rme.checkpoint import Checkpoints, write_atomically
from rme.config import RunSpec
from rme.engine import DivergedError, Engine, all_members
from rme.errors import first_line
from rme.memory import is_out_of_memory
from rme.training import Trained, build, identity, train, trained

log = logging.getLogger(__name__)

NOTE = "array.json"
"""File next to the checkpoints, with the number of members that fit into memory at once."""


class OutOfMemory(RuntimeError):
    """Not even one member at a time fits into memory."""


def train_members(
    specs: Sequence[RunSpec],
    images: data.Images,
    device: torch.device,
    parents: Sequence[Sequence[Mapping[str, Tensor]]] | None = None,
    folder: Path | None = None,
    on_epoch: Callable[[Engine], None] | None = None,
    on_smaller: Callable[[str], None] = log.warning,
) -> list[Trained]:
    """Train all restarts of runs of one cell as one array, and validate them; returns them run by run.

    If memory runs out, the array is halved and resumed from its checkpoints. The size that fits is written to `folder`,
    so that a resumed training starts with arrays of that size.

    Args:
        specs: the runs.
        images: the data set's.
        device: where to train.
        parents: for each run its parent's models, restart by restart.
        folder: of the checkpoints; None: no checkpoints.
        on_epoch: called after each epoch, with the engine.
        on_smaller: called with one line when the array is halved.

    Raises:
        OutOfMemory: even one member at a time does not fit.
    """
    members = len(all_members(specs))
    limit = min(members, _noted(folder))
    done: dict[int, Trained] = {}
    while True:
        try:
            for part in parts(range(members), limit):
                if part[0] not in done:
                    engine = partial(build, specs, images, device, parents, part)
                    done |= zip(part, _train_part(engine, part, members, folder, on_epoch), strict=True)
            break
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            reason = first_line(error)
            where = "".join(traceback.format_exception(error))  # as text, which keeps no frame and so no tensor alive
        # here, after `except`, the exception no longer keeps frames and their tensors alive
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
        if limit == 1:
            failure = OutOfMemory(f"{specs[0].cell}: out of memory with one member at a time: {reason}")
            failure.add_note(where)
            raise failure
        limit = (limit + 1) // 2
        _note(folder, limit, reason)
        on_smaller(f"{specs[0].cell}: out of memory; continuing with {limit} of {members} members at a time ({reason})")
    return [done[i] for i in range(members)]


def parts(members: range, limit: int) -> list[range]:
    """The members, halved repeatedly until no part has more than `limit`. Parts for a smaller limit subdivide these."""
    if len(members) <= limit:
        return [members]
    half = (len(members) + 1) // 2
    return parts(members[:half], limit) + parts(members[half:], limit)


def _train_part(
    make: Callable[[], Engine],
    part: range,
    members: int,
    folder: Path | None,
    on_epoch: Callable[[Engine], None] | None,
) -> list[Trained]:
    engine = make()
    checkpoints = None
    if folder is not None:
        checkpoints = _checkpoints(folder, part, members)
        if checkpoints.newest() is None:
            _start_from_larger(engine, checkpoints, part, members, folder)
    try:
        train(engine, checkpoints, on_epoch)
    except DivergedError as error:
        return trained(engine, diverged=str(error))
    return trained(engine)


def _checkpoints(folder: Path, part: range, members: int) -> Checkpoints:
    """A part's checkpoints; those of the whole array are in the folder itself."""
    return Checkpoints(folder if len(part) == members else folder / f"members-{part[0]}-{part[-1]}")


def _start_from_larger(engine: Engine, checkpoints: Checkpoints, part: range, members: int, folder: Path) -> None:
    """Cut the part's first checkpoint out of that of a larger array: the smallest that contains it and has one."""
    larger = []
    around = range(members)
    while len(around) > len(part):
        larger.append(around)
        half = (len(around) + 1) // 2
        around = around[:half] if part[-1] < around[half] else around[half:]
    for whole in reversed(larger):
        newest = _checkpoints(folder, whole, members).newest()
        if newest is not None:
            state, about = newest
            rows = range(part[0] - whole[0], part[-1] + 1 - whole[0])
            try:
                cut = state_of_members(state, rows)
            except KeyError as error:
                log.warning("%s: starting from the beginning: %s", folder, error)
                return
            own = identity(engine)
            if set(own["runs"]) <= set(about["runs"]) and own.get("device") == about.get("device"):
                checkpoints.save(int(cut["counters"][0]), cut, own)
            return


def state_of_members(state: Mapping[str, Tensor], rows: range) -> dict[str, Tensor]:
    """The `Engine.state()` of an array with only these members, cut out of a larger array's.

    Raises KeyError for an unknown entry.
    """
    streams = sum(name.startswith("stream.order.") for name in state)
    cut: dict[str, Tensor] = {}
    for name, value in state.items():
        kind, _, rest = name.partition(".")
        if kind in ("model", "kept") or (kind == "adam" and value.dim()):
            cut[name] = value[rows.start : rows.stop]
        elif kind == "adam" or name in ("counters", "history.finished_at"):
            cut[name] = value  # the same for all members
        elif kind == "stream":
            purpose, _, i = rest.partition(".")
            if int(i) in rows:
                cut[f"stream.{purpose}.{int(i) - rows.start}"] = value
        elif name in ("history.losses", "history.val_elbo") or rest.startswith("diagnostics."):
            cut[name] = value[..., rows.start : rows.stop]
        elif name == "history.seconds":
            cut[name] = value * (len(rows) / streams)  # these members' share
        else:
            raise KeyError(f"checkpoint entry {name} cannot be divided among members")
    return {name: value.contiguous() for name, value in cut.items()}


def _noted(folder: Path | None) -> int:
    try:
        return max(1, int(json.loads((folder / NOTE).read_text())["members"])) if folder is not None else 2**31
    except (OSError, ValueError, TypeError, KeyError):  # missing or damaged: the size is found again
        return 2**31


def _note(folder: Path | None, limit: int, reason: str) -> None:
    if folder is not None:
        text = json.dumps({"members": limit, "reason": reason}) + "\n"
        write_atomically(folder / NOTE, lambda path: path.write_text(text))
