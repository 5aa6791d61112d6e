"""ME: a mixture encoder trained end to end (Kim and Pavlovic 2020, their baseline; supplement, 1.1 and 1.3)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from rme import diagnostics, nets, objective
from rme.distributions import Mixture
from rme.methods.base import Method, Update, copy_parameters
from rme.nets import ImageShape
from rme.noise import Noise
from rme.step import Step

if TYPE_CHECKING:
    from rme.config import RunSpec


class ME(Method):
    """Q(z|x) = sum_k alpha_k(x) q_k(z|x) as in RME, but with all parameters learnt jointly.

    alpha(x) is the softmax of a network with one hidden layer of 10. The single update minimises -ELBO(Q) over
    components, weights and decoder. Component 0 and the decoder start from a finished VAE, the other components at
    random: identical components would have identical gradients in expectation. The order is the number of components.
    """

    name: ClassVar[str] = "me"
    label: ClassVar[str] = "ME"
    orders: ClassVar[tuple[int, ...] | None] = (2, 3, 4, 5)
    order_means: ClassVar[str] = "components"
    starts_from: ClassVar[str | None] = "vae"

    def __init__(self, spec: RunSpec, image_shape: ImageShape, members: int) -> None:
        super().__init__(spec, image_shape, members)
        self.components = nn.ModuleList(nets.Encoder(members, spec.dim, image_shape) for _ in range(self.order))
        self.weights = nets.Network(
            nets.Flatten(), nets.Linear(members, math.prod(image_shape), 10), nn.ReLU(),
            nets.Linear(members, 10, self.order),
        )  # fmt: skip

    def start_from(self, parent: Mapping[str, Tensor]) -> None:
        super().start_from(parent)
        copy_parameters(self.components[0], parent, "encoder")

    def posterior(self, x: Tensor, noise: Noise) -> Mixture:
        return self.mixture(x)

    def mixture(self, x: Tensor) -> Mixture:
        return Mixture(torch.log_softmax(self.weights(x), -1).mT, nets.side_by_side(self.components, x))

    def diagnostics(self, x: Tensor, noise: Noise) -> Mapping[str, Tensor]:
        return diagnostics.of_mixture(self.decoder, x, self.mixture(x), noise)

    def loss(self, step: Step) -> Tensor:
        q = self.mixture(step.x)
        z = q.rsample_each(step.normal(*q.components.mu.shape[1:]))
        return -objective.elbo_of_mixture(self.decoder, step.x, q, z).mean(-1)

    def updates(self) -> Sequence[Update]:
        return [Update("me", list(self.parameters()), self.loss)]
