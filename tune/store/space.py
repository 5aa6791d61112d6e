"""Watches the free space of the disks that a sweep writes to, and has the sweep stopped before one is full."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tune.store.folders import nearest_existing

EVERY_S = 10.0
"""Pause between two looks."""

LOW = 4
"""A disk with less than so many times its reserve is low."""


@dataclass(frozen=True)
class Place:
    """A folder that a sweep writes to.

    Attributes:
        named: it, as the user knows it.
        folder: need not exist.
        needed: bytes that the sweep will write there in all.
        reserve: bytes that must stay free, so that what is running can be saved.
    """

    named: str
    folder: Path
    needed: int
    reserve: int


def free_bytes(folder: Path) -> int:
    """Free space of the disk that a folder is on, or would be on. OSError propagates."""
    return shutil.disk_usage(nearest_existing(folder)).free


def by_disk(places: Iterable[Place]) -> list[Place]:
    """The places, with those on one disk as one: their sums, by the names of all."""
    found: dict[int, Place] = {}
    for place in places:
        disk = nearest_existing(place.folder).stat().st_dev
        before = found.get(disk)
        found[disk] = place if before is None else Place(
            f"{before.named} and {place.named}", before.folder, before.needed + place.needed,
            before.reserve + place.reserve,
        )  # fmt: skip
    return [*found.values()]


def size(count: int) -> str:
    """A number of bytes for people: `12 GB`, `3.4 MB`."""
    value, unit = float(count), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.1f} {unit}" if unit != "bytes" and value < 10 else f"{value:.0f} {unit}"


class SpaceWatch:
    """Within its block, a thread looks at the free space of each disk; it warns once, and asks for a stop once.

    Args:
        places: one for each disk (`by_disk`).
        say: prints a line.
        stop: called with the reason when a disk has less than its reserve.
        free: the free bytes of a folder's disk.
        every_s: pause between two looks.
    """

    def __init__(
        self,
        places: Iterable[Place],
        say: Callable[[str], object],
        stop: Callable[[str], object],
        free: Callable[[Path], int] = free_bytes,
        every_s: float = EVERY_S,
    ) -> None:
        self.places = list(places)
        self.say = say
        self.stop = stop
        self.free = free
        self.every_s = every_s
        self._low: set[str] = set()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="disk space", daemon=True)

    def look(self) -> bool:
        """Look at each disk once. Returns whether the stop was asked for."""
        for place in self.places:
            try:
                free = self.free(place.folder)
            except OSError:  # for example of a network file system that does not answer: say nothing wrong
                continue
            if free < place.reserve:
                self.stop(f"the disk of {place.named} is nearly full, {size(free)} are free")
                return True
            if free < LOW * place.reserve and place.named not in self._low:
                self._low.add(place.named)
                self.say(
                    f"the disk of {place.named} is filling up, {size(free)} are free; at {size(place.reserve)} the "
                    "sweep saves its checkpoints and stops"
                )
        return False

    def __enter__(self) -> SpaceWatch:
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._ended.set()
        with suppress(RuntimeError):
            self._thread.join(timeout=1)

    def _run(self) -> None:
        while not self._ended.wait(self.every_s):
            if self.look():
                return
