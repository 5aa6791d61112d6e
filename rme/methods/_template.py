"""NAME: what it is, in one line (Author and Author YEAR; section of the supplement).

Copy this file to `rme/methods/<name>.py` (no underscore) and edit it. Grids, tables, the command line and the shared
tests of all methods find it there. The example is a VAE whose KL term has a weight beta; replace it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from rme import nets, objective
from rme.distributions import DiagonalGaussian
from rme.methods.base import Method, Update
from rme.nets import ImageShape
from rme.noise import Noise
from rme.step import Step

if TYPE_CHECKING:
    from rme.config import RunSpec


class Template(Method):
    """The objective as a formula: E_q[log p(x|z)] - beta KL(q(z|x) || p(z)).

    Every tensor carries the member axis B first (images (B, N, C, H, W), latents (B, N, p), losses (B,)), but only the
    layers of `rme.nets` treat it specially: write the mathematics on the trailing axes.
    """

    name: ClassVar[str] = "template"  # in grids, lower case
    label: ClassVar[str] = "Template"  # in tables
    orders: ClassVar[tuple[int, ...] | None] = None  # e.g. (1, 2, 4, 8), with order_means = "flows"
    starts_from: ClassVar[str | None] = None  # "vae": encoder and decoder start from the finished VAE
    stage_rate: ClassVar[float] = 5e-4  # then Adam's rate after that start; a grid's stage_learning_rate overrides it
    options: ClassVar[dict[str, float]] = {"beta": 1.0}  # self.beta below; `--set options.beta=4` overrides it

    def __init__(self, spec: RunSpec, image_shape: ImageShape, members: int) -> None:
        super().__init__(spec, image_shape, members)  # makes self.decoder
        self.encoder = nets.Encoder(members, spec.dim, image_shape)
        self.beta = {**self.options, **spec.options}["beta"]

    def posterior(self, x: Tensor, noise: Noise) -> DiagonalGaussian:
        """q(z|x) at test time: a `Posterior`, with `sample(noise, S)` and `log_prob(z)`, see `rme.distributions`."""
        return self.encoder(x)

    def loss(self, step: Step) -> Tensor:
        """(B,), nats per image. Draw noise only by `step.normal(...)`, never by torch.randn."""
        q = self.encoder(step.x)
        z = q.rsample(step.normal(*q.mu.shape[1:]))
        elbo = objective.elbo(self.decoder, step.x, q, z) + (1 - self.beta) * objective.kl_to_prior(q)
        return -elbo.mean(-1)

    def updates(self) -> Sequence[Update]:
        """In order of execution; each minimises its loss over its own parameters."""
        return [Update("vae", [*self.encoder.parameters(), *self.decoder.parameters()], self.loss)]
