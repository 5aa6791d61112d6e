"""Each promise of docs/reliability.md names at least one test, and these tests exist."""

from __future__ import annotations

import ast
import re

import pytest

from tests import ROOT

ROWS = [line for line in (ROOT / "docs" / "reliability.md").read_text().splitlines() if line.startswith("| ")][1:]
NAMES = sorted({name for row in ROWS for name in re.findall(r"`(test_\w+)(?:\.\.\.)?`", row)})


@pytest.fixture(scope="module")
def existing() -> set[str]:
    trees = (ast.parse(path.read_text()) for path in (ROOT / "tests").rglob("test_*.py"))
    return {node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_promise_names_a_test() -> None:
    assert len(ROWS) > 10
    without = [row for row in ROWS if not re.search(r"`test_\w+(\.\.\.)?`", row)]
    assert without == []


@pytest.mark.parametrize("name", NAMES)
def test_the_named_test_exists(name: str, existing: set[str]) -> None:
    assert any(found.startswith(name) for found in existing)
