"""Locks between real processes exclude each other, and are released when their owner is killed."""

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
    """A process that takes these locks and holds them until it is killed."""

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


def test_a_lock_is_held_by_one_process_at_a_time(tmp_path, owner):
    locks = Locks(tmp_path / "locks")
    assert locks.supported and not locks.held_elsewhere("a")
    assert owner("a", "b").took
    assert locks.held_elsewhere("a") and locks.held_elsewhere("b") and not locks.held_elsewhere("c")
    assert not locks.take(["c", "b"])
    assert owner("c").took, "a failed `take` keeps none of its locks"
    assert not owner("a").took


def test_a_lock_is_released_when_its_owner_is_killed(tmp_path, owner):
    locks = Locks(tmp_path / "locks")
    first = owner("a")
    assert not locks.take(["a"])
    first.kill()
    assert not locks.held_elsewhere("a")
    assert locks.take(["a"])
    assert not owner("a").took
    locks.give_back(["a"])
    assert owner("a").took


def test_checking_a_lock_releases_none_of_the_process_s_own(tmp_path, owner):
    """POSIX would release them if any descriptor of the file were closed."""
    with Locks(tmp_path / "locks").holding("mine", patience_s=0):
        Locks(tmp_path / "locks").held_elsewhere("other")
        assert not owner("mine").took
    assert owner("mine").took


def test_a_timeout_names_the_lock(tmp_path, owner):
    owner("the run")
    with pytest.raises(LockTimeout, match="the run"), Locks(tmp_path / "locks").holding("the run", patience_s=0.2):
        pass


def test_a_waiting_process_gets_the_lock_when_it_is_released(tmp_path, owner):
    first = owner("a")
    release = threading.Timer(0.3, first.kill)
    release.start()
    with Locks(tmp_path / "locks").holding("a", "b", patience_s=30):
        release.join()
        assert not owner("a").took and not owner("b").took
    assert owner("a").took and owner("b").took


def test_without_patience_nothing_waits(tmp_path, owner):
    owner("a")
    began = time.monotonic()
    with pytest.raises(LockTimeout), Locks(tmp_path / "locks").holding("a", patience_s=0):
        pass
    assert time.monotonic() - began < 5


def test_a_block_that_raises_releases_its_locks(tmp_path, owner):
    with pytest.raises(ZeroDivisionError), Locks(tmp_path / "locks").holding("a", patience_s=0):
        raise ZeroDivisionError
    assert owner("a").took


def test_checking_a_lock_does_not_keep_it(tmp_path, owner):
    locks = Locks(tmp_path / "locks")
    assert locks.supported and not locks.held_elsewhere("a")
    assert owner("a").took


def test_every_name_has_a_lock(tmp_path):
    """The position in the file must be a valid offset, which has 63 bits."""
    locks = Locks(tmp_path / "new" / "folder" / "locks")  # the folder is created when first needed
    names = [f"run {i}" for i in range(200)]
    assert locks.take(names)
    locks.give_back(names)


@pytest.mark.parametrize(
    ("code", "supported"),
    [(code, False) for code in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)]
    + [(code, True) for code in (errno.EACCES, errno.EAGAIN)],
)
def test_on_a_file_system_without_locks_every_lock_is_free(tmp_path, monkeypatch, code, supported):
    path = tmp_path / "locks"

    def refuse(descriptor, operation, *_):
        assert operation & fcntl.LOCK_NB or operation == fcntl.LOCK_UN, "this call would block"
        assert os.path.samestat(os.fstat(descriptor), path.stat()), "not the lock file"
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "lockf", refuse)
    locks = Locks(path)
    assert locks.supported == supported
    assert locks.take(["a"]) != supported and locks.held_elsewhere("a") == supported


def test_a_disk_error_is_not_mistaken_for_a_held_lock(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "lockf", fail)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        Locks(tmp_path / "locks").take(["a"])
