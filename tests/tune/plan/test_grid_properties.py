"""Any grid file, `--only` and `--set`: the right runs, or one clear error."""

from __future__ import annotations

import re
import string
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rme import data, methods
from rme.config import RunSpec, SpecError
from rme.data import DataError
from tests.sweeping import SMALL
from tune.plan import grid as grids
from tune.plan.grid import GridError, load
from tune.plan.grid_files import GRIDS
from tune.plan.grid_options import chosen_grid

SHIPPED = {path.stem: path.read_text() for path in sorted(GRIDS.glob("*.yaml"))}
SHORT = {name: text for name, text in SHIPPED.items() if name not in ("paper", "table5", "smoke")}
"""The grids that load in milliseconds."""

as_shipped = cache(load)  # grids are immutable

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 12),
    st.sampled_from([2**31, 10**30, -1]),
    st.floats(),
    st.dates(),
    st.sampled_from(["all", "lowest", "0-3", "3-0", "1-1", "", " ", "none", "~x.npz", "no.npz", "a\x00.npz", "kl 20"]),
    st.sampled_from([*methods.names(), *data.names(), "RME", "conv", "fc", "best", "last", "bf16"]),
    st.text(max_size=5),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SCALARS, inner, max_size=2),
    max_leaves=5,
)
FIELDS = [*RunSpec.model_fields, "repeats"]
ROWS = st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=4), VALUES, max_size=4)
"""Arbitrary rows."""

LIKELY_ROWS = st.fixed_dictionaries(
    {"method": st.sampled_from([*methods.names(), "all", "not-yet", ["vae", "rme"]])},
    optional={
        "order": st.sampled_from(["all", "lowest", None, 2, [2, 3], "2-4"]),
        "decoder": st.sampled_from(["all", "conv", "fc", "both"]),
        "seed": st.sampled_from(["0-2", 1, [0, "2-3"], "2-0", []]) | VALUES,
        "options": VALUES,
        "dim": st.sampled_from([2, [2, 3], "2-3"]) | VALUES,
        "dataset": st.sampled_from(["digits", "not-yet", ["digits", "mnist"]]) | VALUES,
        "restarts": VALUES,
        "epochs": st.sampled_from([3, 4]) | VALUES,
        "variant": st.sampled_from(["a", "b", None]),
    },
)
"""Rows of which many are valid."""


def written(folder: Path, text: str) -> str:
    path = folder / "any.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    return str(path)


def loaded(path: str, **arguments: Any) -> grids.Grid | None:
    """The grid, or None if an error refuses it that names the file or the argument. Any other error fails the test."""
    try:
        grid = load(path, **arguments)
    except (GridError, SpecError) as error:
        assert path in str(error) or "--only" in str(error) or "--set" in str(error)
        assert str(error).strip() and "Traceback" not in str(error)
        return None
    except DataError as error:  # about an .npz file
        assert ".npz" in str(error).lower()
        return None
    assert grid.runs or grid.absent
    assert len({run.key for run in grid.runs}) == len(grid.runs)
    assert all(type(run).of(run.model_dump()) == run for run in grid.runs)
    return grid


@given(rows=st.lists(ROWS | LIKELY_ROWS | VALUES, max_size=3), defaults=ROWS, more=ROWS, kind=VALUES)
def test_an_arbitrary_document_is_a_grid_or_refused(tmp_path, rows, defaults, more, kind):
    kind = "timing" if isinstance(kind, int) else kind
    content = {"kind": kind, "rows": rows, "defaults": defaults, **more}
    if kind is None:
        del content["kind"]
    loaded(written(tmp_path, yaml.safe_dump(content, allow_unicode=True)))


