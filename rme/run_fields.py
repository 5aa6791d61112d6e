"""The fields of a run: names, types, defaults, bounds and meanings. Torch is not imported: `--help` lists them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class RunFields(BaseModel):
    """The fields of `rme.RunSpec`, which checks them together and says what follows from them."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    method: str = Field(description="inference method: a name of the registry rme.methods")
    order: int | None = Field(
        default=None, description="order of the method: number of components, flows, SVI or linearisation steps"
    )
    dataset: str = Field(description="data set: a name of the registry rme.data, or the path of an .npz file or folder")
    dim: int = Field(description="latent dimension p", ge=1, le=1024)
    decoder: Literal["conv", "fc"] = Field(
        default="conv", description="decoder network: conv (Tables 1-3) or fc (fully connected, Table 5)"
    )
    seed: int = Field(default=0, description="fixes the train/validation split and all random streams", ge=0, lt=2**31)
    restarts: int = Field(
        default=3, description="trainings of the run; the one with the best validation IWAE is its model", ge=1, le=100
    )
    epochs: int = Field(default=2000, description="epochs of a training from scratch", ge=1)
    batch_size: int = Field(default=128, description="images in a training batch", ge=1)
    learning_rate: float = Field(
        default=5e-4, description="Adam's learning rate in a training from scratch", gt=0, lt=1
    )
    finish_epochs: int = Field(
        default=0, description="how many epochs at the end of a training from scratch use finish_learning_rate", ge=0
    )
    finish_learning_rate: float = Field(
        default=1e-6, description="Adam's learning rate in the last finish_epochs epochs", gt=0, lt=1
    )
    keep: Literal["best", "last"] = Field(
        default="best", description="which epoch's parameters are kept: best validation ELBO, or the last epoch"
    )
    patience: int | None = Field(
        default=None, description="stop when the best validation ELBO is this many epochs old; None: never", ge=1
    )
    iwae_samples: int = Field(default=100, description="samples K of the IWAE estimate (eq. 1)", ge=1)
    precision: Literal["float32", "float64", "bf16"] = Field(
        default="float32",
        description="arithmetic in training; bf16 applies to the networks only, and scores are computed in float32",
    )
    stage_epochs: int | None = Field(
        default=None,
        description="epochs of the stage, which starts from a finished VAE; None: the same as epochs",
        ge=1,
    )
    stage_learning_rate: float | None = Field(
        default=None, description="Adam's learning rate in the stage; None: the method's own", gt=0, lt=1
    )
    stage_keep: Literal["best", "last"] | None = Field(
        default=None, description="which epoch's parameters the stage keeps; None: the same as keep"
    )
    stage_patience: int | None = Field(
        default=None, description="patience of the stage, epochs; None: the same as patience", ge=1
    )
    eps_min: float = Field(default=0.001, description="lower bound of a component's impact eps_m(x)", gt=0, lt=1)
    eps_max: float = Field(default=0.1, description="upper bound of a component's impact eps_m(x)", gt=0, lt=1)
    kl_max: float = Field(default=500.0, description="bound on KL(q_m || Q_{m-1}) in the objective, nats", ge=0)
    options: dict[str, float] = Field(default={}, description="hyperparameters that the method itself declares")
    variant: str | None = Field(
        default=None, description="a name for settings that differ from the row's usual ones; not part of the key"
    )
