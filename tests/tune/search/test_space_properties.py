"""Any search space file: values that the run can have, or one clear error."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution

from rme.config import RunSpec
from tests.tune.plan.test_grid_properties import ODD, SCALARS, VALUES, mutated, written
from tune.search import space as spaces
from tune.search.space import SpaceError, load

SHIPPED = {path.stem: path.read_text() for path in sorted(spaces.SPACES.glob("*.yaml"))}

CELLS = [
    RunSpec(method="vae", dataset="digits", dim=3),
    RunSpec(method="rme", order=2, dataset="digits", dim=3),
    RunSpec(method="svi", order=50, dataset="digits", dim=3),
]
NUMBERS = st.one_of(
    st.integers(-3, 200), st.floats(), st.floats(0, 1), st.sampled_from([10**400, "1e-6", "nan", "inf", 2**62])
)
RANGES = st.one_of(
    st.fixed_dictionaries({kind: st.lists(NUMBERS, min_size=1, max_size=3)})
    for kind in ("log-uniform", "uniform", "integers", "choices")
)
FIELDS = st.sampled_from([*RunSpec.model_fields, "options.beta", "options."]) | SCALARS
SPACES = st.dictionaries(FIELDS, RANGES | VALUES, max_size=3)


def tried(path: str, cell: RunSpec) -> spaces.Space | None:
    """The space, after checking that a run can have both ends of its ranges; None if an error refuses it by path."""
    try:
        space = load(path, cell)
    except SpaceError as error:
        assert path in str(error)
        return None
    for take in (0, -1):
        values: dict[str, Any] = {
            name: d.choices[take] if isinstance(d, CategoricalDistribution) else (d.low, d.high)[take]
            for name, d in space.fields.items()
        }
        run = space.apply(cell, values)
        assert space.own_values(run) == values
        assert run.parent is None or run.parent.key == cell.parent.key, "a search trains no other parent"
    return space


@given(content=SPACES | VALUES, cell=st.sampled_from(CELLS))
def test_an_arbitrary_document_is_a_space_or_refused(tmp_path, content, cell):
    tried(written(tmp_path, yaml.safe_dump(content, allow_unicode=True)), cell)


LIKELY = st.sampled_from(["learning_rate", "stage_learning_rate", "eps_min", "eps_max", "kl_max", "batch_size",
                          "finish_epochs", "finish_learning_rate", "patience", "stage_epochs"])  # fmt: skip


@given(content=st.dictionaries(LIKELY, RANGES, min_size=1, max_size=3), cell=st.sampled_from(CELLS))
def test_searchable_fields_are_a_space_or_refused(tmp_path, content, cell):
    tried(written(tmp_path, yaml.safe_dump(content)), cell)


@settings(max_examples=150)
@given(text=mutated(SHIPPED), cell=st.sampled_from(CELLS))
def test_a_mutated_shipped_space_is_a_space_or_refused(tmp_path, text, cell):
    tried(written(tmp_path, text), cell)


@given(low=st.floats(1e-6, 0.4), high=st.floats(0.5, 0.999), log=st.booleans())
def test_a_range_has_the_ends_in_the_file(tmp_path, low, high, log):
    path = written(tmp_path, yaml.safe_dump({"eps_max": {"log-uniform" if log else "uniform": [low + 0.001, high]}}))
    found = load(path, CELLS[1]).fields["eps_max"]
    assert (found.low, found.high, found.log) == (low + 0.001, high, log)


@pytest.mark.parametrize("odd", ODD)
def test_malformed_files_are_refused(tmp_path, odd):
    path = written(tmp_path, odd)
    with pytest.raises(SpaceError, match=re.escape(path)):
        load(path, CELLS[1])
