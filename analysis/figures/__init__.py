"""The report's figures, each kind in its own file: functions from data frames of runs to figures."""

from __future__ import annotations

import pandas as pd

from analysis.figure import Figure
from analysis.figures.common import unique_names
from analysis.figures.curves import curve_figures
from analysis.figures.differences import difference_figures
from analysis.figures.forest import forest_figures
from analysis.figures.ranks import rank_figures
from analysis.figures.scores import score_figures
from analysis.figures.times import time_figures


def figures(
    runs: pd.DataFrame,
    curves: pd.DataFrame | None = None,
    timings: pd.DataFrame | None = None,
    score: str = "test_iwae",
    expected_seeds: int | None = None,
) -> list[Figure]:
    """All figures that need no trained model.

    Args:
        runs: trainings, one row for each run, as `analysis.collect.collect` returns them.
        curves: as `analysis.collect.curves` returns them; None: no training curves are drawn.
        timings: runs of a timing grid; by default the times that the trainings recorded are used.
        score: a key of `analysis.tables.SCORES`, by which methods are compared.
        expected_seeds: runs of a complete cell; by default as many as the fullest cell of `runs`.

    Returns:
        Figures with distinct names, kind by kind, each kind in the paper's order of data sets and decoders.
    """
    return unique_names(
        [
            *score_figures(runs, score, expected_seeds),
            *difference_figures(runs, score),
            *forest_figures(runs, score),
            *rank_figures(runs, score, expected_seeds),
            *time_figures(runs, timings, score, expected_seeds),
            *(curve_figures(curves, runs) if curves is not None else []),
        ]
    )
