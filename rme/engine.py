"""The engine: trains an array of B members, models of the same cell, in one program.

Only the engine handles optimisers, gradients, random streams, batching and precision. A single run is an array of its
restarts, so there is one code path.
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
"""How many pixels are summed at a time: 128 MB of integers."""


class DivergedError(RuntimeError):
    """The losses of a training, or the scores of a run's restarts, are no longer finite."""


@dataclass(frozen=True)
class Member:
    """One model being trained: a run and one of its restarts."""

    spec: RunSpec
    restart: int

    def __str__(self) -> str:
        return f"{self.spec.run_name} restart {self.restart}"


def all_members(specs: Sequence[RunSpec]) -> list[Member]:
    """All restarts of these runs, run by run."""
    return [Member(spec, restart) for spec in specs for restart in range(spec.restarts)]


@dataclass
class History:
    """What was measured in training; each list has an entry for each epoch.

    Attributes:
        losses: the updates' mean losses, (U, B) in nats per image.
        val_elbo: the validation ELBO, (B,) in nats per image; NaN if not measured after this epoch.
        diagnostics: the method's diagnostics by name, (B,); NaN if not measured after this epoch. A diagnostic that was
            never measured is missing.
        seconds: wall time of the epoch, s.
        finished_at: end of the epoch, s since 1970.
    """

    losses: list[Tensor] = field(default_factory=list)
    val_elbo: list[Tensor] = field(default_factory=list)
    diagnostics: dict[str, list[Tensor]] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    finished_at: list[float] = field(default_factory=list)


