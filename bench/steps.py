"""Training steps for benchmarks: the engine's, and the same step written with plain PyTorch modules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bench import models, plain
from bench.harness import check_close
from rme import noise
from rme.config import RunSpec
from rme.engine import Engine
from rme.methods.base import Method
from tune.cost.measure import EngineStep


def has_plain(run: RunSpec) -> bool:
    """Whether `bench.plain` has the step of this run's method: with convolutions, for the tables' image shapes."""
    known = run.method in ("rme", *plain.MODELS) and run.decoder == "conv"
    return known and models.image_shape(run) in plain.ENCODERS


class PlainStep:
    """A training step of one model in plain modules, with the parameters and the noise of an engine's member 0.

    Calling it makes one step and returns the losses, each before its update: (U,).
    """

    def __init__(self, start: Engine) -> None:
        self.run = start.spec
        self.pixels = start.pixels
        self.pixel_mean = start.method.pixel_mean[0]
        self.index = torch.arange(self.run.batch_size, device=start.device)
        stream = noise.generator(self.run.seed, 0, noise.TRAIN, start.device)

        def draw(shape: tuple[int, ...]) -> Tensor:
            return torch.randn(shape, dtype=self.pixel_mean.dtype, device=self.pixel_mean.device, generator=stream)

        self.model = plain_twin(start.method, 0, draw)
        self._step = self._stepper(draw)

    def _stepper(self, draw: plain.Draw) -> Callable[[Tensor], Tensor]:
        rate, model = self.run.rate, self.model
        if isinstance(model, plain.RecMixVAE):
            parts = {part: torch.optim.Adam(part.parameters(), lr=rate) for part in model.parts()}
            return lambda x: plain.pseudocode_step(model, parts, x, self.run.kl_max)[0]
        assert isinstance(model, plain.PlainVAE)
        adam = torch.optim.Adam(model.parameters(), lr=rate)
        return lambda x: plain.training_step(model, adam, x, draw).unsqueeze(0)

    def __call__(self) -> Tensor:
        x = self.pixels[self.index].to(self.pixel_mean.dtype) / 255 - self.pixel_mean
        return self._step(x)


def plain_twin(method: Method, i: int, draw: plain.Draw) -> nn.Module:
    """Member i of an array as a plain model with the same weights. Raises KeyError if `bench.plain` has none."""
    array: Any = method
    run, shape = method.spec, method.decoder.image_shape
    model: nn.Module
    if run.method == "rme":
        assert run.order is not None
        model = plain.RecMixVAE(run.dim, shape, run.order, run.eps_min, run.eps_max, draw)
        logvar = model.decoder.logvar
        pairs = list(zip([*array.components, *array.impacts, array.decoder], model.parts(), strict=True))
    else:
        order: dict[str, Any] = {} if run.order is None else {"order": run.order}
        model = plain.MODELS[run.method](run.dim, shape, **order)
        logvar = model.logvar
        pairs = [(array.encoder, nn.ModuleList([model.trunk, model.head])), (array.decoder, model.decoder)]
        pairs += [(getattr(array, part), getattr(model, part)) for part in ("vectors", "mades") if hasattr(model, part)]
    model.to(method.pixel_mean)
    for theirs, own in pairs:
        plain.copy_member(theirs, i, own)
    with torch.no_grad():
        logvar.copy_(method.decoder.logvar[i])
    return model


def engine_step(**arguments: Any) -> EngineStep:
    """The engine's step of one model on the CPU, for `bench.child`; arguments as of `models.spec`."""
    run = models.spec(**arguments)
    return EngineStep(run, models.image_shape(run), torch.device("cpu"))


def plain_step(**arguments: Any) -> PlainStep:
    """The plain step of the same model as `engine_step`."""
    return PlainStep(engine_step(**arguments).engine)


def check_same_steps(ours: EngineStep, theirs: PlainStep, *, steps: int = 2) -> None:
    """Make some steps of both; raise DifferentError if losses, or parameters after the first step, differ.

    In float32, losses must agree to 1e-5, but changes of parameters only to 2%: Adam divides small gradients by
    moments that are as small, which amplifies rounding.
    """
    exact = ours.engine.spec.precision == "float64"
    tf32 = ours.engine.device.type == "cuda"
    loss_rtol, step_rtol = (1e-11, 1e-6) if exact else (2e-3, 0.5) if tf32 else (1e-5, 0.02)
    before = {name: p.detach().clone() for name, p in theirs.model.named_parameters()}
    for step in range(steps):
        ours_losses, their_losses = ours()[:, 0], theirs()
        check_close(f"losses of step {step}", ours_losses, their_losses, rtol=loss_rtol, atol=0)
        if step == 0:
            twin = dict(plain_twin(ours.engine.method, 0, _draw_nothing).named_parameters())
            for name, p in theirs.model.named_parameters():
                change, wanted = twin[name] - before[name], p.detach() - before[name]
                difference = (change - wanted).norm() / wanted.norm()
                check_close(f"the first step of {name}", difference, torch.zeros(()), rtol=0, atol=step_rtol)


def _draw_nothing(shape: tuple[int, ...]) -> Tensor:
    raise AssertionError("no noise is drawn here")
