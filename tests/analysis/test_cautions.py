"""Warnings about misleading settings: each appears for its mistake, names rows and values, and is absent otherwise."""

from __future__ import annotations

import pandas as pd
import pytest

from analysis.cautions import PAPER_RESTARTS, cautions
from rme.config import RunSpec
from tune.plan.cautions import frame
from tune.plan.grid import load
from tune.plan.grid_files import GRIDS

SEEDS = range(6)


def run(method="vae", order=None, **fields) -> list[RunSpec]:
    """Runs of one cell, six seeds with the paper's restarts."""
    seeds = fields.pop("seeds", SEEDS)
    return [RunSpec(method=method, order=order, seed=s, **{"dataset": "digits", "dim": 10, "epochs": 80, **fields})
            for s in seeds]  # fmt: skip


def warnings(*cells: list[RunSpec]) -> list[str]:
    return cautions(frame(spec for cell in cells for spec in cell))


STAGE = {"stage_epochs": 6, "stage_learning_rate": 1e-4}


def test_equal_terms_have_no_warning():
    """Staged rows with their control, at several data sets and dims, and a row from scratch trained as the VAE."""
    cells = [
        run(method, order, dataset=dataset, dim=dim, **(STAGE if method in ("rme", "me", "vae-more") else {}))
        for dataset in ("digits", "mnist")
        for dim in (10, 20)
        for method, order in (("vae", None), ("vae-more", None), ("rme", 2), ("me", 3), ("sa", 2), ("svi", 10))
    ]
    assert warnings(*cells) == []
    assert cautions(pd.DataFrame()) == []


def test_a_stage_that_is_far_shorter_than_its_vae_is_barely_trained():
    """3 epochs at 1e-6 beside 80 at 5e-4: (80 x 5e-4) / (3 x 1e-6) = 13,333."""
    low = {"stage_epochs": 3, "stage_learning_rate": 1e-6}
    (line,) = warnings(run(), run("rme", 2, **low), run("rme", 5, **low), run("vae-more", **low))
    assert line.startswith("RME(2, 5), VAE-more: barely trained")
    assert "3 epochs at 1e-6" in line and "1/13,333 of the VAE's 80 epochs at 5e-4" in line
    assert "stage_learning_rate" in line


def test_stages_of_very_different_lengths_are_unequal():
    """RME's 80 epochs at 1e-6 beside ME's 80 at 5e-4: 500 times less, though each has its control."""
    own = {"stage_learning_rate": 5e-4, "variant": "own"}
    (line,) = warnings(
        run(), run("vae-more"), run("rme", 2), run("me", 2, stage_learning_rate=5e-4), run("vae-more", **own)
    )
    assert line.startswith("RME(2), VAE-more: unequal stages: 80 epochs at 1e-6 is 1/500 of ME(2)'s 80 epochs at 5e-4")


def test_a_row_without_an_equal_control_is_named_with_the_row_to_add():
    rows = run("rme", 2, **STAGE), run("rme", 3, **STAGE)
    (line,) = warnings(run(), *rows)
    assert line.startswith("RME(2, 3): no control")
    assert "{method: vae-more, stage_epochs: 6, stage_learning_rate: 1e-4}" in line
    other = run("vae-more", stage_epochs=6, stage_learning_rate=2e-4)
    (line,) = warnings(run(), *rows, other)  # a second row of the control needs a variant
    assert "stage_learning_rate: 1e-4, variant: NAME}" in line
    assert warnings(run(), *rows, run("vae-more", **STAGE)) == []


def test_a_column_in_which_the_control_is_missing_is_named():
    cells = [[*run(dim=dim), *run("rme", 2, dim=dim, **STAGE)] for dim in (10, 20, 50)]
    controls = [run("vae-more", dim=dim, **STAGE) for dim in (10, 50)]
    (line,) = warnings(*cells, *controls)
    assert line.startswith("RME(2) at dim 20: no control")


def test_a_row_from_scratch_that_is_trained_longer_than_the_vae_is_on_unequal_terms():
    (line,) = warnings(run(), run("sa", 2, epochs=90))
    assert line.startswith("SA(2): unequal terms: epochs 90, not 80 as VAE has")
    assert warnings(run(), run("sa", 2, epochs=90), run(epochs=90, variant="long")) == []


def test_a_row_that_starts_from_another_vae_is_named():
    (line,) = warnings(run(), run("rme", 2, **STAGE, epochs=70), run("vae-more", **STAGE, epochs=70))
    assert line.startswith("RME(2), VAE-more: another start") and "epochs 70, not 80" in line


@pytest.mark.parametrize(("seeds", "warned"), [(range(4), True), (range(5), False)])
def test_five_pairs_are_the_fewest_for_a_test(seeds, warned):
    """One-sided, n pairs give at least p = 2^-n: 4 give 1/16 > .05, 5 give 1/32."""
    found = warnings(run(seeds=seeds), run("sa", 2, seeds=seeds))
    assert found == [line for line in found if line.startswith("all rows: too few seeds: 4 seeds")]
    assert bool(found) is warned
    assert warnings(run(seeds=seeds)) == []  # one row is compared with nothing


def test_only_seeds_in_common_make_pairs():
    (line,) = warnings(run(), run("sa", 2, seeds=range(3, 9)))
    assert "6 seeds, 3 of them in common" in line


def test_fewer_restarts_than_the_paper():
    assert RunSpec.model_fields["restarts"].default == PAPER_RESTARTS
    rows = [("vae", None), ("sa", 2)]
    (line,) = warnings(*(run(*row, restarts=1, dataset="mnist") for row in rows))
    assert line.startswith("all rows: 1 restart where the paper has 3") and "restarts=3" in line
    assert warnings(*(run(*row, restarts=1, dataset="digits") for row in rows)) == [], "not in the paper"


def test_long_lists_of_rows_and_columns_are_cut():
    rows = [run("sa", order, variant=name, restarts=2, dataset="mnist") for order in (1, 2) for name in "abcdefgh"]
    lines = [line for line in warnings(run(dataset="mnist"), *rows) if "the paper has" in line]
    assert len(lines) == 1 and "SA(1, 2), a; " in lines[0] and "; 2 more rows: 2 restarts" in lines[0]


def test_the_project_s_grids_have_at_most_a_handful_of_warnings():
    """The paper's own terms: HF, IAF and ME have no control, and the stages' rates differ by 500."""
    found = {path.stem: cautions(frame(load(path.stem).with_parents())) for path in GRIDS.glob("*.yaml")}
    assert all(len(lines) <= 4 for lines in found.values())
    assert found["table5"] == [] and len(found["paper"]) == 3
    assert found["timing"] == []
    assert found["demo"] == []
    for name in ("equal", "pilot", "mnist-d10-longer"):
        assert [line.partition(" where")[0] for line in found[name]] == ["all rows: 1 restart"]


def test_a_grid_s_frame_has_the_columns_of_recorded_runs():
    """As `analysis.collect` gives them: text and numbers, NA where a run has no such setting."""
    table = frame([*run(seeds=[3]), *run("rme", 2, seeds=[3], **STAGE)])
    assert table["method_label"].tolist() == ["RME(2)", "VAE"] and table["seed"].tolist() == [3, 3]
    assert table["starts_from"].tolist() == ["vae", "scratch"]
    assert table["stage_epochs"].tolist()[0] == 6 and table["stage_epochs"].isna().tolist() == [False, True]
    assert table["test_iwae"].isna().all()
