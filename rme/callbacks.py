"""What a user's function learns after each epoch of `rme.fit`, and how it stops the training."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from rme.config import RunSpec
from rme.engine import Engine, member_parameters
from rme.model import Model
from rme.model_file import ModelFile


@dataclass(frozen=True)
class Epoch:
    """One epoch of a training that has just ended. Values are of the restart with the best newest validation ELBO.

    Attributes:
        spec: the run.
        number: of the epoch, from 1.
        metrics: `loss_NAME` for each update and `val_elbo`, nats per image; NaN if not measured after this epoch. The
            method's diagnostics, too.
        restart: which restart the values and the model are of.

    Example:
        >>> def look(epoch):
        ...     print(epoch.number, epoch.model.sample(2).shape, sorted(epoch.metrics))
        ...     epoch.stop()
        >>> spec = rme.RunSpec(method="vae", dataset="digits", dim=2, epochs=3, restarts=1, iwae_samples=2)
        >>> _ = rme.fit(spec, callbacks=[look])
        1 torch.Size([2, 1, 28, 28]) ['loss_vae', 'val_elbo']
    """

    spec: RunSpec = field(repr=False)
    number: int
    metrics: dict[str, float]
    restart: int
    _engine: Engine = field(repr=False)
    _member: int = field(repr=False)

    @cached_property
    def model(self) -> Model:
        """The model so far, a copy on the CPU. It is made when first asked for, which must be before the next epoch."""
        return Model(ModelFile(self.spec, self.restart, member_parameters(self._engine.method, self._member)))

    def stop(self) -> None:
        """End the training after this epoch. The result is that of the epochs so far."""
        self._engine.stop()

    @classmethod
    def of(cls, engine: Engine) -> Epoch:
        """The epoch that this engine has just trained."""
        history = engine.history
        newest = next((each for each in reversed(history.val_elbo) if each.isfinite().any()), history.val_elbo[-1])
        member = int(newest.nan_to_num(-math.inf, neginf=-math.inf).argmax())
        metrics = {
            f"loss_{update.name}": history.losses[-1][u, member].item() for u, update in enumerate(engine.updates)
        }
        metrics["val_elbo"] = history.val_elbo[-1][member].item()
        metrics |= {name: values[-1][member].item() for name, values in history.diagnostics.items()}
        row = engine.members[member]
        return cls(row.spec, engine.epoch, metrics, row.restart, engine, member)


Callback = Callable[[Epoch], object]


def check(callbacks: Sequence[Callback]) -> None:
    """Raise TypeError for a callback that cannot be called."""
    for i, callback in enumerate(callbacks):
        if not callable(callback):
            raise TypeError(
                f"callbacks[{i}] is {callback!r}, which is not callable; expected a function of an rme.Epoch"
            )
