"""Finding a cell's runs where order and variant may be missing."""

from __future__ import annotations

import pandas as pd

from analysis.cells import cell_of, runs_of
from analysis.names import ROW

RUNS = pd.DataFrame(
    {"method": ["vae", "rme", "rme", "rme"], "order": [None, 2, 2, 3], "variant": [None, None, "kl 20", None]}
).astype({"order": "Int64", "variant": "str"})


def test_a_missing_value_equals_a_missing_value_and_no_other():
    for place, row in RUNS.iterrows():
        assert runs_of(RUNS, row, ROW).index.tolist() == [place]
    assert runs_of(RUNS, {"method": "sa", "order": None, "variant": None}, ROW).empty
    assert runs_of(RUNS, RUNS.iloc[1], ["method", "order"]).index.tolist() == [1, 2]


def test_a_cell_is_told_by_plain_values():
    assert [cell_of(row, ROW) for _, row in RUNS.iterrows()] == [
        ("vae", None, None), ("rme", 2, None), ("rme", 2, "kl 20"), ("rme", 3, None)
    ]  # fmt: skip
