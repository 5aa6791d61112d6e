"""Shared by the tests of the benchmarks."""

from __future__ import annotations

import sys

import pytest

import bench


@pytest.fixture
def without_pythae(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine where pythae is not installed."""
    for name in list(sys.modules):
        if name.partition(".")[0] == "pythae" or name == "bench.pythae_models":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(bench, "pythae_models", raising=False)
    monkeypatch.setitem(sys.modules, "pythae", None)
