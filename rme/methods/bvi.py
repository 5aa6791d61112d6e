"""BVI-ER1, BVI-ER2: RME with an entropy regulariser of boosted variational inference (supplement, section 1.1)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from rme.distributions import DiagonalGaussian
from rme.methods.rme import RecursiveMixture
from rme.step import Step


def impact(step: Step) -> Tensor:
    """The regulariser's weight nu = 1 / sqrt(t + 1), t = 0 in this training's first iteration: ()."""
    return torch.rsqrt(torch.as_tensor(step.iteration, dtype=torch.float64) + 1)


class BVIER1(RecursiveMixture):
    """The recursive mixture whose new components are kept wide by their entropy, estimated at one draw.

    q_m, m > 0:  minimise -ELBO(q_m) - nu mean_x E_{q_m}[-log q_m(z|x)]

    The regulariser of Locatello et al. 2018 (Boosting Black Box Variational Inference).
    """

    name: ClassVar[str] = "bvi-er1"
    label: ClassVar[str] = "BVI-ER1"

    def regulariser(self, m: int, q: DiagonalGaussian, z: Tensor, step: Step) -> Tensor:
        return impact(step) * q.log_prob(z).mean(-1)


class BVIER2(RecursiveMixture):
    """The recursive mixture whose new components are kept wide by their entropy in closed form.

    q_m, m > 0:  minimise -ELBO(q_m) - nu mean_x log det Sigma_m(x)

    The regulariser of Guo et al. 2016 (Boosting Variational Inference). A Gaussian's entropy is log det Sigma / 2 plus
    a constant, so the expected gradient is twice BVI-ER1's.
    """

    name: ClassVar[str] = "bvi-er2"
    label: ClassVar[str] = "BVI-ER2"

    def regulariser(self, m: int, q: DiagonalGaussian, z: Tensor, step: Step) -> Tensor:
        return -impact(step) * q.logvar.sum(-1).mean(-1)
