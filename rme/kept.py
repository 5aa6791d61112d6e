"""Which epoch's parameters each member of an array keeps, and when patience ends a member's training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor


class Kept:
    """Each member's best epoch by validation ELBO, and a copy of the parameters that it keeps.

    `keep="best"` keeps the best epoch's parameters, "last" the last epoch's. With a patience, a member finishes once
    its best epoch is that many epochs old; the array trains on for the others, but later epochs of a finished member
    are ignored.

    Args:
        model: the array's parameters and buffers, name -> (B, ...), on their device.
        keep: "best" or "last".
        patience: in epochs; None: no member finishes early.

    Attributes:
        elbo: (B,) float64, the best validation ELBO so far, nats per image; -inf before the first.
        epoch: (B,) int64, the epoch of that ELBO, from 1; 0 before the first.
        finished: (B,) int64, the epoch at which patience ended the member; 0 if it has not.
        model: the kept parameters, name -> (B, ...), on the array's device (all else is on the CPU); empty with "last"
            and no patience, when they are the array's own.
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
        """Record the validation ELBO (B,) of an epoch, given the parameters after it."""
        unfinished = self.finished == 0
        better = unfinished & (elbo > self.elbo)  # false for NaN
        self.elbo[better] = elbo[better]
        self.epoch[better] = epoch
        ending = torch.zeros_like(unfinished)
        if self.patience is not None:
            ending = unfinished & (epoch - self.epoch >= self.patience)
            self.finished[ending] = epoch
        self._copy(model, better if self.keep == "best" else ending)

    def _copy(self, model: Mapping[str, Tensor], rows: Tensor) -> None:
        if rows.any():
            for name, value in self.model.items():
                value[rows.to(value.device)] = model[name].detach()[rows.to(value.device)]

    def put_back(self, model: Mapping[str, Tensor]) -> None:
        """Copy the kept parameters into the array's, in place."""
        rows = self.epoch > 0 if self.keep == "best" else self.finished > 0
        for name, value in self.model.items():
            where = rows.to(value.device)
            model[name].detach()[where] = value[where]

    def epochs(self, last: int) -> Tensor:
        """The epoch whose parameters each member keeps, (B,) int64, after the array's epoch `last`."""
        ends = torch.where(self.finished > 0, self.finished, last)
        return torch.where(self.epoch > 0, self.epoch, ends) if self.keep == "best" else ends

    # ------------------------------------------------------------------ state
    def state(self) -> dict[str, Tensor]:
        """The whole state, as named tensors with the member axis first."""
        state = {f"model.{name}": value for name, value in self.model.items()}
        return state | {"elbo": self.elbo, "epoch": self.epoch, "finished": self.finished}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore `state()`. KeyError names a missing tensor."""
        for name, value in self.model.items():
            value.copy_(state[f"model.{name}"])
        self.elbo.copy_(state["elbo"])
        self.epoch.copy_(state["epoch"])
        self.finished.copy_(state["finished"])
