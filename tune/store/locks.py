"""Named locks on a file of the storage, held by a process and given back when it ends, however it ends."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from tune.store.errors import CommandError

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
"""What file systems say that know no locks."""

RETRY_S = 0.1
"""Pause between tries: longer than a lock is held that is only looked at."""


class LockTimeout(CommandError, TimeoutError):
    """A lock that another process did not give back in time."""


class Locks:
    """Any number of locks on one file: a name's lock is that of the byte at the name's hash.

    The kernel gives a process's locks back when it dies (on NFS the server does, also when its node is lost), so there
    is no lease to renew and nothing to clean up. A process never excludes itself.

    Args:
        path: the file; made when first needed, and never deleted.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def supported(self) -> bool:
        """Whether the file system knows locks; without them every lock is free."""
        try:
            fcntl.lockf(_descriptor(self.path), fcntl.LOCK_SH | fcntl.LOCK_NB, 1, 0)
        except OSError as error:
            return error.errno not in _NO_LOCKS
        return True

    def take(self, names: Collection[str]) -> bool:
        """Take all of them or, if another process holds one, none; does not wait."""
        taken: list[str] = []
        for name in sorted(names):  # in one order, so that of several processes one always gets all
            if not self._try(name, fcntl.LOCK_EX | fcntl.LOCK_NB):
                self.give_back(taken)
                return False
            taken.append(name)
        return True

    def give_back(self, names: Collection[str]) -> None:
        for name in names:
            self._try(name, fcntl.LOCK_UN)

    def held_elsewhere(self, name: str) -> bool:
        """Whether another process holds it."""
        if not self._try(name, fcntl.LOCK_SH | fcntl.LOCK_NB):
            return True
        self._try(name, fcntl.LOCK_UN)
        return False

    @contextmanager
    def holding(self, *names: str, patience_s: float) -> Iterator[None]:
        """Hold them for the block's length. Raises LockTimeout if they are not to be had within `patience_s`."""
        deadline = time.monotonic() + patience_s
        while not self.take(names):
            if time.monotonic() >= deadline:
                raise LockTimeout(f"{' and '.join(names)}: held by another process for {patience_s:g} s")
            time.sleep(RETRY_S)
        try:
            yield
        finally:
            self.give_back(names)

    def _try(self, name: str, operation: int) -> bool:
        position = int(hashlib.sha256(name.encode()).hexdigest()[:15], 16)  # 60 bits: below the largest file offset
        try:
            fcntl.lockf(_descriptor(self.path), operation, 1, position)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return False
            if error.errno not in _NO_LOCKS:
                raise
        return True


@cache
def _descriptor(path: Path) -> int:
    """One for each process, kept open: to close any descriptor of a file gives back all the process's locks on it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
