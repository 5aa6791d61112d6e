"""SVI: the finished VAE with each image's posterior sought by itself, the head-room of amortised inference.

Not in the paper. What it gains over the VAE is Cremer, Li and Duvenaud's amortisation gap (2018, Inference
Suboptimality in Variational Autoencoders).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor

from rme import inference_gaps as gaps
from rme import nets
from rme.distributions import Posterior
from rme.methods.base import Method, Update
from rme.noise import Noise


class SVI(Method):
    """From the VAE's q(z|x), Adam ascends each image's ELBO in its own mean and variances for n steps.

    One draw in each step, means in units of the encoder's deviations, a rate that falls from `svi_rate` to nothing
    along half a cosine: the search of `rme.inference_gaps`. Encoder and decoder are the finished VAE's, unchanged;
    nothing is trained, all is spent at test time. The order is n.
    """

    name: ClassVar[str] = "svi"
    label: ClassVar[str] = "SVI"
    orders: ClassVar[tuple[int, ...] | None] = (10, 50, 200)
    order_means: ClassVar[str] = "Adam steps"
    starts_from: ClassVar[str | None] = "vae"
    trains: ClassVar[bool] = False
    options: ClassVar[Mapping[str, float]] = {"svi_rate": gaps.RATE}

    def __init__(self, spec, image_shape, members) -> None:
        super().__init__(spec, image_shape, members)
        self.encoder = nets.Encoder(members, spec.dim, image_shape)
        self.steps = spec.order
        self.svi_rate = {**self.options, **spec.options}["svi_rate"]

    def posterior(self, x: Tensor, noise: Noise) -> Posterior:
        q, _ = gaps.optimise(self.decoder, x, self.encoder(x), noise, steps=self.steps, draws=1, rate=self.svi_rate)
        return q

    def updates(self) -> Sequence[Update]:
        return []