@given(rows=st.lists(LIKELY_ROWS, min_size=1, max_size=3), name=st.none() | VALUES)
def test_likely_rows_are_a_grid_or_refused(tmp_path, rows, name):
    content = {"rows": rows, "defaults": {"dataset": "digits", **SMALL}}
    if name is not None:
        content["name"] = name
    grid = loaded(written(tmp_path, yaml.safe_dump(content)))
    if grid is not None:
        assert grid.name == str(name if name is not None else "any"), "it becomes the name of folders"


@given(document=VALUES)
def test_a_document_without_rows_is_refused(tmp_path, document):
    with pytest.raises(GridError, match=re.escape(str(tmp_path))):
        load(written(tmp_path, yaml.safe_dump(document)))


ODD = ["", "-", ":", "[", "]", "{", "}", "&a ", "*a", "!!int ", "!!bool ", "!!timestamp ", "!!float ", "!!set ", "? ",
       "<<: ", "rows:", "\t", "\n", "\x07", "é", "'", '"', "#", "|", "%", "@", "---\n", "2026-99-99", "0x", "1_0",
       "0-9", "9-0", "true", "null", ".inf", "seed: 3\n", "&b [*b]"]  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn, texts: dict[str, str]) -> str:
    """A shipped file with some pieces removed, doubled, or replaced by unusual ones."""
    text = texts[draw(st.sampled_from(sorted(texts)))]
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, min(len(text), start + 12)))
        new = draw(st.sampled_from([*ODD, text[start:end] * 2]) | st.text(string.printable, max_size=3))
        text = text[:start] + new + text[end:]
    return text


@settings(max_examples=80)
@given(text=mutated(SHORT))
def test_a_mutated_shipped_grid_is_a_grid_or_refused(tmp_path, text):
    loaded(written(tmp_path, text))


@pytest.mark.parametrize("text", [
    "rows: [{method: vae, dataset: digits, dim: 2, seed: 2026-99-99}]",
    "rows: [{method: vae, dataset: digits, dim: 2, seed: !!int x}]",
    "rows: [{method: vae, dataset: digits, dim: 2, seed: !!bool x}]",
    "rows: [{method: vae, dataset: digits, dim: 2, seed: !!timestamp x}]",
    "rows: [{method: vae, dataset: digits, dim: 2, seed: &a [*a]}]",
    "rows: " + 1000 * "[",
    "rows: [{method: vae, dataset: digits, dim: 2}]\nrows: [{method: vae, dataset: digits, dim: 3}]",
    "rows: [{method: vae, dataset: digits, dim: 2, seed: 1, seed: 2}]",
    "kind: [training]\nrows: [{method: vae, dataset: digits, dim: 2}]",
    "rows: [{method: vae, dataset: digits, dim: 2, seed: 0-99999999999}]",
    "rows: [{method: vae, dataset: digits, dim: 2, 1: 2, x: 3}]",
    f"rows: [{{method: vae, dataset: {'x' * 300}.npz, dim: 2}}]",
    "name: a/../../b\nrows: [{method: vae, dataset: digits, dim: 2}]",
    "rows: [{method: vae, dataset: digits, dim: 2, epochs: yes}]",
])  # fmt: skip
def test_invalid_values_and_malformed_yaml_are_refused(tmp_path, text):
    with pytest.raises((GridError, DataError)) as error:
        load(written(tmp_path, text))
    assert str(tmp_path) in str(error.value) or ".npz" in str(error.value)


@given(st.data())
def test_a_row_s_lists_and_ranges_stand_for_every_combination(tmp_path, data):
    """Compared with a loop over the numbers that each list was made of."""
    chosen: dict[str, list[int]] = {}
    row: dict[str, Any] = {"method": "vae", "dataset": "digits", **SMALL}
    for name in ("seed", "dim"):
        pieces = data.draw(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 3), st.booleans()), min_size=1,
                                    max_size=3))  # fmt: skip
        row[name] = [f"{low}-{low + more}" if more or as_range else low for low, more, as_range in pieces]
        chosen[name] = [value for low, more, _ in pieces for value in range(low, low + more + 1)]
    grid = load(written(tmp_path, yaml.safe_dump({"rows": [row]})))
    found = sorted((run.seed, run.dim) for run in grid.runs)
    assert found == sorted({(seed, dim) for seed in chosen["seed"] for dim in chosen["dim"]})


