"""Inference time: each method's q(z|x) of a batch of 128 images, against the VAE's and against plain modules.

The VAE computes something else; its row gives the method's relative cost, 1 / ratio. A flow gives q(z|x) only through
draws, so it is always timed with one draw. The rows "and a draw" include one for every method.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from bench import models
from bench.harness import Row, Settings, Timer, check_close, compare, main, timed
from bench.steps import has_plain, plain_twin
from rme import noise
from rme.config import RunSpec
from rme.cuda_graph import Graphed
from rme.distributions import DiagonalGaussian, Mixture, Posterior, PushForward
from tune.cost.measure import array_engine


class Inference:
    """Calling it computes q(z|x) of one batch of random images, by an array of untrained models."""

    def __init__(self, run: RunSpec, settings: Settings, members: int, draw: bool = False) -> None:
        self.engine = array_engine(run, settings.image_shape, settings.device, members)
        index = torch.arange(run.batch_size, device=settings.device).expand(members, -1)
        self.x = self.engine.method.centred(self.engine.pixels[index])
        self.draw = draw
        # a CUDA graph, as in `rme.evaluate`: otherwise the time would be that of kernel launches
        on_gpu = settings.device.type == "cuda"
        self.infer: Callable[[Tensor], Posterior] = (
            Graphed(self._infer, self.engine.noise.generators) if on_gpu else self._infer
        )

    @torch.no_grad()
    def __call__(self) -> Posterior:
        return self.infer(self.x)

    def _infer(self, x: Tensor) -> Posterior:
        q = self.engine.method.posterior(x, self.engine.noise)
        if self.draw or isinstance(q, PushForward):
            q.sample(self.engine.noise, 1)
        return q


def inference_rows(run: RunSpec, members: int, settings: Settings, *, draw: bool = False) -> list[Row]:
    """q(z|x) against the VAE's, and of one VAE or RME without a draw also against plain modules; ms of a batch.

    Raises DifferentError if the plain modules give another distribution.
    """
    together = f", {members} together" if members > 1 else ""
    ours = Inference(run, settings, members, draw)
    rivals: dict[str, Timer] = {}
    if run.method != "vae":
        vae = models.spec("vae", dataset=run.dataset, dim=run.dim, decoder=run.decoder)
        rivals[f"VAE{together}"] = timed(Inference(vae, settings, members, draw), settings.device)
    equal = None
    if run.method in ("vae", "rme") and has_plain(run) and members == 1 and not draw:
        plain, equal = _plain(ours)
        rivals["plain eager"] = timed(plain, settings.device)
    name = f"{run.method_label} q(z|x){' and a draw' if draw else ''}{together}"
    return compare(name, timed(ours, settings.device), rivals, rounds=settings.rounds, equal=equal)


def rows(settings: Settings) -> Iterator[Row]:
    """For each method: rows against the VAE, without and with a draw, and one against plain modules."""
    for method, order in settings.methods:
        run = models.spec(method, order, dataset=settings.dataset, dim=settings.dim)
        for members in settings.members:
            for draw in (False, True):
                yield from inference_rows(run, members, settings, draw=draw)


def _plain(ours: Inference) -> tuple[Callable[[], Any], Callable[[], None]]:
    """The plain model's q(z|x), and a check that it is the same distribution; that raises DifferentError."""
    model: Any = plain_twin(ours.engine.method, 0, _draw_nothing)
    x = ours.x[0]

    @torch.no_grad()
    def plain() -> Any:
        if ours.engine.spec.method == "rme":
            return model.encoder_upto_kth(x, model.M)
        return model.head(model.trunk(x)).chunk(2, dim=1)

    def equal() -> None:
        q, theirs = ours(), plain()
        rtol = 1e-4 if x.device.type == "cpu" else 1e-2  # TF32
        if isinstance(q, DiagonalGaussian):
            check_close("mu", q.mu[0], theirs[0], rtol=rtol, atol=rtol)
            check_close("logvar", q.logvar[0], theirs[1], rtol=rtol, atol=rtol)
        else:
            assert isinstance(q, Mixture)
            g = noise.generator(0, 0, noise.EVALUATE, x.device)
            z = torch.randn(len(x), ours.engine.spec.dim, device=x.device, generator=g)
            check_close("log Q(z|x)", q.log_prob(z.unsqueeze(0))[0], theirs.log_prob(z), rtol=rtol)

    return plain, equal


def _draw_nothing(shape: tuple[int, ...]) -> Tensor:
    raise AssertionError("q(z|x) of the plain model drew noise")


if __name__ == "__main__":
    main(rows, __doc__, methods="vae,sa:1,sa:8,iaf:1,iaf:8,hf:8,me:5,rme:2,rme:5",
         quick_methods="vae,sa:8,iaf:8,rme:5")  # fmt: skip
