"""SVI: the finished VAE with q(z|x) optimised for each image, which shows the head-room of amortised inference.

Not in the paper. Its gain over the VAE estimates the amortisation gap of Cremer, Li and Duvenaud (2018, Inference
Suboptimality in Variational Autoencoders).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from rme import inference_gaps as gaps
from rme import nets
from rme.distributions import Posterior
from rme.methods.base import Method, Update
from rme.nets import ImageShape
from rme.noise import Noise

if TYPE_CHECKING:
    from rme.config import RunSpec


class SVI(Method):
    """Starting from the VAE's q(z|x), n Adam steps maximise each image's ELBO over its mean and variances.

    This is `rme.inference_gaps.optimise`: one draw per step, means in units of the encoder's standard deviations, and a
    learning rate that decays from `svi_rate` to 0 along half a cosine. Encoder and decoder are those of the finished
    VAE. Nothing is trained; the whole cost is at test time. The order is n.
    """

    name: ClassVar[str] = "svi"
    label: ClassVar[str] = "SVI"
    orders: ClassVar[tuple[int, ...] | None] = (10, 50, 200)
    order_means: ClassVar[str] = "Adam steps"
    starts_from: ClassVar[str | None] = "vae"
    trains: ClassVar[bool] = False
    options: ClassVar[Mapping[str, float]] = {"svi_rate": gaps.RATE}

    def __init__(self, spec: RunSpec, image_shape: ImageShape, members: int) -> None:
        super().__init__(spec, image_shape, members)
        self.encoder = nets.Encoder(members, spec.dim, image_shape)
        self.steps = self.order
        self.svi_rate = {**self.options, **spec.options}["svi_rate"]

    def posterior(self, x: Tensor, noise: Noise) -> Posterior:
        q, _ = gaps.optimise(self.decoder, x, self.encoder(x), noise, steps=self.steps, draws=1, rate=self.svi_rate)
        return q

    def updates(self) -> Sequence[Update]:
        return []