# ---------------------------------------------------------------------- the command line
ARGUMENTS = st.one_of(
    st.tuples(st.sampled_from([*FIELDS, "options.beta", "options.", "nothing"]), st.text(max_size=6)).map("=".join),
    st.tuples(st.sampled_from(FIELDS), st.sampled_from(ODD)).map("=".join),
    st.tuples(st.sampled_from(FIELDS), SCALARS.map(str)).map("=".join),
    st.text(max_size=6),
)


@pytest.mark.parametrize("name", ["demo", "timing"])
@settings(max_examples=80)
@given(only=st.lists(ARGUMENTS, max_size=2), set_=st.lists(ARGUMENTS, max_size=2))
@example(only=[], set_=["seed=2026-99-99"])
@example(only=[], set_=["options=3", "options.beta=3"])
@example(only=[], set_=["seed=&a [*a]"])
@example(only=["method=a\nb"], set_=[])
@example(only=["method=\n"], set_=[])
@example(only=["seed=3-0"], set_=[])
@example(only=["seed=0-99999999999"], set_=[])
@example(only=[], set_=["dataset=~nobody-at-all/x.npz"])
@example(only=[], set_=["options="])
def test_arbitrary_only_and_set_are_applied_or_refused(name, only, set_):
    try:
        grid = chosen_grid(name, only, set_)
    except (GridError, SpecError) as error:
        text = str(error)
        assert "--only" in text or "--set" in text or any(each.partition("=")[0] in text for each in set_)
        return
    except DataError as error:
        assert ".npz" in str(error).lower()
        return
    assert grid.runs or grid.absent
    if not set_:
        assert {run.key for run in grid.runs} <= {run.key for run in as_shipped(name).runs}


SELECTED_FIELDS = ("method", "order", "dim", "seed", "dataset", "decoder")


@settings(max_examples=50)
@given(st.data())
def test_only_keeps_exactly_the_matching_runs(data):
    whole = as_shipped("timing")
    name = data.draw(st.sampled_from(SELECTED_FIELDS))
    texts = sorted({str(getattr(run, name)) for run in whole.runs})
    wanted = data.draw(st.lists(st.sampled_from(texts), min_size=1, max_size=3))
    spelled = [data.draw(st.sampled_from([text, text.upper()])) for text in wanted]
    grid = chosen_grid("timing", [f"{name}={','.join(spelled)}"])
    assert [run.key for run in grid.runs] == [run.key for run in whole.runs if str(getattr(run, name)) in wanted]


@given(st.data())
def test_set_changes_one_field_of_every_run(data):
    values = {
        "epochs": st.integers(7, 999), "dim": st.integers(1, 1024), "batch_size": st.integers(1, 999),
        "learning_rate": st.floats(0, 1, exclude_min=True, exclude_max=True), "kl_max": st.floats(0, 1e300),
        "keep": st.sampled_from(["best", "last"]), "patience": st.none() | st.integers(1, 99),
    }  # fmt: skip
    name = data.draw(st.sampled_from(sorted(values)))
    value = data.draw(values[name])
    grid = chosen_grid("demo", overrides=[f"{name}={'null' if value is None else value}"])
    before = [run.model_dump() for run in as_shipped("demo").runs]
    assert [run.model_dump() for run in grid.runs] == [{**fields, name: value} for fields in before]


@pytest.mark.parametrize("field", ["method", "seed"])
def test_a_field_given_twice_is_refused(field):
    """Otherwise the first value would be ignored silently."""
    twice = [f"{field}=1", f"{field}=2"]
    for only, overrides in ((twice, []), ([], twice)):
        with pytest.raises(GridError, match=field):
            chosen_grid("demo", only, overrides)
