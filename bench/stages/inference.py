"""What q(z|x) of a batch costs: methods against the VAE, which computes something else, and against plain modules."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from bench import models
from bench.harness import quick_settings
from bench.inference import inference_rows
from bench.stages.case import Case
from rme.config import RunSpec

METHODS = (("rme", 5), ("iaf", 8), ("sa", 8), ("hf", 8), ("vae", None))
"""A flow's time includes one draw, because it gives q(z|x) only through draws."""


def cases(device: torch.device) -> Iterator[Case]:
    """One model of each method."""
    settings = quick_settings(device)

    def case(run: RunSpec) -> Case:
        return Case(run.method_label, lambda: inference_rows(run, 1, settings))

    for method, order in METHODS:
        yield case(models.spec(method, order))
