"""Floating-point precision: training may use bfloat16 and TF32, scoring never does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bf16": torch.float32}
"""The dtype of parameters, losses and scores, for each `RunSpec.precision`."""

_networks: ContextVar[torch.dtype | None] = ContextVar("networks", default=None)
_tf32: ContextVar[bool] = ContextVar("tf32", default=True)


def of_networks() -> torch.dtype | None:
    """The dtype in which the networks' layers currently compute; None for that of their input."""
    return _networks.get()


@contextmanager
def training(name: str) -> Iterator[None]:
    """Training with this `RunSpec.precision`: for 'bf16', network layers compute in bfloat16. Allows TF32 on a GPU.

    Distributions, losses, gradients of parameters and Adam stay in the dtype of `DTYPES`.
    """
    with _arithmetic(tf32=_tf32.get(), networks=torch.bfloat16 if name == "bf16" else None):
        yield


@contextmanager
def without_tf32() -> Iterator[None]:
    """Within this context `training` leaves TF32 off, so that a GPU's float32 can be judged without it."""
    token = _tf32.set(False)
    try:
        yield
    finally:
        _tf32.reset(token)


@contextmanager
def scoring() -> Iterator[None]:
    """Disable TF32 and bfloat16, so that reported values are float32 (or float64) throughout."""
    with _arithmetic(tf32=False, networks=None):
        yield


@contextmanager
def _arithmetic(tf32: bool, networks: torch.dtype | None) -> Iterator[None]:
    matmul = torch.backends.cuda.matmul
    before, matmul.allow_tf32 = matmul.allow_tf32, tf32
    token = _networks.set(networks)
    try:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=tf32):
            yield
    finally:
        _networks.reset(token)
        matmul.allow_tf32 = before
