"""NAME: one line that says what it is (Author and Author YEAR; where in the supplement).

Copy this file to `rme/methods/<name>.py`, without the underscore, and make it yours. It is found by being there:
grids, tables, the command line and the shared tests of all methods pick it up. As it stands it is a VAE whose KL term
has a weight beta, to be deleted as you go.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from rme import nets, objective
from rme.distributions import DiagonalGaussian
from rme.methods.base import Method, Update
from rme.noise import Noise
from rme.step import Step


class Template(Method):
    """The objective as a formula: E_q[log p(x|z)] - beta KL(q(z|x) || p(z)).

    Everything carries the member axis B first (images (B, N, C, H, W), latents (B, N, p), losses (B,)), but only the
    layers of `rme.nets` need to know: write the mathematics on the trailing axes.
    """

    name: ClassVar[str] = "template"  # what grids say, lower case
    label: ClassVar[str] = "Template"  # what tables print
    orders: ClassVar[tuple[int, ...] | None] = None  # e.g. (1, 2, 4, 8), with order_means = "flows"
    starts_from: ClassVar[str | None] = None  # "vae": encoder and decoder start from the finished VAE's
    stage_rate: ClassVar[float] = 5e-4  # of such a start: Adam's rate from there on, unless a grid says another
    options: ClassVar[dict[str, float]] = {"beta": 1.0}  # `--set options.beta=4`; read as self.beta below

    def __init__(self, spec, image_shape, members) -> None:
        super().__init__(spec, image_shape, members)  # makes self.decoder
        self.encoder = nets.Encoder(members, spec.dim, image_shape)
        self.beta = {**self.options, **spec.options}["beta"]

    def posterior(self, x: Tensor, noise: Noise) -> DiagonalGaussian:
        """q(z|x) at test time: an object with `sample(noise, S)` and `log_prob(z)`, as in `rme.distributions`."""
        return self.encoder(x)

    def loss(self, step: Step) -> Tensor:
        """(B,), nats per image. Noise comes from `step.normal(...)` alone, never from torch.randn."""
        q = self.encoder(step.x)
        z = q.rsample(step.normal(*q.mu.shape[1:]))
        elbo = objective.elbo(self.decoder, step.x, q, z) + (1 - self.beta) * objective.kl_to_prior(q)
        return -elbo.mean(-1)

    def updates(self) -> Sequence[Update]:
        """In the order in which they are made; each minimises its loss over its own parameters."""
        return [Update("vae", [*self.encoder.parameters(), *self.decoder.parameters()], self.loss)]
