"""VAE: standard amortised inference, q(z|x) one diagonal Gaussian (Kingma and Welling 2014)."""

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


class VAE(Method):
    """Maximises ELBO(x) = E_q[log p(x|z)] - KL(q(z|x) || p(z)) over encoder and decoder together."""

    name: ClassVar[str] = "vae"
    label: ClassVar[str] = "VAE"

    def __init__(self, spec: RunSpec, image_shape: ImageShape, members: int) -> None:
        super().__init__(spec, image_shape, members)
        self.encoder = nets.Encoder(members, spec.dim, image_shape)

    def posterior(self, x: Tensor, noise: Noise) -> DiagonalGaussian:
        return self.encoder(x)

    def loss(self, step: Step) -> Tensor:
        q = self.encoder(step.x)
        z = q.rsample(step.normal(*q.mu.shape[1:]))
        return -objective.elbo(self.decoder, step.x, q, z).mean(-1)

    def updates(self) -> Sequence[Update]:
        return [Update("vae", [*self.encoder.parameters(), *self.decoder.parameters()], self.loss)]