class Engine:
    """An array of members in training.

    Args:
        specs: runs of one cell, which differ only in the seed; the members are their restarts, run by run.
        images: the data set's images, on the CPU.
        splits: for each run its train/validation/test indices.
        device: where to train.
        parents: the finished parameters that the members start from, name -> (B, ...); None for methods from scratch.
        members: the restarts that the array contains; None: all.

    Raises:
        ValueError: the runs are of several cells; parents are missing, or given for a method from scratch.
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
        self.stopped = False
        self.kept = Kept(self.method.state_dict(), spec.own_keep, spec.own_patience)
        self._graphed = self._new_graph()

    def generators(self, purpose: int, device: torch.device | str | None = None) -> list[torch.Generator]:
        """A fresh random stream for each member.

        Args:
            purpose: one of `rme.noise`'s, such as `noise.EVALUATE`.
            device: of the generators; None: the models' device.
        """
        return [noise.generator(m.spec.seed, m.restart, purpose, device or self.device) for m in self.members]

    def _fit_pixels(self, images: Images, splits: Sequence[Split]) -> None:
        """Set each member's per-pixel mean, and initialise the decoder's variance, from its training images."""
        for spec, split in zip(self.specs, splits, strict=True):
            rows = [i for i, member in enumerate(self.members) if member.spec.seed == spec.seed]
            mean, variance = pixel_moments(images.train, split.train)
            self.method.pixel_mean[rows] = mean.to(self.method.pixel_mean.dtype)
            self.method.decoder.logvar[rows] = math.log(variance)

    # ------------------------------------------------------------------ training
    def train_epoch(self) -> Tensor:
        """Train for one epoch. Returns the updates' mean losses, (U, B) in nats per image."""
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
        """Set the optimisers' learning rate, and keep their moments."""
        if any(adam.rate != rate for adam in self.optimisers):
            for adam in self.optimisers:
                adam.rate = rate
            self._graphed = self._new_graph()  # the rate is captured in the graph

    def _not_measured(self) -> Tensor:
        return torch.full((len(self.members),), math.nan, dtype=torch.float64)

    def _next_order(self) -> Tensor:
        """A random permutation of each member's training images: (B, n) indices, on the device."""
        rows = [
            index[torch.randperm(len(index), generator=g)]
            for index, g in zip(self.train_index, self.order_streams, strict=True)
        ]
        return torch.stack(rows).to(self.device)

    def train_step(self, index: Tensor) -> Tensor:
        """Apply each update once, on the images at index (B, N). Returns the losses, each before its update: (U, B).

        On a GPU the next step overwrites the returned tensor.
        """
        return self._step(index) if self._graphed is None else self._graphed(index)

    def _step(self, index: Tensor) -> Tensor:
        # captured as a CUDA graph: nothing here may wait for the device or depend on changing Python state
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
            # members share no parameters, so the gradient of the sum is each member's own gradient
            gradients = torch.autograd.grad(loss.sum(), update.parameters)
        adam.step(gradients)
        return loss.detach()

    def validate(self) -> Tensor:
        """Measure the validation ELBO with one draw per image: (B,) nats per image. Uses no training stream.

        It is recorded in the history, with the method's diagnostics, and decides which epoch each member keeps.
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
        """(B,) whether a member's losses are no longer finite; False for a member that its patience has finished."""
        finished = self.kept.finished > 0
        if not self.history.losses:
            return torch.zeros_like(finished)
        return ~self.history.losses[-1].isfinite().all(0) & ~finished

    @property
    def goes_on(self) -> bool:
        """Whether any member still trains: one that has neither diverged nor been finished by its patience."""
        return not self.stopped and not bool((self.diverged | (self.kept.finished > 0)).all())

    def stop(self) -> None:
        """End the training after this epoch, as if it were the last. A measurement that is missing is made."""
        if not self.stopped and self.history.val_elbo and self.history.val_elbo[-1].isnan().all():
            self.validate()
        self.stopped = True

    def keep(self) -> None:
        """Set each member to the parameters that it keeps. Only at the end: training cannot continue afterwards."""
        self.kept.put_back(self.method.state_dict())
        self._graphed = self._new_graph()  # frees the captured graph's memory

    def check_alive(self) -> None:
        """Raise DivergedError if all members have diverged."""
        if self.diverged.all():
            raise DivergedError(
                f"after epoch {self.epoch} no loss is finite in {', '.join(map(str, self.members))}; "
                f"the learning rate was {self.spec.rate:g}"
            )

    # ------------------------------------------------------------------ state
    def state(self) -> dict[str, Tensor]:
        """Everything that is needed to resume the training, as named tensors."""
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
        """Restore `state()`. Raises KeyError or RuntimeError if it is another model's."""
        self.method.load_state_dict(_with_prefix(state, "model."))
        for update, adam in zip(self.updates, self.optimisers, strict=True):
            adam.load_state(_with_prefix(state, f"adam.{update.name}."))
        for m, (order, train) in enumerate(zip(self.order_streams, self.noise.generators, strict=True)):
            order.set_state(state[f"stream.order.{m}"].cpu())
            train.set_state(state[f"stream.train.{m}"].cpu())
        self.kept.load_state(_with_prefix(state, "kept."))
        self.epoch, iteration = state["counters"].tolist()
        self.iteration.fill_(iteration)
        self._graphed = self._new_graph()  # the captured random streams have been replaced
        self.history = History(
            seconds=state["history.seconds"].tolist(), finished_at=state["history.finished_at"].tolist()
        )
        if self.epoch:
            self.history.losses = list(state["history.losses"].cpu().unbind())
            self.history.val_elbo = list(state["history.val_elbo"].cpu().unbind())
        for name, measured in _with_prefix(state, "history.diagnostics.").items():
            self.history.diagnostics[name] = list(measured.cpu().unbind())


@contextmanager
def _learning(parameters: Sequence[torch.nn.Parameter]) -> Iterator[None]:
    """Require gradients of only these parameters in the block, so that autograd records nothing for frozen ones."""
    for p in parameters:
        p.requires_grad_(True)
    try:
        yield
    finally:
        for p in parameters:
            p.requires_grad_(False)


def _with_prefix(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def pixel_moments(pixels: Tensor, index: Tensor) -> tuple[Tensor, float]:
    """Per-pixel mean (C, H, W) of the images at `index`, and the mean over pixels of their variance; [0, 1] units.

    The sums are of integers, so they are exact and the same on every machine.
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
