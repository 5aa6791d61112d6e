"""Named locks between processes, in a file on the storage. They are released when their process ends or is killed."""

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
"""Errors of file systems without locks."""

RETRY_S = 0.1
"""Pause between tries: longer than `Locks.held_elsewhere` holds a lock."""


class LockTimeout(CommandError, TimeoutError):
    """Another process did not release a lock in time."""


class Locks:
    """Any number of locks in one file: a name's lock is on the byte at the position of the name's hash.

    The kernel releases a process's locks when it dies (on NFS the server does, also if the node is lost), so no lease
    has to be renewed and nothing cleaned up. A process can always take a lock again that it holds itself.

    Args:
        path: the file; created when first needed, and never deleted.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def supported(self) -> bool:
        """Whether the file system has locks. If not, every lock counts as free."""
        try:
            fcntl.lockf(_descriptor(self.path), fcntl.LOCK_SH | fcntl.LOCK_NB, 1, 0)
        except OSError as error:
            return error.errno not in _NO_LOCKS
        return True

    def take(self, names: Collection[str], *, patience_s: float = 0.0) -> bool:
        """Take all of these locks. Returns False, and takes none, if another process holds one for `patience_s` s."""
        deadline = time.monotonic() + patience_s
        while not self._take(names):
            if time.monotonic() >= deadline:
                return False
            time.sleep(min(RETRY_S, patience_s))
        return True

    def _take(self, names: Collection[str]) -> bool:
        taken: list[str] = []
        for name in sorted(names):  # all processes use one order, so that one of them always gets all its locks
            if not self._try(name, fcntl.LOCK_EX | fcntl.LOCK_NB):
                self.give_back(taken)
                return False
            taken.append(name)
        return True

    def give_back(self, names: Collection[str]) -> None:
        """Release these locks."""
        for name in names:
            self._try(name, fcntl.LOCK_UN)

    def held_elsewhere(self, name: str) -> bool:
        """Whether another process holds this lock. To find out, it is taken for a moment."""
        if not self._try(name, fcntl.LOCK_SH | fcntl.LOCK_NB):
            return True
        self._try(name, fcntl.LOCK_UN)
        return False

    @contextmanager
    def holding(self, *names: str, patience_s: float) -> Iterator[None]:
        """Hold these locks during the block. Raises LockTimeout if they are not free within `patience_s` seconds."""
        if not self.take(names, patience_s=patience_s):
            raise LockTimeout(f"{' and '.join(names)}: held by another process for {patience_s:g} s")
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
    """The process's one descriptor of the file. It stays open: closing any descriptor of a file releases all locks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
