"""Locks between real processes: who holds one, who gets it next, and what a killed owner leaves."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests import ROOT
from tune.store.locks import Locks, LockTimeout

OWNER = """
import sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from tune.store.locks import Locks
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


def test_who_waits_gets_the_lock_when_it_comes_free(tmp_path, owner):
    first = owner("a")
    release = threading.Timer(0.3, first.kill)
    release.start()
    with Locks(tmp_path / "locks").holding("a", "b", patience_s=30):
        release.join()
        assert not owner("a").took and not owner("b").took
    assert owner("a").took and owner("b").took


def test_who_has_no_patience_does_not_wait(tmp_path, owner):
    owner("a")
    began = time.monotonic()
    with pytest.raises(LockTimeout), Locks(tmp_path / "locks").holding("a", patience_s=0):
        pass
    assert time.monotonic() - began < 5


def test_a_block_that_fails_gives_its_locks_back(tmp_path, owner):
    with pytest.raises(ZeroDivisionError), Locks(tmp_path / "locks").holding("a", patience_s=0):
        raise ZeroDivisionError
    assert owner("a").took


def test_looking_takes_nothing(tmp_path, owner):
    locks = Locks(tmp_path / "locks")
    assert locks.supported and not locks.held_elsewhere("a")
    assert owner("a").took


def test_there_is_a_lock_for_every_name(tmp_path):
    """A kernel's offsets are 63 bits and signed: a larger number is no place for a lock."""
    locks = Locks(tmp_path / "new" / "folder" / "locks")  # made when first needed
    names = [f"run {i}" for i in range(200)]
    assert locks.take(names)
    locks.give_back(names)


@pytest.mark.parametrize(
    ("code", "supported"),
    [(code, False) for code in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)]
    + [(code, True) for code in (errno.EACCES, errno.EAGAIN)],
)
def test_where_there_are_no_locks_every_lock_is_free(tmp_path, monkeypatch, code, supported):
    path = tmp_path / "locks"

    def refuse(descriptor, operation, *_):
        assert operation & fcntl.LOCK_NB or operation == fcntl.LOCK_UN, "it would wait"
        assert os.path.samestat(os.fstat(descriptor), path.stat()), "another file was asked"
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "lockf", refuse)
    locks = Locks(path)
    assert locks.supported == supported
    assert locks.take(["a"]) != supported and locks.held_elsewhere("a") == supported


def test_a_disk_s_error_is_not_taken_for_a_lock(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "lockf", fail)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        Locks(tmp_path / "locks").take(["a"])
