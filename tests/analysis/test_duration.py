"""Durations in words."""

from __future__ import annotations

import pytest

from analysis.duration import duration

DAY = 86400


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0.0 s"),
        (4.24, "4.2 s"),
        (9.96, "10 s"),  # never 10.0
        (59.4, "59 s"),
        (59.7, "1.0 min"),  # never 60 s
        (0.09 * 3600, "5.4 min"),
        (89 * 60, "89 min"),
        (90 * 60, "1.5 h"),
        (2.1 * 3600, "2.1 h"),
        (47.4 * 3600, "47 h"),
        (47.6 * 3600, "2.0 days"),
        (3.2 * DAY, "3.2 days"),
        (729 * DAY, "729 days"),
        (1234 * DAY, "3.4 years"),
    ],
)
def test_the_unit_that_a_reader_would_choose(seconds, words):
    assert duration(seconds) == words


def test_what_is_not_a_number_is_refused():
    with pytest.raises(ValueError, match="nan"):
        duration(float("nan"))
