"""HF: Householder flow (Tomczak and Welling 2016; supplement, sections 1.1 and 1.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rme import nets, objective
from rme.distributions import PushForward
from rme.methods.base import Method, Update
from rme.nets import ImageShape
from rme.noise import Noise
from rme.step import Step

if TYPE_CHECKING:
    from rme.config import RunSpec


@dataclass(frozen=True)
class Reflection:
    """z' = H z with H = I - 2 v v' / |v|^2, which is orthogonal and its own inverse: |det H| = 1.

    Shapes: v (*, N, p); z (*, N, p) or (*, S, N, p).
    """

    v: Tensor

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        unit = F.normalize(self.v, dim=-1)
        if z.dim() > unit.dim():
            unit = unit.unsqueeze(-3)
        return z - 2 * unit * (unit * z).sum(-1, keepdim=True), torch.zeros_like(z[..., 0])

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return self.forward(z)


class HF(Method):
    """z = H_k .. H_1 z_0 with z_0 ~ N(mu(x), diag exp logvar(x)): a Gaussian with full covariance H diag(sigma^2) H'.

    v_1 is linear in the encoder's last hidden layer, and v_t in v_{t-1}. The prior is spherically symmetric,
    so KL(q || p) is that of the base, in closed form. Minimises -ELBO over all parameters; encoder and decoder start
    from a finished VAE. The order is k.
    """

    name: ClassVar[str] = "hf"
    label: ClassVar[str] = "HF"
    orders: ClassVar[tuple[int, ...] | None] = (1, 2, 4, 8)
    order_means: ClassVar[str] = "flows"
    starts_from: ClassVar[str | None] = "vae"

    def __init__(self, spec: RunSpec, image_shape: ImageShape, members: int) -> None:
        super().__init__(spec, image_shape, members)
        self.encoder = nets.Encoder(members, spec.dim, image_shape)
        widths = [self.encoder.width] + [spec.dim] * (self.order - 1)
        self.vectors = nn.ModuleList(nets.Network(nets.Linear(members, width, spec.dim)) for width in widths)

    def posterior(self, x: Tensor, noise: Noise) -> PushForward:
        return self.flow(x)

    def flow(self, x: Tensor) -> PushForward:
        v = features = self.encoder.features(x)
        reflections = []
        for linear in self.vectors:
            v = linear(v)
            reflections.append(Reflection(v))
        return PushForward(self.encoder.gaussian(features), reflections)

    def loss(self, step: Step) -> Tensor:
        q = self.flow(step.x)
        z, _ = q.push(q.base.rsample(step.normal(*q.base.mu.shape[1:])))
        return -objective.elbo(self.decoder, step.x, q.base, z).mean(-1)

    def updates(self) -> Sequence[Update]:
        return [Update("hf", list(self.parameters()), self.loss)]
