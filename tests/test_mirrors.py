"""Whoever changes a file finds its tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import ROOT, mirrors


@pytest.mark.parametrize("file", mirrors.sources(), ids=str)
def test_every_file_has_tests(file: Path) -> None:
    tests = mirrors.tests_of(file)
    assert tests, f"add tests of its name, or say in tests/mirrors.py which tests are those of {file}"
    assert [test for test in tests if not (ROOT / test).exists()] == []


@pytest.mark.parametrize("name", mirrors.ELSEWHERE)
def test_what_is_listed_is_there_and_adds_to_the_tests_of_its_name(name: str) -> None:
    assert (ROOT / name).exists()
    asked = [mirrors.tests_of(file) for file in mirrors.sources() if name in (str(file), str(file.parent))]
    assert any(set(tests) >= {f"tests/{test}" for test in mirrors.ELSEWHERE[name].split()} for tests in asked)
    assert all(len(tests) == len(set(tests)) for tests in asked)
