"""VAE-more: the finished VAE trained on, the fair control for all that start from it."""

from __future__ import annotations

from typing import ClassVar

from rme.methods.rme import RecursiveMixture
from rme.methods.vae import VAE


class VAEMore(VAE):
    """The VAE's own posterior and objective, from where the VAE ended, at the rate of RME's stage.

    Not a row of the paper. A method that starts from a finished VAE is trained for longer than that VAE, and often at a
    lower rate, which alone gains much; what it gains over this one, for as many epochs at the same rate, is its own.
    """

    name: ClassVar[str] = "vae-more"
    label: ClassVar[str] = "VAE-more"
    starts_from: ClassVar[str | None] = "vae"
    stage_rate: ClassVar[float] = RecursiveMixture.stage_rate
    control: ClassVar[bool] = True
