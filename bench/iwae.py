"""Time of test log-likelihoods: IWAE with K samples, ms per image, against a plain loop over decoder passes.

Everything is float32. The plain loop uses the same noise, and must agree within 1e-3 nats for every image. Methods
other than the VAE are timed against the VAE, which gives their relative cost.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from bench import models, plain
from bench.flops import iwae_cost
from bench.harness import Row, Settings, Timer, check_close, compare, main, timed
from bench.roofline import Peak, measured_peak
from bench.steps import plain_twin
from rme import evaluate, noise, precision
from rme.config import RunSpec
from rme.untrained import random_images
from tune.cost.measure import array_engine

NATS = 1e-3
"""Largest allowed difference between the two estimates of an image."""


class Scoring:
    """Calling it returns the IWAE of random images by untrained models, (B, n), in nats."""

    def __init__(self, run: RunSpec, settings: Settings, images: int, samples: int, members: int = 1) -> None:
        self.samples, self.members = samples, members
        pixels = random_images(images, settings.image_shape)
        self.engine = array_engine(run, settings.image_shape, settings.device, members, pixels=pixels)
        self.index = torch.arange(images, device=settings.device).expand(members, -1)

    def __call__(self) -> Tensor:
        generators = [noise.generator(i, 0, noise.EVALUATE, self.engine.device) for i in range(self.members)]
        return evaluate.scores(
            self.engine.method, self.engine.pixels, self.index, samples=self.samples, generators=generators
        ).iwae


class PlainScoring:
    """The same for one VAE by `plain.iwae`: calling it returns (n,)."""

    def __init__(self, ours: Scoring) -> None:
        self.ours, self.engine = ours, ours.engine
        self.model: Any = plain_twin(ours.engine.method, 0, lambda shape: torch.zeros(shape))

    @precision.scoring()
    def __call__(self) -> Tensor:
        stream = noise.generator(0, 0, noise.EVALUATE, self.engine.device)
        scores = []
        for part in self.ours.index[0].split(evaluate.BLOCK):
            x = self.engine.pixels[part].float() / 255 - self.engine.method.pixel_mean[0]
            shape = (self.ours.samples, len(part), self.engine.spec.dim)
            eps = torch.randn(shape, device=x.device, generator=stream)
            scores.append(plain.iwae(self.model, x, eps))
        return torch.cat(scores)


def iwae_rows(
    run: RunSpec, members: int, settings: Settings, images: int, samples: int, peak: Peak | None = None
) -> list[Row]:
    """One VAE against the plain loop; another method, or an array, against the VAE. In ms per image.

    Raises DifferentError if the plain loop's estimate of an image differs by more than `NATS`.
    """

    def each(work: Callable[[], Tensor], members: int = 1) -> Timer:
        timer = timed(work, settings.device)
        return lambda: timer() / (images * members)

    ours = Scoring(run, settings, images, samples, members)
    equal: Callable[[], None] | None = None
    if run.method == "vae" and members == 1:
        plain_loop = PlainScoring(ours)
        rivals = {"plain loop": each(plain_loop)}

        def close() -> None:
            check_close("log p(x), nats", ours()[0], plain_loop(), rtol=0, atol=NATS)

        equal = close
    else:
        vae = models.spec("vae", dataset=run.dataset, dim=run.dim)
        rivals = {"VAE": each(Scoring(vae, settings, images, samples))}
    cost = iwae_cost(run, settings.image_shape, images, samples)
    return compare(
        f"{run.method_label} IWAE, K={samples}" + (f", {members} together" if members > 1 else ""),
        each(ours, members),
        rivals,
        rounds=settings.rounds,
        equal=equal,
        roofline_s=None if peak is None else peak.seconds(cost) / images,
    )


def rows(settings: Settings) -> Iterator[Row]:
    """The VAE against the plain loop; every other method, and every array, against the VAE."""
    images = settings.options["images"] or (64 if settings.quick else 512)
    samples = settings.options["samples"]
    peak = measured_peak(settings.device, quick=settings.quick)
    for method, order in settings.methods:
        run = models.spec(method, order, dataset=settings.dataset, dim=settings.dim)
        for members in settings.members:
            for row in iwae_rows(run, members, settings, images, samples, peak):
                yield row
                print(f"{row.name}: {1e3 / row.median_ms:.4g} images/s, {row.rival}: {1e3 / row.rival_median_ms:.4g}")


def options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command alone."""
    parser.add_argument("--images", type=int, help="number of images (default: 512; with --quick: 64)")
    parser.add_argument("--samples", type=int, default=100, help="K (default: %(default)s)")


if __name__ == "__main__":
    main(rows, __doc__, methods="vae,rme:5,iaf:8", quick_methods="vae", options=options)
