"""RME: the recursive mixture encoder (Kim and Pavlovic 2020; supplement, section 4)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from rme import diagnostics, nets, objective
from rme.distributions import DiagonalGaussian, Mixture, stack
from rme.methods.base import Method, Update, copy_parameters
from rme.nets import ImageShape
from rme.noise import Noise
from rme.step import Step

if TYPE_CHECKING:
    from rme.config import RunSpec


class RecursiveMixture(Method):
    """Q_M(z|x) = sum_m alpha_m(x) q_m(z|x): each component is trained to differ from the mixture of those before it.

    With eps_0 = 1 and eps_m(x) in (eps_min, eps_max), Q_m = (1 - eps_m) Q_{m-1} + eps_m q_m, hence
    alpha_m = eps_m prod_{j > m} (1 - eps_j). One step makes the updates of the supplement's pseudocode:

        q_0:      minimise -ELBO(q_0)
        for m = 1..M:
            q_m:    minimise -ELBO(q_m) + regulariser(q_m)
            eps_m:  minimise -ELBO(Q_m)
        decoder:  minimise -ELBO(Q_M)

    All components and the decoder start from a finished VAE. The order is M + 1, the number of components.
    """

    orders: ClassVar[tuple[int, ...] | None] = (2, 3, 4, 5)
    order_means: ClassVar[str] = "components"
    starts_from: ClassVar[str | None] = "vae"
    stage_rate: ClassVar[float] = 1e-6
    fields: ClassVar[tuple[str, ...]] = ("eps_min", "eps_max")

    def __init__(self, spec: RunSpec, image_shape: ImageShape, members: int) -> None:
        super().__init__(spec, image_shape, members)
        self.components = nn.ModuleList(nets.Encoder(members, spec.dim, image_shape) for _ in range(self.order))
        self.impacts = nn.ModuleList(
            nets.BoundedRegressor(members, image_shape, spec.eps_min, spec.eps_max) for _ in range(self.order - 1)
        )

    def start_from(self, parent: Mapping[str, Tensor]) -> None:
        super().start_from(parent)
        for component in self.components:
            copy_parameters(component, parent, "encoder")

    # ------------------------------------------------------------------ the mixture
    def posterior(self, x: Tensor, noise: Noise) -> Mixture:
        return mixture(nets.side_by_side(self.components, x), [eps(x) for eps in self.impacts])

    def diagnostics(self, x: Tensor, noise: Noise) -> Mapping[str, Tensor]:
        return diagnostics.of_mixture(self.decoder, x, self.posterior(x, noise), noise)

    def component(self, m: int, step: Step) -> DiagonalGaussian:
        """q_m(z|x) after its own update, frozen for the rest of the step."""
        return step.frozen(("q", m), lambda: self.components[m](step.x))

    def impact(self, m: int, step: Step) -> Tensor:
        """eps_m(x) after its own update, frozen for the rest of the step: (B, N)."""
        return step.frozen(("eps", m), lambda: self.impacts[m - 1](step.x))

    def upto(self, m: int, step: Step) -> Mixture:
        """Q_m(z|x) once components and impacts 0..m have been updated."""
        return mixture(self.first(m, step), [self.impact(j, step) for j in range(1, m + 1)])

    def first(self, m: int, step: Step) -> DiagonalGaussian:
        """q_0..q_m, each after its own update: (B, m + 1, N, p)."""
        return stack([self.component(j, step) for j in range(m + 1)])

    # ------------------------------------------------------------------ the updates' losses
    @abstractmethod
    def regulariser(self, m: int, q: DiagonalGaussian, z: Tensor, step: Step) -> Tensor:
        """The term added to -ELBO(q_m), m > 0, so that q_m differs from Q_{m-1}: (B,), at draws z (B, N, p) of q_m."""

    def component_loss(self, m: int, step: Step) -> Tensor:
        """-ELBO(q_m), plus the regulariser for m > 0."""
        q = self.components[m](step.x)
        z = q.rsample(step.normal(*q.mu.shape[1:]))
        loss = -objective.elbo(self.decoder, step.x, q, z).mean(-1)
        return loss if m == 0 else loss + self.regulariser(m, q, z, step)

    def impact_loss(self, m: int, step: Step) -> Tensor:
        """-ELBO(Q_m) as a function of eps_m alone."""
        eps = [self.impact(j, step) for j in range(1, m)] + [self.impacts[m - 1](step.x)]
        return self.mixture_loss(mixture(self.first(m, step), eps), step)

    def decoder_loss(self, step: Step) -> Tensor:
        """-ELBO(Q_M) as a function of the decoder."""
        return self.mixture_loss(self.upto(len(self.components) - 1, step), step)

    def mixture_loss(self, q: Mixture, step: Step) -> Tensor:
        z = q.rsample_each(step.normal(*q.components.mu.shape[1:]))
        return -objective.elbo_of_mixture(self.decoder, step.x, q, z).mean(-1)

    def updates(self) -> Sequence[Update]:
        updates = [Update("q_0", list(self.components[0].parameters()), partial(self.component_loss, 0))]
        for m in range(1, len(self.components)):
            updates += [
                Update(f"q_{m}", list(self.components[m].parameters()), partial(self.component_loss, m)),
                Update(f"eps_{m}", list(self.impacts[m - 1].parameters()), partial(self.impact_loss, m)),
            ]
        return [*updates, Update("decoder", list(self.decoder.parameters()), self.decoder_loss)]


class RME(RecursiveMixture):
    """The recursive mixture whose new components are driven away from the previous mixture by a bounded KL.

    q_m, m > 0:  minimise -ELBO(q_m) + relu(kl_max - mean_x KL(q_m || Q_{m-1}))
    """

    name: ClassVar[str] = "rme"
    label: ClassVar[str] = "RME"
    fields: ClassVar[tuple[str, ...]] = (*RecursiveMixture.fields, "kl_max")

    def regulariser(self, m: int, q: DiagonalGaussian, z: Tensor, step: Step) -> Tensor:
        kl = objective.kl_monte_carlo(q, self.upto(m - 1, step), z).mean(-1)
        return torch.relu(self.spec.kl_max - kl)


def mixture(components: DiagonalGaussian, impacts: Sequence[Tensor]) -> Mixture:
    """Q_m from q_0..q_m (B, m + 1, N, p) and eps_1..eps_m (B, N)."""
    log_alpha = [torch.zeros_like(components.mu[:, 0, :, 0])]
    for eps in impacts:
        log_alpha = [value + torch.log1p(-eps) for value in log_alpha] + [torch.log(eps)]
    return Mixture(torch.stack(log_alpha, -2), components)
