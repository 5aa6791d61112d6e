"""Variants, and rows of a grid that cannot be in one experiment."""

from __future__ import annotations

import pytest

from tune.plan.grid import Grid, GridError, load

HEAD = """\
name: g
defaults: {dataset: digits, dim: 2, epochs: 4, seed: 0-1}
rows:
"""


def grid(tmp_path, *rows: str, **arguments) -> Grid:
    """A grid whose first row is on line 4."""
    path = tmp_path / "g.yaml"
    path.write_text(HEAD + "".join(f"  - {row}\n" for row in rows))
    return load(str(path), **arguments)


def labels(found: Grid) -> list[str]:
    return list(dict.fromkeys(run.method_label for run in found.with_parents()))


def test_a_variant_is_a_cell_of_its_own(tmp_path):
    found = grid(tmp_path, "{method: rme, order: 2}", '{method: rme, order: 2, variant: "kl 20", kl_max: 20}')
    assert [(run.method_label, run.seed, run.kl_max) for run in found.runs] == [
        ("RME(2)", 0, 500.0), ("RME(2)", 1, 500.0), ("RME(2), kl 20", 0, 20.0), ("RME(2), kl 20", 1, 20.0)
    ]  # fmt: skip
    assert len({run.cell_key for run in found.runs}) == 2
    assert labels(found) == ["VAE", "RME(2)", "RME(2), kl 20"]


def test_only_selects_variants(tmp_path):
    rows = ["{method: rme, order: 2}", '{method: rme, order: 2, variant: "kl 20", kl_max: 20}']
    assert {run.kl_max for run in grid(tmp_path, *rows, only={"variant": ["kl 20"]}).runs} == {20.0}
    assert {run.kl_max for run in grid(tmp_path, *rows, only={"variant": ["none"]}).runs} == {500.0}
    with pytest.raises(GridError, match="--only variant=kl 5: the grid has variant none, kl 20"):
        grid(tmp_path, *rows, only={"variant": ["kl 5"]})


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        (
            ["{method: vae}", "{method: rme, order: 2}", "{method: rme, order: [2, 3], kl_max: 20}"],
            ["lines 5 and 6", "digits d2 RME(2)", "kl_max 500.0 and 20.0", "`variant`"],
        ),
        (["{method: rme, order: 2, kl_max: [5, 9]}"], ["line 4", "kl_max 5.0 and 9.0", "a row for each"]),
        # different seeds of one cell
        (["{method: vae, seed: 0}", "{method: vae, seed: 1, epochs: 9}"], ["lines 4 and 5", "epochs 4 and 9"]),
        (
            ["{method: vae, variant: a, epochs: 9}", "{method: vae, variant: a, epochs: 8}"],
            ["lines 4 and 5", "VAE, a", "epochs 9 and 8", "different names"],
        ),
        (
            ["{method: rme, order: 2}", "{method: rme, order: 2, variant: same, kl_max: 500}"],
            ["lines 4 and 5", "RME(2) and digits d2 RME(2), same", "two names"],
        ),
        (
            ["{method: vae}", "{method: rme, order: 2, learning_rate: 0.001}"],
            ["lines 4 and 5", "RME(2) starts from a VAE", "learning_rate 0.0005 and 0.001", "add a row for VAE"],
        ),
        (
            ["{method: rme, order: 2}", "{method: iaf, order: 1, finish_epochs: 2}"],
            ["lines 4 and 5", "start from a VAE with two settings", "finish_epochs unset and 2", "`variant`"],
        ),
        (["{method: vae, variant: ''}"], ["line 4", "variant=''"]),
        (["{method: vae, variant: 20}"], ["line 4", "variant=20"]),
    ],
)
def test_conflicting_rows_are_refused_and_named(tmp_path, rows, named):
    with pytest.raises(GridError) as error:
        grid(tmp_path, *rows)
    for part in (str(tmp_path / "g.yaml"), *named):
        assert part in str(error.value)


def test_a_set_that_makes_two_rows_equal_is_named(tmp_path):
    rows = ["{method: rme, order: 2}", '{method: rme, order: 2, variant: "kl 20", kl_max: 20}']
    with pytest.raises(GridError, match=r"with --set kl_max=7, lines 4 and 5: .* two names"):
        grid(tmp_path, *rows, overrides={"kl_max": 7})
    # with only one of the two rows, as in the command that a search prints
    found = grid(tmp_path, *rows, overrides={"kl_max": 7}, only={"variant": ["kl 20"]})
    assert {run.method_label for run in found.runs} == {"RME(2), kl 20"}


def test_duplicate_rows_make_each_run_once(tmp_path):
    found = grid(tmp_path, "{method: vae}", "{method: vae, kl_max: 7}", "{method: vae, seed: 1-2}")
    assert [run.seed for run in found.runs] == [0, 1, 2]
    # kl_max does not matter, because the VAE does not read it
    assert len({run.cell_key for run in found.runs}) == 1


SLOW = ["{method: vae}", "{method: vae, variant: slow, learning_rate: 0.0001}", "{method: sa, order: 1}"]
FROM_SLOW = "{method: rme, order: 2, learning_rate: 0.0001, seed: 0-2}"


@pytest.mark.parametrize("only", [{}, {"method": ["rme"]}])
def test_a_variant_can_be_started_from(tmp_path, only):
    """Also for a seed that it does not have itself, and when --only excludes it."""
    found = grid(tmp_path, *SLOW, FROM_SLOW, only=only)
    parents = {run.key: run for run in found.with_parents()}
    rme = [run for run in found.runs if run.method == "rme"]
    assert [parents[run.parent.key].method_label for run in rme] == ["VAE, slow"] * 3
    assert ("VAE" in labels(found)) == (not only)


def test_a_row_that_only_excludes_still_sets_its_cell_s_settings(tmp_path):
    rows = ["{method: vae}", "{method: rme, order: 2, epochs: 9}"]
    with pytest.raises(GridError, match=r"lines 4 and 5: .*\(epochs 4 and 9\)"):
        grid(tmp_path, *rows, only={"method": ["rme"]})


def test_other_images_of_the_same_name_are_another_cell(tmp_path):
    from tests.tiny import write_npz

    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    paths = [write_npz(tmp_path / "a" / "spots.npz", 40), write_npz(tmp_path / "b" / "spots.npz", 50)]
    assert len(grid(tmp_path, *(f"{{method: vae, dataset: {path}}}" for path in paths)).runs) == 4
