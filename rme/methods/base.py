"""What every amortised inference method is: a model of B members, its posterior, and its updates."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from rme import nets
from rme.distributions import Posterior
from rme.noise import Noise

if TYPE_CHECKING:
    from rme.config import RunSpec
    from rme.step import Step


@dataclass(frozen=True)
class Update:
    """One optimiser step: `loss` is minimised over `parameters`, everything else stands still.

    Attributes:
        name: names the update in logs and metrics (`train/loss_<name>`).
        parameters: what this update changes.
        loss: from a `Step` to a loss for each member, shape (B,), in nats per image.
    """

    name: str
    parameters: Sequence[nn.Parameter]
    loss: Callable[[Step], Tensor]


class Method(nn.Module, ABC):
    """An array of B models of one method. Every parameter carries the member axis first.

    A subclass in a file of `rme/methods/` is registered by being there. It declares the class attributes
    below, builds its networks in `__init__` (calling `super().__init__` first), and gives a posterior and updates.

    Shapes: images x (B, N, C, H, W); latents z (B, N, p); samples (B, S, N, p); losses (B,).
    """

    name: ClassVar[str]
    """The registry's name, lower case: what grids and `--only method=` say."""
    label: ClassVar[str]
    """The name in tables, as in the paper."""
    orders: ClassVar[tuple[int, ...] | None] = None
    """The orders allowed; None for a method that has none."""
    order_means: ClassVar[str] = ""
    """What the order counts, for error messages: 'components', 'flows', ..."""
    decoders: ClassVar[tuple[str, ...]] = ("conv", "fc")
    starts_from: ClassVar[str | None] = None
    """The method whose finished model this one starts from, or None for a training from scratch."""
    stage_rate: ClassVar[float] = 5e-4
    """Of a method that starts from another: Adam's learning rate in its stage, unless `stage_learning_rate` says."""
    trains: ClassVar[bool] = True
    """Whether there is anything to train; a method that is not trained has no updates."""
    control: ClassVar[bool] = False
    """Whether it is there for others to be compared with, and no rival of its own."""
    fields: ClassVar[tuple[str, ...]] = ()
    """The RunSpec fields that this method reads and others do not; only these enter its key. Those of a stage are
    known from `starts_from`."""
    options: ClassVar[Mapping[str, float]] = {}
    """Hyperparameters of its own with their defaults, set by `--set options.NAME=VALUE`."""

    def __init__(self, spec: RunSpec, image_shape: tuple[int, int, int], members: int) -> None:
        super().__init__()
        self.spec = spec
        self.members = members
        self.decoder = nets.Decoder(members, spec.dim, image_shape, spec.decoder)
        self.register_buffer("pixel_mean", torch.zeros(members, *image_shape))

    pixel_mean: Tensor

    def centred(self, pixels: Tensor) -> Tensor:
        """Images as the model sees them: uint8 (B, N, C, H, W) to [0, 1], minus the training set's per-pixel mean."""
        return pixels.to(self.pixel_mean.dtype).div_(255).sub_(self.pixel_mean.unsqueeze(1))

    @abstractmethod
    def posterior(self, x: Tensor, noise: Noise) -> Posterior:
        """q(z|x) at test time for images (B, N, C, H, W): batch shape (B, N).

        Called without gradients. `noise` is for methods whose inference is itself random, such as SVI steps.
        """

    def diagnostics(self, x: Tensor, noise: Noise) -> Mapping[str, Tensor]:
        """What is to be seen of the model as it trains, per image, by name: (B, N) each. Nothing, unless it says so.

        Measured with the validation ELBO, on the validation images, without gradients. The names are the same at each
        call; MLflow has the means as `train/NAME` by epoch.
        """
        return {}

    @abstractmethod
    def updates(self) -> Sequence[Update]:
        """The updates of one training step, in the order in which they are made."""

    def start_from(self, parent: Mapping[str, Tensor]) -> None:
        """Copy the parameters of a finished model, name -> (B, ...), into this one (only if `starts_from`).

        As it stands: into the parts of the same name, which for a VAE are `encoder` and `decoder`; other parts stay
        as they were initialised. KeyError names a parameter that such a part has and the finished model has not.
        """
        there = {name.partition(".")[0] for name in parent}
        for name, part in self.named_children():
            if name in there:
                copy_parameters(part, parent, name)


def copy_parameters(module: nn.Module, parent: Mapping[str, Tensor], prefix: str) -> None:
    """Copy the tensors named `prefix.*` into `module`; KeyError names what is missing."""
    own = module.state_dict()
    with torch.no_grad():
        for name, value in own.items():
            full = f"{prefix}.{name}"
            if full not in parent:
                raise KeyError(f"the starting model has no parameter {full!r}; it has {sorted(parent)}")
            value.copy_(parent[full])
