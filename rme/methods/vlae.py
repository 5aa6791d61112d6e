"""VLAE: the variational Laplace autoencoder (Park, Kim and Kim 2019; supplement, sections 1.3 and 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import torch
from torch import Tensor

from rme import nets, objective
from rme.distributions import FullGaussian
from rme.methods.base import Method, Update
from rme.nets import ImageShape
from rme.noise import Noise
from rme.step import Step

if TYPE_CHECKING:
    from rme.config import RunSpec


class Linearisation(NamedTuple):
    """A ReLU decoder linearised at mu: g(z) = W z + b nearby, W = W3 D2 W2 D1 W1, with D diagonal, 1 for active units.

    Attributes:
        mean: g(mu), (B, N, pixels).
        tangents: (D2 W2 D1 W1)', (B, N, p, width). W itself, with a row per pixel, is never computed.
    """

    mean: Tensor
    tangents: Tensor


class VLAE(Method):
    """q(z|x) = N(mu_k, (W_k'W_k / s^2 + I)^-1): the Laplace approximation of p(z|x) at a mode found by k steps.

    A ReLU decoder is piecewise linear. With W_t its Jacobian at mu_t, the posterior of the linear model has
    precision P_t = W_t'W_t / s^2 + I and mean mu_t + P_t^-1 (W_t'(x - g(mu_t)) / s^2 - mu_t). Damped steps towards it:

        mu_{t+1} = mu_t + a_t P_t^-1 (W_t'(x - g(mu_t)) / s^2 - mu_t),    a_t = 0.5 / (t + 1), t = 0..k-1

    mu_0 comes from the encoder, which has no variance head. Minimises -ELBO over encoder and decoder, with gradients
    through all steps; without damping the encoder would get none. Test time makes the same steps. The order is k.
    """

    name: ClassVar[str] = "vlae"
    label: ClassVar[str] = "VLAE"
    orders: ClassVar[tuple[int, ...] | None] = (1, 2, 4, 8)
    order_means: ClassVar[str] = "linearisation steps"
    decoders: ClassVar[tuple[str, ...]] = ("fc",)

    def __init__(self, spec: RunSpec, image_shape: ImageShape, members: int) -> None:
        super().__init__(spec, image_shape, members)
        self.encoder = nets.PointEncoder(members, spec.dim, image_shape)
        self.steps = self.order

    def posterior(self, x: Tensor, noise: Noise) -> FullGaussian:
        return self.laplace(x)

    def laplace(self, x: Tensor) -> FullGaussian:
        """q(z|x), differentiable in all parameters."""
        last = self.layers()[-1].weight
        gram = last.mT @ last  # W3'W3, (B, width, width)
        precision_of_x = torch.exp(-self.decoder.logvar).view(-1, 1, 1)  # 1 / s^2
        mu = self.encoder(x)
        for t in range(self.steps):
            mean, tangents = self.linearise(mu)
            residual = (x.flatten(2) - mean) @ last  # W3'(x - g(mu)), (B, N, width)
            gradient = precision_of_x * (tangents @ residual.unsqueeze(-1)).squeeze(-1) - mu
            lower = self.precision_cholesky(tangents, gram)
            # not cholesky_solve, whose batched form synchronises with the GPU in some releases of torch
            whitened = torch.linalg.solve_triangular(lower, gradient.unsqueeze(-1), upper=False)
            to_mode = torch.linalg.solve_triangular(lower.mT, whitened, upper=True)
            mu = mu + 0.5 / (t + 1) * to_mode.squeeze(-1)
        return FullGaussian(mu, self.precision_cholesky(self.linearise(mu).tangents, gram))

    def layers(self) -> list[nets.Linear]:
        """The decoder's three layers: W1, W2, W3."""
        return [layer for layer in self.decoder.mean if isinstance(layer, nets.Linear)]

    def linearise(self, mu: Tensor) -> Linearisation:
        """The decoder linearised at mu (B, N, p)."""
        first, second, last = self.layers()
        before = first(mu)
        tangents = first.weight.mT.unsqueeze(1) * (before > 0).unsqueeze(-2)  # (B, N, p, width)
        before = second(torch.relu(before))
        # flatten images and latents into one axis, so that all members' products are one batched kernel
        tangents = (tangents.flatten(1, 2) @ second.weight.mT).unflatten(1, mu.shape[1:])
        tangents = tangents * (before > 0).unsqueeze(-2)
        return Linearisation(last(torch.relu(before)), tangents)

    def precision_cholesky(self, tangents: Tensor, gram: Tensor) -> Tensor:
        """The Cholesky factor of W'W / s^2 + I: (B, N, p, p)."""
        through = (tangents.flatten(1, 2) @ gram).unflatten(1, tangents.shape[1:3])
        identity = torch.eye(tangents.shape[-2], dtype=tangents.dtype, device=tangents.device)
        precision = torch.exp(-self.decoder.logvar).view(-1, 1, 1, 1) * (through @ tangents.mT) + identity
        # cholesky_ex, because cholesky checks its result, which synchronises with the GPU
        return torch.linalg.cholesky_ex(precision).L

    def loss(self, step: Step) -> Tensor:
        q = self.laplace(step.x)
        z = q.rsample(step.normal(*q.mu.shape[1:]))
        return -objective.elbo(self.decoder, step.x, q, z).mean(-1)

    def updates(self) -> Sequence[Update]:
        return [Update("vlae", list(self.parameters()), self.loss)]
