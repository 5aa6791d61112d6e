"""`analysis.collect` reads the database that bench.fill_mlflow writes."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.collect import collect
from bench import fill_mlflow
from tests.databases import blank_database
from tests.sweeping import write_grid


@pytest.mark.long
def test_the_analysis_reads_every_run_of_the_grid(tmp_path) -> None:
    rows = [{"method": "vae"}, {"method": "rme", "order": 2}]
    grid = write_grid(tmp_path / "made-up.yaml", rows, dataset="digits", seed="0-2")
    database = tmp_path / "filled.db"
    uri = blank_database(database)
    assert fill_mlflow.main(["--grid", str(grid), "--out", str(database)]) == 0
    frame = collect(uri, "made-up")
    assert sorted(zip(frame["method"], frame["seed"], strict=True)) == [
        (m, s) for m in ("rme", "vae") for s in range(3)
    ]
    assert np.isfinite(frame["test_iwae"]).all()
