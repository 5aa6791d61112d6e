"""Compare a VAE's reconstructions and log p(x) with pythae's, for the same weights and test images.

pythae's decoder has a fixed variance of one, ours a learnt s^2, so `get_nll` and `rme.Model.log_likelihood` estimate
log p(x) of two models. They agree after either of two changes:

- Our variance is set to one.
- pythae gets the images in units of s, so that its variance is s^2: log p(x) = get_nll(x / s) - D log s.

What both compute is compared with the same noise first, and a difference beyond float32 rounding is an error. Then
log p(x) is estimated with independent noise by both, called as their documentation does. The VAE is trained by
`rme.fit`, on `--device`; the rest is computed on the CPU. `bench.peers` says how to install pythae.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import rme
from bench import models, plain
from bench.harness import DifferentError, check_close, print_columns
from bench.peers import pythae_models
from rme import data, evaluate, noise
from rme.command_line import whole
from rme.device import device_name
from rme.distributions import standard_normal_log_prob
from rme.model import Model
from rme.noise import Noise

BATCH_SIZE = 100
"""The default of `get_nll`."""

SAME_SAMPLES = 100
"""K with the same noise."""

PRIOR_DRAWS = 20_000
"""Draws of the prior, with which log p(x) is estimated at variance one without the encoder."""

QUICK = {"epochs": 2, "images": 8, "samples": 100, "seeds": 5}
"""Defaults with --quick."""


@dataclass(frozen=True)
class Same:
    """A quantity that both compute from the same noise: the largest absolute value, and absolute difference."""

    what: str
    entries: int
    largest: float
    difference: float


@dataclass(frozen=True)
class Score:
    """log p(x) estimated by both from independent noise, in nats.

    Attributes:
        ours_is, pythae_is: how it was estimated.
        ours, pythae: means over the images and the seeds.
        difference: of pythae's to ours.
        error: the difference's standard error, from its spread over the seeds.
    """

    ours_is: str
    pythae_is: str
    ours: float
    pythae: float
    difference: float
    error: float


# ---------------------------------------------------------------------- with the same noise
def same(model: Model, images: Tensor, samples: int, seed: int = 0) -> Iterator[Same]:
    """Compare networks, reconstructions, samples, and log p(x) of each image with K = `samples`.

    Of the uint8 images (n, C, H, W) the first `evaluate.BLOCK` are used, whose noise we draw at once, as pythae does.
    Raises DifferentError where the two differ by more than float32 rounding.
    """
    images = images[: evaluate.BLOCK]
    x, n = centred(model, images), len(images)
    peer = pythae_models().peer(model.method).eval()

    def drawn(work: Callable[[], Tensor]) -> Tensor:
        return with_noise_of(model, noise.DRAWS, seed, work)

    def shown(output: Tensor) -> Tensor:
        return (output + model.method.pixel_mean[0]).clamp(0, 1)

    with torch.no_grad():
        q, encoded = model.encode(images), peer.encoder(x)
        for what, ours, theirs in (
            ("mean of q(z|x)", q.mean, encoded.embedding),
            ("log-variance of q(z|x)", 2 * q.stddev.log(), encoded.log_covariance),
            ("decoder at that mean: predict", model.decode(q.mean), shown(peer.predict(x).recon_x)),
            ("draws of q(z|x): embed", q.sample(1, seed)[0], drawn(lambda: peer.embed(x))),
            ("decoder at such draws: reconstruct", model.reconstruct(images, seed),
             shown(drawn(lambda: peer.reconstruct(x)))),
            ("decoder at draws of the prior: NormalSampler", model.sample(n, seed),
             shown(drawn(lambda: pythae_models().samples(peer, n)))),
        ):  # fmt: skip
            yield _same(what, ours, theirs, rtol=1e-5, atol=1e-5)
        for ours_is, own, _, theirs_of in equal_models(model):
            # image by image, because pythae draws one image's noise after another's
            alone = images.split(1)
            ours = torch.cat([own.log_likelihood(image, k=samples, seed=seed, progress=False) for image in alone])
            scoring = [partial(theirs_of, centred(model, image), samples) for image in alone]
            theirs = torch.stack([with_noise_of(model, noise.EVALUATE, seed, work) for work in scoring])
            yield _same(f"log p(x), {ours_is}", ours, theirs, rtol=1e-6, atol=1e-3)


def _same(what: str, ours: Tensor, theirs: Tensor, *, rtol: float, atol: float) -> Same:
    check_close(what, ours, theirs, rtol=rtol, atol=atol)
    difference = (ours.double() - theirs.double()).abs().max().item()
    return Same(what, ours.numel(), ours.abs().max().item(), difference)


def with_noise_of(model: Model, purpose: int, seed: int, work: Callable[[], Tensor]) -> Tensor:
    """What `work` returns if torch's default generator is the one that the model uses for this purpose and seed."""
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(noise.generator(seed, model.restart, purpose).get_state())
        return work()


