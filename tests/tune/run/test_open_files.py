"""The limit of open files is raised for this process and those that it starts."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from tests import ROOT
from tune.run.open_files import WANTED, allow_many_open_files

SCRIPT = """
import resource, subprocess, sys
from tune.run.open_files import allow_many_open_files
resource.setrlimit(resource.RLIMIT_NOFILE, tuple(map(int, sys.argv[1:])))
print(allow_many_open_files(), subprocess.check_output(["sh", "-c", "ulimit -Sn; ulimit -Hn"], text=True))
"""


@pytest.mark.parametrize(("soft", "hard"), [(64, 512), (512, 512)])
def test_a_child_inherits_the_raised_limit(soft, hard):
    command = [sys.executable, "-c", SCRIPT, str(soft), str(hard)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["512", "512", "512"]


def test_a_limit_that_is_high_enough_stays():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        found = allow_many_open_files()
        assert found == resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= min(before[0], WANTED)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] == before[1]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
