"""Each promise of docs/reliability.md names the test that breaks the thing in question; the test has to be there."""

from __future__ import annotations

import ast
import re

import pytest

from tests import ROOT

ROWS = [line for line in (ROOT / "docs" / "reliability.md").read_text().splitlines() if line.startswith("| ")][1:]
NAMES = sorted({name for row in ROWS for name in re.findall(r"`(test_\w+)(?:\.\.\.)?`", row)})


@pytest.fixture(scope="module")
def there() -> set[str]:
    trees = (ast.parse(path.read_text()) for path in (ROOT / "tests").rglob("test_*.py"))
    return {node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_promise_has_one() -> None:
    assert len(ROWS) > 10
    without = [row for row in ROWS if not re.search(r"`test_\w+(\.\.\.)?`", row)]
    assert without == []


@pytest.mark.parametrize("name", NAMES)
def test_it_is_there(name: str, there: set[str]) -> None:
    assert any(found.startswith(name) for found in there)
