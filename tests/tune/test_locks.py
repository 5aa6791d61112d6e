"""Locks between real processes: who holds one, who gets it next, and what a killed owner leaves."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import ROOT
from tune.locks import Locks, LockTimeout

OWNER = """
import sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from tune.locks import Locks
print(Locks(Path(sys.argv[2])).take(sys.argv[3:]), flush=True)
time.sleep(600)
"""


class Owner:
    """A process that takes the locks of these names and keeps them."""

    def __init__(self, path: Path, *names: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", OWNER, str(ROOT), str(path), *names], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.took = self.process.stdout.readline().strip() == "True"

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def owner(tmp_path):
    owners = []

    def start(*names: str) -> Owner:
        owners.append(Owner(tmp_path / "locks", *names))
        return owners[-1]

    yield start
    for one in owners:
        one.kill()


def test_what_one_process_holds_another_does_not_get(tmp_path, owner):
    locks = Locks(tmp_path / "locks")
    assert locks.supported and not locks.held_elsewhere("a")
    assert owner("a", "b").took
    assert locks.held_elsewhere("a") and locks.held_elsewhere("b") and not locks.held_elsewhere("c")
    assert not locks.take(["c", "b"])
    assert owner("c").took, "what could not be had with all others is not kept"
    assert not owner("a").took


def test_a_lock_dies_with_its_owner(tmp_path, owner):
    locks = Locks(tmp_path / "locks")
    first = owner("a")
    assert not locks.take(["a"])
    first.kill()
    assert not locks.held_elsewhere("a")
    assert locks.take(["a"])
    assert not owner("a").took
    locks.give_back(["a"])
    assert owner("a").took


def test_looking_at_a_lock_gives_none_of_its_own_back(tmp_path, owner):
    """As POSIX does when any descriptor of the file is closed."""
    with Locks(tmp_path / "locks").holding("mine", patience_s=0):
        Locks(tmp_path / "locks").held_elsewhere("other")
        assert not owner("mine").took
    assert owner("mine").took


def test_who_waits_too_long_is_told_for_what(tmp_path, owner):
    owner("the run")
    with pytest.raises(LockTimeout, match="the run"), Locks(tmp_path / "locks").holding("the run", patience_s=0.2):
        pass
