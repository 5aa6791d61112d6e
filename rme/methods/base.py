"""The interface of an amortised inference method: an array of B models, their posterior, and their updates."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from rme import nets
from rme.distributions import Posterior
from rme.nets import ImageShape
from rme.noise import Noise

if TYPE_CHECKING:
    from rme.config import RunSpec
    from rme.step import Step


@dataclass(frozen=True)
class Update:
    """One optimiser step: `loss` is minimised over `parameters`, everything else is frozen.

    Attributes:
        name: of the update, in logs and metrics (`train/loss_<name>`).
        parameters: the parameters that it changes.
        loss: from a `Step` to each member's loss, (B,), nats per image.
    """

    name: str
    parameters: Sequence[nn.Parameter]
    loss: Callable[[Step], Tensor]


class Method(nn.Module, ABC):
    """An array of B models of one method. Every parameter carries the member axis first.

    A subclass in a file of `rme/methods/` is registered automatically. It declares the class attributes below, builds
    its networks in `__init__` (calling `super().__init__` first), and defines `posterior` and `updates`.

    Shapes: images x (B, N, C, H, W); latents z (B, N, p); samples (B, S, N, p); losses (B,).
    """

    name: ClassVar[str]
    """The name in grids and `--only method=`, lower case."""
    label: ClassVar[str]
    """The name in tables, as in the paper."""
    orders: ClassVar[tuple[int, ...] | None] = None
    """The valid orders; None for a method without an order."""
    order_means: ClassVar[str] = ""
    """What the order counts, for error messages: 'components', 'flows', ..."""
    decoders: ClassVar[tuple[str, ...]] = ("conv", "fc")
    """The kinds of decoder that it works with."""
    starts_from: ClassVar[str | None] = None
    """The method whose finished model this one starts from; None if it trains from scratch."""
    stage_rate: ClassVar[float] = 5e-4
    """Default of `stage_learning_rate`, Adam's rate in the stage of a method that starts from another."""
    trains: ClassVar[bool] = True
    """Whether it has anything to train; if not, it has no updates."""
    control: ClassVar[bool] = False
    """Whether it is a control that others are compared with, not a competing method."""
    fields: ClassVar[tuple[str, ...]] = ()
    """The RunSpec fields that only some methods read, this one among them; part of its runs' keys. The fields of a
    stage follow from `starts_from`."""
    options: ClassVar[Mapping[str, float]] = {}
    """The method's own hyperparameters with their defaults; `--set options.NAME=VALUE` overrides."""

    def __init__(self, spec: RunSpec, image_shape: ImageShape, members: int) -> None:
        super().__init__()
        self.spec = spec
        self.members = members
        self.decoder = nets.Decoder(members, spec.dim, image_shape, spec.decoder)
        self.register_buffer("pixel_mean", torch.zeros(members, *image_shape))

    pixel_mean: Tensor

    @property
    def order(self) -> int:
        """The run's order; only for methods that declare `orders`."""
        assert self.spec.order is not None
        return self.spec.order

    def centred(self, pixels: Tensor) -> Tensor:
        """Images (B, N, C, H, W), uint8 or floating point in [0, 1], minus the training set's per-pixel mean."""
        mean = self.pixel_mean.unsqueeze(1)
        if pixels.is_floating_point():
            return pixels.to(mean.dtype) - mean
        return pixels.to(mean.dtype).div_(255).sub_(mean)

    @abstractmethod
    def posterior(self, x: Tensor, noise: Noise) -> Posterior:
        """q(z|x) at test time for centred images (B, N, C, H, W): batch shape (B, N).

        Called without gradients. `noise` is for methods whose inference is itself random, such as SVI.
        """

    def diagnostics(self, x: Tensor, noise: Noise) -> Mapping[str, Tensor]:
        """Quantities to log during training, per image, by name: (B, N) each. None by default.

        Measured together with the validation ELBO, on the validation images, without gradients. The names must be the
        same at each call. MLflow gets the means over images as `train/NAME`, by epoch.
        """
        return {}

    @abstractmethod
    def updates(self) -> Sequence[Update]:
        """The updates of one training step, in order of execution."""

    def start_from(self, parent: Mapping[str, Tensor]) -> None:
        """Copy the parameters of a finished model, name -> (B, ...), into this one (only if `starts_from`).

        By default into the modules of the same name, which for a VAE are `encoder` and `decoder`; other modules keep
        their initialisation. KeyError names a parameter of such a module that the finished model lacks.
        """
        shared = {name.partition(".")[0] for name in parent}
        for name, part in self.named_children():
            if name in shared:
                copy_parameters(part, parent, name)


def copy_parameters(module: nn.Module, parent: Mapping[str, Tensor], prefix: str) -> None:
    """Copy the tensors of `parent` named `prefix.*` into `module`. KeyError names a missing one."""
    own = module.state_dict()
    with torch.no_grad():
        for name, value in own.items():
            full = f"{prefix}.{name}"
            if full not in parent:
                raise KeyError(f"the starting model has no parameter {full!r}; it has {sorted(parent)}")
            value.copy_(parent[full])
