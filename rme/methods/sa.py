"""SA: the semi-amortised VAE (Kim, Wiseman, Miller, Sontag and Rush 2018; supplement, section 1.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from rme import nets, objective
from rme.distributions import DiagonalGaussian
from rme.methods.base import Method, Update
from rme.nets import ImageShape
from rme.noise import Noise
from rme.step import Step

if TYPE_CHECKING:
    from rme.config import RunSpec


class SA(Method):
    """The encoder's q(z|x), improved for each image by k steps of stochastic variational inference (SVI).

    With lambda = (mu, logvar), lambda_0 from the encoder and a new z_t ~ q(.; lambda_t) in every step,

        lambda_{t+1} = lambda_t + a d/dlambda [log p(x|z_t) - KL(q(.; lambda_t) || p)],    a = svi_step

    Each step ascends the image's own ELBO. Training minimises -ELBO(lambda_k) over encoder and decoder, with gradients
    through the steps. Test time makes the same steps. The order is k.
    """

    name: ClassVar[str] = "sa"
    label: ClassVar[str] = "SA"
    orders: ClassVar[tuple[int, ...] | None] = (1, 2, 4, 8)
    order_means: ClassVar[str] = "SVI steps"
    options: ClassVar[Mapping[str, float]] = {"svi_step": 1e-3}

    def __init__(self, spec: RunSpec, image_shape: ImageShape, members: int) -> None:
        super().__init__(spec, image_shape, members)
        self.encoder = nets.Encoder(members, spec.dim, image_shape)
        self.steps = self.order
        self.svi_step = {**self.options, **spec.options}["svi_step"]

    def posterior(self, x: Tensor, noise: Noise) -> DiagonalGaussian:
        q = self.encoder(x)
        for _ in range(self.steps):
            with torch.enable_grad():  # `posterior` is called without gradients
                q = DiagonalGaussian(q.mu.detach().requires_grad_(), q.logvar.detach().requires_grad_())
                q = self.ascend(q, x, noise.normal(q.mu.shape))
        return DiagonalGaussian(q.mu.detach(), q.logvar.detach())

    def ascend(self, q: DiagonalGaussian, x: Tensor, eps: Tensor, learning: bool = False) -> DiagonalGaussian:
        """One SVI step from q at the draw given by eps (B, N, p); differentiable if `learning`."""
        elbo = objective.elbo(self.decoder, x, q, q.rsample(eps))
        # the sum has each image's own gradient; a mean would shrink the step with the batch size
        by_mu, by_logvar = torch.autograd.grad(elbo.sum(), [q.mu, q.logvar], create_graph=learning)
        return DiagonalGaussian(q.mu + self.svi_step * by_mu, q.logvar + self.svi_step * by_logvar)

    def loss(self, step: Step) -> Tensor:
        q = self.encoder(step.x)
        shape = q.mu.shape[1:]
        for _ in range(self.steps):
            q = self.ascend(q, step.x, step.normal(*shape), learning=True)
        return -objective.elbo(self.decoder, step.x, q, q.rsample(step.normal(*shape))).mean(-1)

    def updates(self) -> Sequence[Update]:
        return [Update("sa", [*self.encoder.parameters(), *self.decoder.parameters()], self.loss)]
