"""Numbers of things in words."""

from __future__ import annotations

from analysis.words import counted


def test_one_of_a_thing_is_singular_and_thousands_are_separated():
    assert [counted(count, "run") for count in (0, 1, 2, 6560)] == ["0 runs", "1 run", "2 runs", "6,560 runs"]
