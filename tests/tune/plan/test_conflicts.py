"""A sweep is refused if its experiment holds runs of the same cells with other settings."""

from __future__ import annotations

import pytest
from mlflow.entities import Param, Run, RunData, RunInfo, RunTag

from rme.config import SCHEMA
from tests.tune.plan.test_grid import spec
from tune.plan.conflicts import SettingsError, check_settings, other_settings
from tune.plan.grid import Grid


def recorded(run, key: str | None = None, **tags: str) -> Run:
    """A finished run as MLflow returns it."""
    info = RunInfo("id", "0", "user", "FINISHED", 0, 1, "active")
    values = {"run_key": key or run.key, "git_commit": "0123456789", **tags}
    params = [Param(*item) for item in run.params.items()]
    return Run(info, RunData(params=params, tags=[RunTag(name, value) for name, value in values.items()]))


def grid(*runs) -> Grid:
    return Grid("g", "", runs, ())


def message(ours, theirs) -> str | None:
    return other_settings(grid(*ours), theirs)


def test_the_same_settings_are_accepted():
    ours = [spec(seed=s) for s in range(3)] + [spec("rme", 2)]
    assert message(ours, [recorded(run) for run in ours]) is None
    assert message(ours, [recorded(spec(seed=7))]) is None, "another seed of the same cell"
    assert message(ours, [recorded(spec(dim=4, epochs=9))]) is None, "another cell"
    # a field that the method does not read does not matter
    assert message(ours, [recorded(spec(seed=1, kl_max=9))]) is None


def test_other_settings_of_the_same_cell_are_named():
    text = message(
        [spec(epochs=200, learning_rate=0.1)], [recorded(spec(epochs=80)), recorded(spec(epochs=80, seed=9))]
    )
    assert text is not None
    for part in ("2 finished runs", "epochs 80 -> 200", "learning_rate 0.001 -> 0.1", "01234567", "--experiment"):
        assert part in text
    assert "seed" not in text


def test_the_settings_of_a_starting_point_are_compared_too():
    assert "batch_size 11 -> 8" in str(message([spec("rme", 2, batch_size=8)], [recorded(spec())]))


def test_another_version_of_the_code_is_named():
    """The settings are the same and the key differs, because the code or the images changed."""
    assert f"schema 0 -> {SCHEMA}" in str(message([spec()], [recorded(spec(), key="other", schema="0")]))
    assert "data digits-0 -> digits-1" in str(message([spec()], [recorded(spec(), key="other", data="digits-0")]))
    assert "git_commit" in str(message([spec()], [recorded(spec(), key="other")]))


def test_two_variants_are_two_cells():
    both = [spec("rme", 2, kl_max=5.0), spec("rme", 2, kl_max=10.0, variant="kl 10")]
    assert message(both, [recorded(run) for run in both]) is None
    # --only keeps one of them; the other is recorded
    assert message(both[:1], [recorded(both[1])]) is None
    assert "kl_max 10.0 -> 5.0" in str(message([spec("rme", 2, kl_max=5.0, variant="kl 10")], [recorded(both[1])]))


@pytest.mark.parametrize("seed", [0, 9])
def test_runs_recorded_under_another_variant_name_are_named(seed):
    """Also other seeds, because a cell cannot have two names."""
    plain, named = spec("rme", 2), spec("rme", 2, variant="usual")
    assert "variant usual -> none" in str(message([plain], [recorded(named.model_copy(update={"seed": seed}))]))
    assert "variant none -> usual" in str(message([named], [recorded(plain.model_copy(update={"seed": seed}))]))


def test_the_check_raises_the_message():
    with pytest.raises(SettingsError, match="epochs 3 -> 2"):
        check_settings(grid(spec()), [recorded(spec(epochs=3))])
