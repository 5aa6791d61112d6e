"""RunSpec: all settings of one run, frozen and validated. Its key is a hash of the settings that change the result."""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ValidationError, field_validator, model_validator

from rme import data, methods
from rme.errors import nearest, no_such_field
from rme.methods.base import Method
from rme.run_fields import RunFields

SCHEMA = 1
"""Part of every key. Raise it when a change of the code changes what the result of a RunSpec means."""

_COMMON = (
    "method", "order", "dim", "decoder", "seed", "restarts", "epochs", "batch_size",
    "learning_rate", "iwae_samples", "precision", "keep",
)  # fmt: skip
_OF_THE_PARENT = (*_COMMON, "dataset", "finish_epochs", "finish_learning_rate", "patience")
"""Fields that a run shares with the VAE that it starts from, apart from method and order."""


_LONGEST_VARIANT = 40


class SpecError(ValueError):
    """An impossible run; the message names the value and what would be valid."""


class RunSpec(RunFields):
    """One run: a method at an order, on a data set, with a latent dimension, a decoder and a seed.

    Defaults are the paper's (supplement, sections 1.1, 1.4 and 4).

    Raises:
        SpecError: a value or a combination is impossible, or a field does not exist; one readable line per mistake.

    Example:
        >>> spec = rme.RunSpec(method="rme", order=2, dataset="digits", dim=10)
        >>> spec
        RunSpec(method='rme', order=2, dataset='digits', dim=10)
        >>> spec.parent.method
        'vae'
        >>> rme.RunSpec(method="vae", dataset="digits", dim=10, epoch=5)
        Traceback (most recent call last):
        rme.config.SpecError: epoch=5: no such field; did you mean epochs?
    """

    if not TYPE_CHECKING:  # type checkers know the fields from pydantic's own constructor

        def __init__(self, **values: Any) -> None:
            try:
                super().__init__(**values)
            except ValidationError as error:
                raise SpecError(_readable(error, type(self))) from None

    # ------------------------------------------------------------------ validation
    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: object) -> object:
        # pydantic would accept it as 1; YAML reads `yes` as true
        for each in value.values() if isinstance(value, dict) else (value,):
            if isinstance(each, bool):
                raise ValueError("no field is true or false (as YAML reads yes, no, on and off)")
        return value

    @field_validator("kl_max", "options")
    @classmethod
    def _zero_has_no_sign(cls, value: Any) -> Any:
        # 0.0 and -0.0 are equal, and so must be the keys
        return {name: each + 0.0 for name, each in value.items()} if isinstance(value, dict) else value + 0.0

    @field_validator("method", mode="before")
    @classmethod
    def _method_is_registered(cls, value: object) -> object:
        return methods.get(value).name if isinstance(value, str) else value

    @field_validator("dataset", mode="before")
    @classmethod
    def _dataset_is_known(cls, value: object) -> object:
        return data.canonical_name(value) if isinstance(value, str) else value

    @field_validator("variant")
    @classmethod
    def _variant_can_be_shown(cls, value: str | None) -> str | None:
        if value is None:
            return None
        if not value.strip() or value != value.strip() or not value.isprintable() or len(value) > _LONGEST_VARIANT:
            raise ValueError(
                f"a variant is a name such as 'kl 20': at most {_LONGEST_VARIANT} characters, no spaces around it"
            )
        if value.lower() in ("none", "null"):
            raise ValueError("that is how a row without a variant is named; leave it out, or choose another name")
        return value

    @model_validator(mode="after")
    def _method_allows_it(self) -> RunSpec:
        method = self.method_class
        wrong = []
        if method.orders is None:
            if self.order is not None:
                wrong.append(f"order={self.order}: {method.label} has no order; leave it out")
        elif self.order not in method.orders:
            choices = ", ".join(map(str, method.orders))
            wrong.append(f"order={self.order}: {method.label} needs a number of {method.order_means} of {choices}")
        if self.decoder not in method.decoders:
            wrong.append(f"decoder={self.decoder!r}: {method.label} works with {' or '.join(method.decoders)} only")
        if self.eps_min >= self.eps_max:
            wrong.append(f"eps_min={self.eps_min} must be below eps_max={self.eps_max}")
        if self.finish_epochs >= self.epochs:
            wrong.append(
                f"finish_epochs={self.finish_epochs} must be fewer than epochs={self.epochs}: they are its last"
            )
        if self.finish_epochs and self.patience is not None:
            wrong.append(
                f"patience={self.patience} would end a training before its finish_epochs={self.finish_epochs} begin; "
                "leave one out, or say stage_patience, which is the stages' alone"
            )
        unknown = sorted(set(self.options) - set(method.options))
        if unknown:
            choices = ", ".join(method.options) or "none"
            near = nearest(unknown[0], method.options)
            wrong.append(f"options {', '.join(unknown)}: {near}{method.label} declares {choices}")
        if wrong:
            raise ValueError("; ".join(wrong))
        return self

    @classmethod
    def of(cls, values: dict[str, Any]) -> RunSpec:
        """Build from plain values. Raises SpecError as the constructor does."""
        return cls(**values)

    # ------------------------------------------------------------------ what follows from it
    @property
    def method_class(self) -> type[Method]:
        return methods.get(self.method)

    @property
    def parent(self) -> RunSpec | None:
        """The run whose finished models this one starts from, restart by restart; None from scratch."""
        start = self.method_class.starts_from
        if start is None:
            return None
        shared = {name: getattr(self, name) for name in _OF_THE_PARENT if name not in ("method", "order")}
        return RunSpec(method=start, order=None, **shared)

    @property
    def training_epochs(self) -> int:
        """Epochs of this run's own training, without its parent's; 0 for a method that is not trained."""
        if not self.method_class.trains:
            return 0
        return self.epochs if self.method_class.starts_from is None else self.stage_epochs or self.epochs

    @property
    def rate(self) -> float:
        """Adam's learning rate in this run's own training, until its finish."""
        method = self.method_class
        if method.starts_from is None:
            return self.learning_rate
        return method.stage_rate if self.stage_learning_rate is None else self.stage_learning_rate

    @property
    def own_finish_epochs(self) -> int:
        """How many epochs, the last, of this run's own training are at `finish_learning_rate`: none in a stage."""
        return self.finish_epochs if self.method_class.starts_from is None else 0

    def rate_of(self, epoch: int) -> float:
        """Adam's learning rate in this epoch, from 1, of this run's own training."""
        return self.rate if epoch <= self.training_epochs - self.own_finish_epochs else self.finish_learning_rate

    @property
    def own_keep(self) -> Literal["best", "last"]:
        """Which epoch's parameters this run's own training keeps."""
        staged = self.method_class.starts_from is not None
        return self.stage_keep if staged and self.stage_keep is not None else self.keep

    @property
    def own_patience(self) -> int | None:
        """The patience of this run's own training, epochs."""
        staged = self.method_class.starts_from is not None
        return self.stage_patience if staged and self.stage_patience is not None else self.patience

    @property
    def canonical(self) -> dict[str, Any]:
        """The fields that change the result, and no others, as plain JSON values."""
        method = self.method_class
        values = {name: getattr(self, name) for name in (*_COMMON, *method.fields)}
        if method.starts_from is not None and method.trains:
            values |= {"stage_epochs": self.training_epochs, "stage_learning_rate": self.rate}
            if self.own_keep != self.keep:
                values["stage_keep"] = self.own_keep
            if self.own_patience != self.patience:
                values["stage_patience"] = self.own_patience
        if self.finish_epochs:
            values |= {"finish_epochs": self.finish_epochs, "finish_learning_rate": self.finish_learning_rate}
        if self.patience is not None:
            values["patience"] = self.patience
        if method.options:
            values["options"] = {**method.options, **self.options}
        values["dataset"] = data.identity(self.dataset)
        return {"schema": SCHEMA, **values}

    @property
    def params(self) -> dict[str, str]:
        """Every field that the method reads, and the variant, as text: what MLflow and tables have of a run."""
        values: dict[str, Any] = {**self.canonical, "dataset": self.dataset}
        del values["schema"]
        values |= {f"options.{name}": value for name, value in values.pop("options", {}).items()}
        if self.variant is not None:
            values["variant"] = self.variant
        return {name: str(value) for name, value in values.items()}

    @property
    def key(self) -> str:
        """Stable hash of `canonical`: 16 hex digits, the same on every machine and Python."""
        return _digest(self.canonical)

    @property
    def cell_key(self) -> str:
        """The key without the seed: runs that share it are repetitions of one another."""
        return _digest({name: value for name, value in self.canonical.items() if name != "seed"})

    def __hash__(self) -> int:
        return hash(self.key)

    def __repr__(self) -> str:
        """As Python code, with the fields that are not at their defaults."""
        fields = type(self).model_fields
        given = {name: getattr(self, name) for name in fields if getattr(self, name) != fields[name].default}
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in given.items())})"

    __str__ = __repr__

    def _repr_html_(self) -> str:
        from rme.repr_html import of_spec

        return of_spec(self)

    @property
    def method_label(self) -> str:
        """As in the paper's tables: VAE, RME(5); of a variant with its name: RME(2), kl 20."""
        return self.plain_label if self.variant is None else f"{self.plain_label}, {self.variant}"

    @property
    def plain_label(self) -> str:
        """`RME(2)` whatever the variant: what costs the same time and memory."""
        return self.method_class.label if self.order is None else f"{self.method_class.label}({self.order})"

    @property
    def cell(self) -> str:
        """Readable name of the cell: `MNIST d10 RME(5)`, with `fc` after the dim for the FC decoder."""
        decoder = "" if self.decoder == "conv" else f" {self.decoder}"
        return f"{data.label(self.dataset)} d{self.dim}{decoder} {self.method_label}"

    @property
    def run_name(self) -> str:
        return f"{self.cell} seed {self.seed}"


def _readable(error: ValidationError, model: type[BaseModel]) -> str:
    """Pydantic's errors in one line, each with the value and what would be valid."""
    lines = []
    for e in error.errors():
        where = ".".join(map(str, e["loc"]))
        message = e["msg"].removeprefix("Value error, ")
        if e["type"] == "extra_forbidden":
            message = no_such_field(where, model.model_fields)
        if e["type"] == "literal_error":
            valid = re.findall("'([^']*)'", e["ctx"]["expected"])
            message = f"{nearest(str(e['input']), valid)}valid values are {', '.join(valid)}"
        if e["type"] == "missing":
            lines.append(f"{where}: missing ({model.model_fields[where].description})")
        else:
            lines.append(f"{where}={e['input']!r}: {message}" if where else message)
    return "; ".join(lines)


def _digest(values: dict[str, Any]) -> str:
    # repr of a float is its shortest round-trip form, the same everywhere; sort_keys makes the order immaterial
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
