"""VAE-more: the finished VAE trained for longer, the control for all methods that start from it."""

from __future__ import annotations

from typing import ClassVar

from rme.methods.rme import RecursiveMixture
from rme.methods.vae import VAE


class VAEMore(VAE):
    """The VAE's posterior and objective, starting from the finished VAE; by default at the rate of RME's stage.

    Not in the paper. A method that starts from a finished VAE is trained for longer than that VAE, often at a lower
    rate, which alone gains much. Its own gain is that over this control, with as many epochs at the same rate.
    """

    name: ClassVar[str] = "vae-more"
    label: ClassVar[str] = "VAE-more"
    starts_from: ClassVar[str | None] = "vae"
    stage_rate: ClassVar[float] = RecursiveMixture.stage_rate
    control: ClassVar[bool] = True
