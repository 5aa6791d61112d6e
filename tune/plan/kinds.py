"""What the runs of a grid are: trainings, or timings of inference."""

from __future__ import annotations

from dataclasses import dataclass

from rme.config import RunSpec
from rme.timing import TimingSpec


@dataclass(frozen=True)
class Kind:
    """The differences between kinds of grids.

    Attributes:
        name: its name after `kind:` in a grid's file.
        spec: the class of its runs.
        fields: the fields of a run that a grid may set.
        trains: whether its runs train a model and score it. Only these have scores, estimated hours and a report.
        alone: whether each run is a trial by itself, with cores or whole GPUs of its own.
    """

    name: str
    spec: type[RunSpec]
    fields: tuple[str, ...]
    trains: bool
    alone: bool


TRAINING = Kind("training", RunSpec, tuple(RunSpec.model_fields), trains=True, alone=False)
TIMING = Kind("timing", TimingSpec, TimingSpec.FIELDS, trains=False, alone=True)

KINDS = {kind.name: kind for kind in (TRAINING, TIMING)}


def kind_of(spec: RunSpec) -> Kind:
    """The kind of grid that this run belongs to."""
    return next(kind for kind in KINDS.values() if type(spec) is kind.spec)
