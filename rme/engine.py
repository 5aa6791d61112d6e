"""The engine: trains an array of B members, models of the same cell, in one program.

It alone owns optimisers, gradients, random streams, batching and precision. A run on its own is an array of its
restarts; there is one code path.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rme import evaluate, nets, noise, precision
from rme.adam import Adam
from rme.cuda_graph import Graphed
from rme.data import Images, Split
from rme.kept import Kept
from rme.methods.base import Method, Update
from rme.step import Step

if TYPE_CHECKING:
    from rme.config import RunSpec


PIXELS_AT_ONCE = 2**24
"""How many are summed as integers at a time: 128 MB of them."""


class DivergedError(RuntimeError):
    """A training whose loss or score is no longer a number."""


@dataclass(frozen=True)
class Member:
    """One model being trained: a run and one of its restarts."""

    spec: RunSpec
    restart: int

    def __str__(self) -> str:
        return f"{self.spec.run_name} restart {self.restart}"


def all_members(specs: Sequence[RunSpec]) -> list[Member]:
    """The restarts of these runs, run by run."""
    return [Member(spec, restart) for spec in specs for restart in range(spec.restarts)]


@dataclass
class History:
    """What happened, epoch by epoch.

    Attributes:
        losses: for each epoch the updates' mean losses, (U, B) in nats per image.
        val_elbo: for each epoch the validation ELBO, (B,) in nats per image; NaN where it was not measured.
        diagnostics: for each epoch the method's own, by name, (B,) each; NaN where they were not measured, and no name
            where they never were.
        seconds: for each epoch how long it took.
        finished_at: for each epoch when it ended, in seconds since 1970.
    """

    losses: list[Tensor] = field(default_factory=list)
    val_elbo: list[Tensor] = field(default_factory=list)
    diagnostics: dict[str, list[Tensor]] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    finished_at: list[float] = field(default_factory=list)


class Engine:
    """An array of members in training.

    Args:
        specs: runs of one cell (all fields but the seed alike); the members are their restarts, run by run.
        images: the data set's tensors, on the CPU.
        splits: for each run its train/validation/test indices.
        device: where to train.
        parents: for methods that start from another model: its finished parameters, name -> (B, ...).
        members: those of the runs' restarts that the array holds; None: all.

    Raises:
        ValueError: the runs are not of one cell, or parents are missing or not wanted.
    """

    def __init__(
        self,
        specs: Sequence[RunSpec],
        images: Images,
        splits: Sequence[Split],
        *,
        device: torch.device | str = "cpu",
        parents: Mapping[str, Tensor] | None = None,
        members: Sequence[Member] | None = None,
    ) -> None:
        self.spec = spec = specs[0]
        if len({s.cell_key for s in specs}) > 1:
            raise ValueError(f"an array holds runs of one cell, not of {sorted({s.cell for s in specs})}")
        if (parents is None) != (spec.method_class.starts_from is None):
            wanted = spec.method_class.starts_from
            raise ValueError(f"{spec.method_label} starts from {wanted or 'scratch'}: parents must be given only then")
        self.specs = list(specs)
        self.members = all_members(specs) if members is None else list(members)
        self.device = torch.device(device)
        dtype = precision.DTYPES[spec.precision]

        self.pixels = images.train.to(self.device)
        self.test_pixels = self.pixels if images.test is images.train else images.test.to(self.device)
        split_of = {s.seed: split for s, split in zip(specs, splits, strict=True)}
        per_member = [split_of[member.spec.seed] for member in self.members]
        self.train_index = torch.stack([s.train for s in per_member])
        self.val_index = torch.stack([s.validation for s in per_member]).to(self.device)
        self.test_index = torch.stack([s.test for s in per_member]).to(self.device)

        self.method = spec.method_class(spec, images.shape, len(self.members)).to(dtype)
        self.method.requires_grad_(False)
        nets.initialise(self.method, self.generators(noise.INIT, "cpu"))
        self._fit_pixels(images, splits)
        if parents is not None:
            self.method.start_from(parents)
        self.method.to(self.device)

        self.updates: list[Update] = list(self.method.updates())
        self.optimisers = [Adam(u.parameters, spec.rate) for u in self.updates]
        self.order_streams = self.generators(noise.ORDER, "cpu")
        self.noise = noise.Noise(self.generators(noise.TRAIN), dtype)
        self.epoch = 0
        self.iteration = torch.zeros((), dtype=torch.int64, device=self.device)
        self.history = History()
        self.kept = Kept(self.method.state_dict(), spec.own_keep, spec.own_patience)
        self._graphed = self._new_graph()

    def generators(self, purpose: int, device: torch.device | str | None = None) -> list[torch.Generator]:
        """A fresh random stream for each member.

        Args:
            purpose: one of `rme.noise`'s, such as `noise.EVALUATE`.
            device: where it draws; None: where the models are.
        """
        return [noise.generator(m.spec.seed, m.restart, purpose, device or self.device) for m in self.members]

    def _fit_pixels(self, images: Images, splits: Sequence[Split]) -> None:
        """Set each member's per-pixel mean, and start the decoder's variance at that of its training data."""
        for spec, split in zip(self.specs, splits, strict=True):
            rows = [i for i, member in enumerate(self.members) if member.spec.seed == spec.seed]
            mean, variance = pixel_moments(images.train, split.train)
            self.method.pixel_mean[rows] = mean.to(self.method.pixel_mean.dtype)
            self.method.decoder.logvar[rows] = math.log(variance)

    # ------------------------------------------------------------------ training
    def train_epoch(self) -> Tensor:
        """Pass once over every member's training images. Returns the updates' mean losses, (U, B), nats per image."""
        began = time.perf_counter()
        self._learn_at(self.spec.rate_of(self.epoch + 1))
        order = self._next_order()
        total = torch.zeros(len(self.updates), len(self.members), device=self.device, dtype=torch.float64)
        for index in order.split(self.spec.batch_size, dim=1):
            total += self.train_step(index) * index.shape[1]
        losses = (total / order.shape[1]).cpu()
        self.epoch += 1
        self.history.losses.append(losses)
        for measured in (self.history.val_elbo, *self.history.diagnostics.values()):
            measured.append(self._not_measured())
        self.history.seconds.append(time.perf_counter() - began)
        self.history.finished_at.append(time.time())
        return losses

    def _learn_at(self, rate: float) -> None:
        """Set the optimisers' rate; what they have gathered stays."""
        if any(adam.rate != rate for adam in self.optimisers):
            for adam in self.optimisers:
                adam.rate = rate
            self._graphed = self._new_graph()  # the rate is part of what was captured

    def _not_measured(self) -> Tensor:
        return torch.full((len(self.members),), math.nan, dtype=torch.float64)

    def _next_order(self) -> Tensor:
        """Every member's own permutation of its own training images: (B, n), on the device."""
        rows = [
            index[torch.randperm(len(index), generator=g)]
            for index, g in zip(self.train_index, self.order_streams, strict=True)
        ]
        return torch.stack(rows).to(self.device)

    def train_step(self, index: Tensor) -> Tensor:
        """All updates, once, on the images at index (B, N). Returns their losses before each, (U, B).

        On a GPU what is returned is overwritten by the next step.
        """
        return self._step(index) if self._graphed is None else self._graphed(index)

    def _step(self, index: Tensor) -> Tensor:
        # a CUDA graph repeats what the device is told here: nothing may wait for it or depend on Python's state
        with precision.training(self.spec.precision):
            step = Step(self.method.centred(self.pixels[index]), self.noise, self.iteration)
            losses = [self._apply(u, adam, step) for u, adam in zip(self.updates, self.optimisers, strict=True)]
            self.iteration += 1
            return torch.stack(losses)

    def _new_graph(self) -> Graphed[Tensor] | None:
        return Graphed(self._step, self.noise.generators) if self.device.type == "cuda" else None

    def _apply(self, update: Update, adam: Adam, step: Step) -> Tensor:
        with _learning(update.parameters):
            loss = update.loss(step)
            # members share no parameter, so the sum's gradient is each member's own
            gradients = torch.autograd.grad(loss.sum(), update.parameters)
        adam.step(gradients)
        return loss.detach()

    def validate(self) -> Tensor:
        """The validation ELBO now, one draw per image: (B,) nats. Touches no training stream.

        Noted in the history, with the method's diagnostics, and for what each member keeps.
        """
        generators = self.generators(noise.EVALUATE)
        scores = evaluate.scores(self.method, self.pixels, self.val_index, samples=1, generators=generators)
        value = scores.elbo.mean(-1).cpu()
        self.history.val_elbo[-1] = value
        self.kept.measured(self.epoch, value, self.method.state_dict())
        generators = self.generators(noise.EVALUATE)
        own = evaluate.diagnostics(self.method, self.pixels, self.val_index, generators=generators)
        for name, mean in own.items():
            earlier = [self._not_measured() for _ in self.history.val_elbo]
            self.history.diagnostics.setdefault(name, earlier)[-1] = mean.cpu()
        return value

    @property
    def diverged(self) -> Tensor:
        """(B,) whether a member's losses are no longer finite; what became of one after its patience is not asked."""
        finished = self.kept.finished > 0
        if not self.history.losses:
            return torch.zeros_like(finished)
        return ~self.history.losses[-1].isfinite().all(0) & ~finished

    @property
    def goes_on(self) -> bool:
        """Whether any member is still to be trained, having neither diverged nor been finished by its patience."""
        return not (self.diverged | (self.kept.finished > 0)).all()

    def keep(self) -> None:
        """Give each member the parameters that it keeps. At the end: training cannot go on from them."""
        self.kept.put_back(self.method.state_dict())
        self._graphed = self._new_graph()  # what was captured goes, and its memory

    def check_alive(self) -> None:
        """Raise DivergedError once no member's losses are finite any more."""
        if self.diverged.all():
            raise DivergedError(
                f"after epoch {self.epoch} no loss is finite in {', '.join(map(str, self.members))}; "
                f"the learning rate was {self.spec.rate:g}"
            )

    # ------------------------------------------------------------------ state
    def state(self) -> dict[str, Tensor]:
        """Everything that training needs to go on, as named tensors."""
        state = {f"model.{name}": value for name, value in self.method.state_dict().items()}
        for update, adam in zip(self.updates, self.optimisers, strict=True):
            state |= {f"adam.{update.name}.{name}": value for name, value in adam.state().items()}
        state |= {f"kept.{name}": value for name, value in self.kept.state().items()}
        for i, (order, train) in enumerate(zip(self.order_streams, self.noise.generators, strict=True)):
            state |= {f"stream.order.{i}": order.get_state(), f"stream.train.{i}": train.get_state()}
        history = self.history
        state["counters"] = torch.tensor([self.epoch, int(self.iteration)])
        state["history.seconds"] = torch.tensor(history.seconds, dtype=torch.float64)
        state["history.finished_at"] = torch.tensor(history.finished_at, dtype=torch.float64)
        if history.losses:
            state["history.losses"] = torch.stack(history.losses)
            state["history.val_elbo"] = torch.stack(history.val_elbo)
        state |= {f"history.diagnostics.{name}": torch.stack(values) for name, values in history.diagnostics.items()}
        return {name: value.detach() for name, value in state.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state()`. Raises KeyError or RuntimeError when it is another model's."""
        self.method.load_state_dict(_below(state, "model."))
        for update, adam in zip(self.updates, self.optimisers, strict=True):
            adam.load_state(_below(state, f"adam.{update.name}."))
        for m, (order, train) in enumerate(zip(self.order_streams, self.noise.generators, strict=True)):
            order.set_state(state[f"stream.order.{m}"].cpu())
            train.set_state(state[f"stream.train.{m}"].cpu())
        self.kept.load_state(_below(state, "kept."))
        self.epoch, iteration = state["counters"].tolist()
        self.iteration.fill_(iteration)
        self._graphed = self._new_graph()  # what was captured had its streams elsewhere
        self.history = History(
            seconds=state["history.seconds"].tolist(), finished_at=state["history.finished_at"].tolist()
        )
        if self.epoch:
            self.history.losses = list(state["history.losses"].cpu().unbind())
            self.history.val_elbo = list(state["history.val_elbo"].cpu().unbind())
        for name, measured in _below(state, "history.diagnostics.").items():
            self.history.diagnostics[name] = list(measured.cpu().unbind())


@contextmanager
def _learning(parameters: Sequence[torch.nn.Parameter]) -> Iterator[None]:
    """Only these require gradients meanwhile, so nothing is recorded for what stands still."""
    for p in parameters:
        p.requires_grad_(True)
    try:
        yield
    finally:
        for p in parameters:
            p.requires_grad_(False)


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def pixel_moments(pixels: Tensor, index: Tensor) -> tuple[Tensor, float]:
    """Per-pixel mean (C, H, W) of the images at `index`, and the variance about it over all pixels; [0, 1] units.

    Sums are of integers, so they are exact and the same on every machine.
    """
    total = torch.zeros(pixels.shape[1:], dtype=torch.int64)
    squares = torch.zeros(pixels.shape[1:], dtype=torch.int64)
    for part in index.split(max(1, PIXELS_AT_ONCE // pixels[0].numel())):
        values = pixels[part].to(torch.int64)
        total += values.sum(0)
        squares += values.square().sum(0)
    mean = total.double() / len(index)
    variance = (squares.double() / len(index) - mean.square()).mean().item() / 255**2
    return mean / 255, max(variance, 1e-6)


def member_parameters(method: Method, i: int) -> dict[str, Tensor]:
    """Member i's parameters and buffers, name -> (...), without the member axis."""
    return {name: value[i].detach().cpu().clone() for name, value in method.state_dict().items()}
