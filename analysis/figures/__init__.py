"""The figures of the report, each kind in a file of its own: functions of data frames that draw what these allow."""

from __future__ import annotations

import pandas as pd

from analysis.figure import Figure
from analysis.figures.common import unique_names
from analysis.figures.curves import curve_figures
from analysis.figures.differences import difference_figures
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
    """Everything that can be drawn from what MLflow holds.

    Args:
        runs: trainings, one row for each run, as `analysis.collect.collect` gives them.
        curves: as `analysis.collect.curves` gives them; without, there are no training curves.
        timings: as `runs`, of a timing grid; without, times are those that the trainings took down.
        score: a key of `analysis.tables.SCORES`, what methods are judged by.
        expected_seeds: runs of a complete cell; by default as many as the fullest cell of `runs`.

    Returns:
        Figures of different names, kind by kind; of each kind one for each data set and decoder in the paper's order.
    """
    return unique_names(
        [
            *score_figures(runs, score, expected_seeds),
            *difference_figures(runs, score),
            *rank_figures(runs, score, expected_seeds),
            *time_figures(runs, timings, score, expected_seeds),
            *(curve_figures(curves, runs) if curves is not None else []),
        ]
    )
