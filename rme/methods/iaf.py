"""IAF: inverse autoregressive flow (Kingma et al. 2016; supplement, sections 1.1 and 1.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, cast

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

GATE_START = 2.0
"""Added to s, so that an untrained gate is open and the flow starts near the identity (Kingma et al.: +1 or +2)."""


@dataclass(frozen=True)
class Gate:
    """z' = g * z + (1 - g) * m with g = sigmoid(s + 2), and (m_i, s_i) = MADE(z_1..z_{i-1}; context).

    Its Jacobian is triangular with diagonal g: log |det| = sum_i log g_i.

    Shapes: context (B, N, h); z (B, N, p) or (B, S, N, p).
    """

    made: nets.MADE
    context: Tensor

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        m, s = self.made(z, self.context)
        gate = torch.sigmoid(s + GATE_START)
        return gate * z + (1 - gate) * m, F.logsigmoid(s + GATE_START).sum(-1)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Entry by entry, since each needs those before it in the order. Exact but slow; only used by log_prob."""
        before, log_det = torch.zeros_like(z), torch.zeros_like(z[..., 0])
        for i in self.made.order:
            m, s = (value[..., i] for value in self.made(before, self.context))
            gate = torch.sigmoid(s + GATE_START)
            before = before.clone()
            before[..., i] = (z[..., i] - (1 - gate) * m) / gate
            log_det = log_det + F.logsigmoid(s + GATE_START)
        return before, log_det


class IAF(Method):
    """z = f_k(.. f_1(z_0)) with z_0 ~ N(mu(x), diag exp logvar(x)) and gated autoregressive flows f_t.

    Each f_t has its own MADE with 500 hidden units, conditioned on the encoder's last hidden layer. The autoregressive
    order is reversed from one flow to the next, inside the MADE, so the latents are not permuted. Minimises
    -E[log p(x, z) - log q(z|x)] over all parameters; encoder and decoder start from a finished VAE. The order is k.
    """

    name: ClassVar[str] = "iaf"
    label: ClassVar[str] = "IAF"
    orders: ClassVar[tuple[int, ...] | None] = (1, 2, 4, 8)
    order_means: ClassVar[str] = "flows"
    starts_from: ClassVar[str | None] = "vae"

    def __init__(self, spec: RunSpec, image_shape: ImageShape, members: int) -> None:
        super().__init__(spec, image_shape, members)
        self.encoder = nets.Encoder(members, spec.dim, image_shape)
        self.mades = nn.ModuleList(
            nets.MADE(members, spec.dim, self.encoder.width, backwards=t % 2 == 1) for t in range(self.order)
        )

    def posterior(self, x: Tensor, noise: Noise) -> PushForward:
        return self.flow(x)

    def flow(self, x: Tensor) -> PushForward:
        features = self.encoder.features(x)
        gates = [Gate(cast(nets.MADE, made), features) for made in self.mades]
        return PushForward(self.encoder.gaussian(features), gates)

    def loss(self, step: Step) -> Tensor:
        q = self.flow(step.x)
        z, log_q = q.push(q.base.rsample(step.normal(*q.base.mu.shape[1:])))
        return -(objective.log_joint(self.decoder, step.x, z) - log_q).mean(-1)

    def updates(self) -> Sequence[Update]:
        return [Update("iaf", list(self.parameters()), self.loss)]
