"""Adam, as PyTorch's fused step does it, for parameters whose gradients are at hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.optim.adam import adam


class Adam:
    """`torch.optim.Adam(fused=True)` with its defaults, to the last bit; Kingma and Ba (2015), Algorithm 1.

    PyTorch's class imports its compiler when one is made, over a second of each worker's start. Everything lies on the
    parameters' device and stays where it is, as a CUDA graph needs it.

    Args:
        parameters: what it changes, in place.
        rate: the learning rate.
    """

    def __init__(self, parameters: Sequence[Tensor], rate: float) -> None:
        self.parameters = [p.detach() for p in parameters]
        self.rate = rate
        self.means = [torch.zeros_like(p) for p in self.parameters]
        self.squares = [torch.zeros_like(p) for p in self.parameters]
        self.steps = [torch.zeros((), dtype=torch.float32, device=p.device) for p in self.parameters]

    def step(self, gradients: Sequence[Tensor]) -> None:
        """Descend once along these gradients, one for each parameter, of its shape."""
        laid_out = [_laid_out_as(p, g) for p, g in zip(self.parameters, gradients, strict=True)]
        adam(
            self.parameters, laid_out, self.means, self.squares, [], self.steps,
            fused=True, lr=self.rate, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0, amsgrad=False, maximize=False,
        )  # fmt: skip

    def state(self) -> dict[str, Tensor]:
        """What it has gathered, by PyTorch's names with the parameter's number before them."""
        gathered = {"step": self.steps, "exp_avg": self.means, "exp_avg_sq": self.squares}
        return {f"{i}.{name}": values[i] for i in range(len(self.parameters)) for name, values in gathered.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state()`. Raises KeyError or RuntimeError when it is of other parameters."""
        own = self.state()
        if extra := state.keys() - own.keys():
            raise KeyError(f"{min(extra)} belongs to no parameter of these {len(self.parameters)}")
        for name, value in own.items():
            if state[name].shape != value.shape:
                raise RuntimeError(f"{name} has shape {tuple(state[name].shape)}, not {tuple(value.shape)}")
        for name, value in own.items():
            value.copy_(state[name])


def _laid_out_as(parameter: Tensor, gradient: Tensor) -> Tensor:
    """The gradient in its parameter's memory layout.

    Of other strides fused Adam applies it in the wrong order on a CPU, silently, and refuses it on a GPU: in some
    releases of torch also where nothing but an axis of size 1 differs, which `contiguous` leaves as it is.
    """
    same = gradient.stride() == parameter.stride()
    return gradient if same else torch.empty_like(parameter).copy_(gradient)
