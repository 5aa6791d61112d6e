"""VAE-more: the finished VAE trained on for as many epochs, the fair control for all that start from it."""

from __future__ import annotations

from typing import ClassVar

from rme.methods.vae import VAE


class VAEMore(VAE):
    """The VAE's own posterior and objective, at the VAE's rate, from where the VAE ended.

    Not a row of the paper. A method that starts from a finished VAE has had twice its epochs; what it gains over
    this one is its own.
    """

    name: ClassVar[str] = "vae-more"
    label: ClassVar[str] = "VAE-more"
    starts_from: ClassVar[str | None] = "vae"
    fields: ClassVar[tuple[str, ...]] = ("stage_epochs",)
