"""The device that computes, and its name."""

from __future__ import annotations

import platform
from pathlib import Path

import torch


def pick_device(name: str) -> torch.device:
    """The device called `name`; 'auto' is the first CUDA device, else the CPU. ValueError if it is not available.

    A CUDA device with a number becomes the process's current device, which CUDA graphs and Triton use.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device={name!r} is no device; valid values are auto, cpu, cuda, cuda:N") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={name!r}: torch sees no CUDA device here; use cpu")
    if device.type == "cuda" and device.index is not None:
        if device.index >= torch.cuda.device_count():
            raise ValueError(f"device={name!r}: torch sees only {torch.cuda.device_count()} CUDA devices here")
        torch.cuda.set_device(device)
    return device


def environment(device: torch.device) -> dict[str, str]:
    """The device and software versions that produce a result, as strings."""
    return {
        "device": device_name(device),
        "device_type": device.type,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": str(torch.get_num_threads()),
    }


def device_name(device: torch.device) -> str:
    """The GPU's or the processor's model name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):  # not Linux, or no model name listed
        model = platform.processor() or platform.machine()
    return f"{model} ({torch.backends.cpu.get_cpu_capability()})"


_LOST = (
    "device-side assert", "unspecified launch failure", "illegal memory access", "illegal instruction",
    "misaligned address", "invalid program counter", "hardware stack error", "launch timed out", "ECC error",
    "device is lost", "fallen off the bus", "CUDA error: unknown error", "CUDA-capable device(s) is/are busy",
    "no CUDA-capable device",
)  # fmt: skip
"""Parts of the messages of CUDA errors after which the process cannot use its GPU any more."""


def is_lost(error: BaseException) -> bool:
    """Whether the error means that this process has lost its GPU: each later call on it would fail, too."""
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _LOST)