# ---------------------------------------------------------------------- the models that must agree
def equal_models(model: Model) -> Iterator[tuple[str, Model, str, Callable[..., Tensor]]]:
    """Our model and pythae's, changed so that their log p(x) is the same; what each is.

    pythae's is a function of centred images (n, C, H, W), K and a batch size, by default K: the mean log p(x) in nats,
    float64.
    """
    peers = pythae_models()
    peer = peers.peer(model.method).eval()
    yield "variance one", of_variance(model, 1.0), "get_nll", lambda *call: get_nll(peer, *call)

    s = math.sqrt(model.variance)
    in_units = peers.in_units(peer, s)
    constant = math.prod(model.image_shape) * math.log(s)

    def rescaled(x: Tensor, *sizes: int) -> Tensor:
        return get_nll(in_units, x / s, *sizes) - constant

    yield "learnt variance", model, "get_nll of x / s, minus D log s", rescaled


def get_nll(peer: Any, x: Tensor, samples: int, batch_size: int | None = None) -> Tensor:
    """pythae's `get_nll` of centred images (n, C, H, W): the mean of log p(x) (not of -log p(x)) in nats, float64."""
    with torch.no_grad():
        return torch.tensor(peer.get_nll(x, n_samples=samples, batch_size=batch_size or samples), dtype=torch.float64)


