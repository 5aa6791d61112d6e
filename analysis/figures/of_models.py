"""The figures that need the trained models, from an experiment's runs.

Importing this imports `rme` and torch, which the other figures do not need.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from analysis.figure import Figure
from analysis.figures.gaps import gap_figures
from analysis.figures.growth import growth_figures
from analysis.figures.pictures import picture_figures, slug_of
from analysis.figures.posteriors import posterior_figures
from analysis.measures import Budget, measure
from analysis.models import Models, Note, shown_models
from analysis.progress import Steps
from analysis.tables import slug


def figures_of_runs(
    tracking_uri: str,
    runs: pd.DataFrame,
    cache: Path,
    budget: Budget | None = None,
    steps: Steps | None = None,
) -> tuple[list[Figure], list[str]]:
    """The figures of an experiment's shown runs, and for each cell that is left out a line with the reason.

    Args:
        tracking_uri: the MLflow store.
        runs: its runs, as `analysis.collect.collect` returns them.
        cache: as for `model_figures`.
        budget: as for `model_figures`.
        steps: as for `model_figures`.
    """
    models = shown_models(tracking_uri, runs, steps)
    figures, notes = model_figures(models, cache, budget, steps)
    return figures, [_line(note) for note in [*models.notes, *notes]]


def model_figures(
    models: Models,
    cache: Path,
    budget: Budget | None = None,
    steps: Steps | None = None,
) -> tuple[list[Figure], list[Note]]:
    """Figures of gaps, IWAE by K, posteriors of models with two latents, reconstructions and samples.

    Args:
        models: from `analysis.models.shown_models`.
        cache: folder of the computed numbers, which later calls read.
        budget: how much is computed, and for how long; by default `Budget()`.
        steps: as for `analysis.measures.measure`.

    Returns:
        the figures, whose captions say which cells are left out and why; and a note for each cell whose numbers could
        not be computed.
    """
    measures = measure(models, budget or Budget(), cache, steps)
    computed = [
        *gap_figures(measures.gaps),
        *growth_figures(measures.growth),
        *posterior_figures(measures.panels),
    ]
    figures = [
        *_with_notes(computed, [*models.notes, *measures.notes]),
        *_with_notes(picture_figures(models.shown), models.notes),
    ]
    return figures, measures.notes


def _with_notes(figures: Sequence[Figure], notes: Sequence[Note]) -> list[Figure]:
    """The figures, with the cells of their column that are missing added to each caption."""
    found = []
    for figure in figures:
        left_out = [note for note in notes if _concerns(figure, note)]
        said = "; ".join(f"{note.row.label} ({note.reason})" for note in left_out)
        found.append(replace(figure, caption=f"{figure.caption} Left out: {said}.") if said else figure)
    return found


def _concerns(figure: Figure, note: Note) -> bool:
    column = note.column
    of_posteriors = figure.name == f"posteriors-{slug(column.dataset_label)}-{slug(column.decoder)}" and column.dim == 2
    return of_posteriors or figure.name.endswith(f"-{slug_of(column)}")


def _line(note: Note) -> str:
    column = note.column
    decoder = "" if column.decoder == "conv" else f" {column.decoder}"
    return f"{column.dataset_label} d{column.dim}{decoder} {note.row.label}: {note.reason}"
