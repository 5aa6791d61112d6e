"""An exception in one line, whatever its message."""

from __future__ import annotations

import pytest

from rme.errors import first_line, last_line


@pytest.mark.parametrize(
    ("message", "first", "last"),
    [("one", "one", "one"), ("\n one\ntwo \n", "one", "two"), ("", "OSError", "OSError"), (" \n ", *["OSError"] * 2)],
)
def test_an_error_without_a_message_is_named_by_its_type(message, first, last):
    assert (first_line(OSError(message)), last_line(OSError(message))) == (first, last)
