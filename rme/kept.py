"""What each member of an array keeps of its training, and when one of them is finished before the array is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor


class Kept:
    """Of each member its best measured epoch, by validation ELBO, and the parameters that it keeps.

    With `keep="best"` those of that epoch, with "last" those of its last epoch. With a patience, a member whose best is
    so many epochs old is finished: what it does from then on, beside others that go on, is not looked at.

    Args:
        model: the array's parameters and buffers, name -> (B, ...), on their device.
        keep: "best" or "last".
        patience: epochs; None: no member is finished early.

    Attributes:
        elbo: (B,) float64, the best so far, nats per image; -inf before there is one. On the CPU, as all but `model`.
        epoch: (B,) int64, its epoch, from 1; 0 before there is one.
        finished: (B,) int64, the epoch after which patience ended the member; 0: it goes on.
        model: what is kept, name -> (B, ...); empty where it is the last epoch's, which the array has itself.
    """

    def __init__(self, model: Mapping[str, Tensor], keep: Literal["best", "last"], patience: int | None) -> None:
        members = len(next(iter(model.values())))
        self.keep = keep
        self.patience = patience
        self.elbo = torch.full((members,), -torch.inf, dtype=torch.float64)
        self.epoch = torch.zeros(members, dtype=torch.int64)
        self.finished = torch.zeros(members, dtype=torch.int64)
        copies = keep == "best" or patience is not None
        self.model = {name: value.detach().clone() for name, value in model.items()} if copies else {}

    def measured(self, epoch: int, elbo: Tensor, model: Mapping[str, Tensor]) -> None:
        """Take note of an epoch's validation ELBO (B,), and of the parameters that have it."""
        going_on = self.finished == 0
        better = going_on & (elbo > self.elbo)  # a NaN is not
        self.elbo[better] = elbo[better]
        self.epoch[better] = epoch
        ending = torch.zeros_like(going_on)
        if self.patience is not None:
            ending = going_on & (epoch - self.epoch >= self.patience)
            self.finished[ending] = epoch
        self._copy(model, better if self.keep == "best" else ending)

    def _copy(self, model: Mapping[str, Tensor], rows: Tensor) -> None:
        if rows.any():
            for name, value in self.model.items():
                value[rows.to(value.device)] = model[name].detach()[rows.to(value.device)]

    def put_back(self, model: Mapping[str, Tensor]) -> None:
        """Give the array's parameters, in place, the values that are kept."""
        rows = self.epoch > 0 if self.keep == "best" else self.finished > 0
        for name, value in self.model.items():
            where = rows.to(value.device)
            model[name].detach()[where] = value[where]

    def epochs(self, last: int) -> Tensor:
        """The epoch whose parameters each member keeps, (B,) int64, when the array has come to its `last`."""
        ends = torch.where(self.finished > 0, self.finished, last)
        return torch.where(self.epoch > 0, self.epoch, ends) if self.keep == "best" else ends

    # ------------------------------------------------------------------ state
    def state(self) -> dict[str, Tensor]:
        """Everything, as named tensors with the member axis first."""
        state = {f"model.{name}": value for name, value in self.model.items()}
        return state | {"elbo": self.elbo, "epoch": self.epoch, "finished": self.finished}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state()`. KeyError names what is missing."""
        for name, value in self.model.items():
            value.copy_(state[f"model.{name}"])
        self.elbo.copy_(state["elbo"])
        self.epoch.copy_(state["epoch"])
        self.finished.copy_(state["finished"])
