"""Adam by PyTorch's fused step, for gradients that are passed in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.optim.adam import adam


class Adam:
    """`torch.optim.Adam(fused=True)` with its defaults, bit for bit; Kingma and Ba (2015), Algorithm 1.

    PyTorch's class is not used because its constructor imports the compiler, over a second at each worker's start. All
    state stays at the same place on the parameters' device, as a CUDA graph needs.

    Args:
        parameters: updated in place.
        rate: the learning rate.
    """

    def __init__(self, parameters: Sequence[Tensor], rate: float) -> None:
        self.parameters = [p.detach() for p in parameters]
        self.rate = rate
        self.means = [torch.zeros_like(p) for p in self.parameters]
        self.squares = [torch.zeros_like(p) for p in self.parameters]
        self.steps = [torch.zeros((), dtype=torch.float32, device=p.device) for p in self.parameters]

    def step(self, gradients: Sequence[Tensor]) -> None:
        """One Adam step, given each parameter's gradient, of its shape."""
        gradients = [_with_strides_of(p, g) for p, g in zip(self.parameters, gradients, strict=True)]
        adam(
            self.parameters, gradients, self.means, self.squares, [], self.steps,
            fused=True, lr=self.rate, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0, amsgrad=False, maximize=False,
        )  # fmt: skip

    def state(self) -> dict[str, Tensor]:
        """Step counts and moments, named `<parameter's index>.<PyTorch's name>`."""
        moments = {"step": self.steps, "exp_avg": self.means, "exp_avg_sq": self.squares}
        return {f"{i}.{name}": values[i] for i in range(len(self.parameters)) for name, values in moments.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore `state()`. Raises KeyError or RuntimeError, and changes nothing, if it is of other parameters."""
        own = self.state()
        if extra := state.keys() - own.keys():
            raise KeyError(f"{min(extra)}: the optimiser has only {len(self.parameters)} parameters")
        for name, value in own.items():
            if state[name].shape != value.shape:
                raise RuntimeError(f"{name} has shape {tuple(state[name].shape)}, expected {tuple(value.shape)}")
        for name, value in own.items():
            value.copy_(state[name])


def _with_strides_of(parameter: Tensor, gradient: Tensor) -> Tensor:
    """The gradient with its parameter's strides; copied only if they differ.

    With other strides fused Adam silently applies it in the wrong order on a CPU, and raises on a GPU. Some releases
    of torch do so even if only the stride of an axis of size 1 differs, which `contiguous` does not change.
    """
    same = gradient.stride() == parameter.stride()
    return gradient if same else torch.empty_like(parameter).copy_(gradient)
