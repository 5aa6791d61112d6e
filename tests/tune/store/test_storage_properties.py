"""A storage never returns a damaged result, or one that belongs to another run."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rme.checkpoint import CorruptFile
from rme.result import MARKER
from tests.rme.test_result_properties import made, same
from tune.store.storage import Storage


@settings(max_examples=30)
@given(order=st.permutations(range(3)), cut=st.sets(st.integers(0, 2), max_size=1))
def test_each_run_has_its_own_result_or_none(tmp_path_factory, order, cut):
    storage = Storage(tmp_path_factory.mktemp("storage"))
    results = [made(seed) for seed in range(3)]
    for result, place in zip(results, order, strict=True):
        folder = storage.run_folder(results[place].spec.key)
        result.save(folder)
        if place in cut:
            (folder / MARKER).write_bytes((folder / MARKER).read_bytes()[:-1])
    for place, result in enumerate(results):
        found = storage.result(result.spec)
        if order[place] == place and place not in cut:
            assert found is not None and same(found, result)
        else:
            assert found is None
            with pytest.raises(CorruptFile, match=result.spec.key):
                storage.models(result.spec)