def draws(samples: int, batch_size: int = BATCH_SIZE) -> int:
    """K of `get_nll(n_samples=samples, batch_size=batch_size)`: whole batches, and at least one."""
    return batch_size * max(1, samples // batch_size)


def of_variance(model: Model, variance: float) -> Model:
    """A copy of the model with another variance of p(x|z)."""
    found = copy.deepcopy(model)
    with torch.no_grad():
        found.method.decoder.logvar.fill_(math.log(variance))
    return found


def centred(model: Model, images: Tensor) -> Tensor:
    """uint8 images (n, C, H, W) as pythae's copy gets them: in [0, 1], minus the training images' mean."""
    return model.method.centred(images.unsqueeze(0))[0]


# ---------------------------------------------------------------------- with independent noise
def scores(model: Model, images: Tensor, samples: int, seeds: int) -> Iterator[Score]:
    """Estimate the mean log p(x) of the uint8 images (n, C, H, W), with K = `draws(samples)` for both."""
    x, k = centred(model, images), draws(samples)
    (ours_one, one, theirs_one, at_one), (ours_own, _, theirs_own, at_own) = equal_models(model)

    def ours(which: Model, k: int) -> list[float]:
        means = (which.log_likelihood(images, k=k, seed=seed, progress=False).mean() for seed in range(seeds))
        return [float(mean) for mean in means]

    def theirs(which: Callable[..., Tensor], samples: int) -> list[float]:
        found = []
        for seed in range(seeds):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                found.append(float(which(x, samples, BATCH_SIZE)))
        return found

    own, ours_at_one, plain_nll = ours(model, k), ours(one, k), theirs(at_one, samples)
    of_k = f"K = {k}"
    yield score(f"{ours_own}, {of_k}", theirs_one, own, plain_nll)
    yield score(f"{ours_one}, {of_k}", theirs_one, ours_at_one, plain_nll)
    yield score(f"{ours_own}, {of_k}", theirs_own, own, theirs(at_own, samples))
    from_prior = [float(prior_log_likelihood(one, images, PRIOR_DRAWS, seed).mean()) for seed in range(seeds)]
    yield score(f"{ours_one}, {PRIOR_DRAWS:,} draws of the prior", theirs_one, from_prior, plain_nll)
    default = theirs(at_one, 1)
    for few in (1, draws(1)):
        yield score(f"{ours_one}, K = {few}", f"{theirs_one}, n_samples=1", ours(one, few), default)


def score(ours_is: str, pythae_is: str, ours: Sequence[float], theirs: Sequence[float]) -> Score:
    """The score of means over the images, one for each seed."""
    a, b = torch.tensor(ours, dtype=torch.float64), torch.tensor(theirs, dtype=torch.float64)
    error = ((b - a).std() / math.sqrt(len(a))).item()
    return Score(ours_is, pythae_is, a.mean().item(), b.mean().item(), (b - a).mean().item(), error)


@torch.no_grad()
def prior_log_likelihood(model: Model, images: Tensor, count: int, seed: int) -> Tensor:
    """log p(x) of uint8 images (n, C, H, W), estimated as log of the mean p(x|z) over draws of the prior: (n,) float64.

    Also a lower bound in expectation. It is tighter than IWAE where q(z|x) is far narrower than p(z|x), and useless
    where p(x|z) is sharp.
    """
    stream = Noise([noise.generator(seed, model.restart, noise.DRAWS)])
    z = stream.normal((1, count, model.spec.dim))
    joint = evaluate.log_joint_everywhere(model.method, centred(model, images).unsqueeze(0), z)
    given_z = (joint - standard_normal_log_prob(z).unsqueeze(-1))[0].double()
    return given_z.logsumexp(0) - math.log(count)


# ---------------------------------------------------------------------- command line
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.pythae_likelihood", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("--dataset", default="digits", help="what the VAE is trained on (default: %(default)s)")
    parser.add_argument("--data-dir", default="data", metavar="DIR", help="where data sets are (default: %(default)s)")
    parser.add_argument("--dim", type=whole(1), default=10, help="latent dimension (default: %(default)s)")
    parser.add_argument("--epochs", type=whole(1), default=80, help="of the training (default: %(default)s)")
    parser.add_argument("--images", type=whole(1), default=50, help="test images (default: %(default)s)")
    parser.add_argument("--samples", type=whole(1), default=1000, help="n_samples of get_nll (default: %(default)s)")
    parser.add_argument("--seeds", type=whole(2), default=10, help="of the scores (default: %(default)s)")
    parser.add_argument("--seed", type=whole(0), default=0, help="of the training (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="of the training: auto, cpu, cuda or cuda:N")
    quick = ", ".join(f"{name} {value}" for name, value in QUICK.items())
    parser.add_argument("--quick", action="store_true", help=f"about a minute; other defaults: {quick}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there")
    if parser.parse_args(argv).quick:
        parser.set_defaults(**QUICK)
    options = parser.parse_args(argv)
    if options.json is not None and not options.json.parent.is_dir():
        parser.error(f"--json {options.json}: the folder {options.json.parent} does not exist")
    try:
        spec = models.spec("vae", dataset=options.dataset, dim=options.dim, epochs=options.epochs, restarts=1,
                           seed=options.seed)  # fmt: skip
        if models.image_shape(spec) not in plain.ENCODERS:
            valid = ", ".join(map(str, plain.ENCODERS))
            raise ValueError(f"--dataset {options.dataset}: its images are {models.image_shape(spec)}; "
                             f"valid shapes are {valid}")  # fmt: skip
        pythae_models()  # exits if pythae is missing, before the training
        torch.set_num_threads(1)  # the same sums, so the same numbers, on any number of cores
        model = Model.of(rme.fit(spec, data_dir=options.data_dir, device=options.device))
        images = data.get(spec.dataset).load(Path(options.data_dir)).test[: options.images]
        alike = list(same(model, images, SAME_SAMPLES))
        estimates = list(scores(model, images, options.samples, options.seeds))
    except (DifferentError, ValueError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    show(model, alike, estimates)
    if options.json is not None:
        about = {
            "device": device_name(torch.device("cpu")), "torch": torch.__version__, "pythae": version("pythae"),
            "spec": spec.canonical, "variance": model.variance, "images": len(images), "samples": options.samples,
            "seeds": options.seeds, "same": list(map(asdict, alike)), "scores": list(map(asdict, estimates)),
        }  # fmt: skip
        options.json.write_text(json.dumps(about, indent=1) + "\n")


def show(model: Model, alike: Sequence[Same], estimates: Sequence[Score]) -> None:
    """Print both tables."""
    print_columns(
        f"{model.spec.run_name}, variance {model.variance:.4g}: with the same noise",
        ("what", "numbers", "largest", "largest difference"),
        [(a.what, f"{a.entries:,}", f"{a.largest:.4g}", f"{a.difference:.1e}") for a in alike],
    )
    print_columns(
        "Mean log p(x), nats, with independent noise",
        ("ours", "nats", "pythae", "nats", "difference", "standard error"),
        [
            (e.ours_is, f"{e.ours:.2f}", e.pythae_is, f"{e.pythae:.2f}", f"{e.difference:+.3f}", f"{e.error:.3f}")
            for e in estimates
        ],
        left=(0, 2),
    )


if __name__ == "__main__":
    main()
