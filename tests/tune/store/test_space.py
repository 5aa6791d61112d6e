"""Free space is watched: one warning, then one stop, before a disk is full."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest

from tune.store.space import LOW, Place, SpaceWatch, by_disk, free_bytes, size

STORAGE = Place("--storage s", Path("s"), needed=1000, reserve=100)


class Watched:
    """A watch of places whose free space is set by a test; `said` and `stopped` are what it did."""

    def __init__(self, *places: Place, every_s: float = 1000) -> None:
        self.free: dict[Path, int | OSError] = {}
        self.said: list[str] = []
        self.stopped: list[str] = []
        self.asked = threading.Event()
        self.watch = SpaceWatch(places, self.said.append, self._stop, self._free, every_s)

    def _free(self, folder: Path) -> int:
        value = self.free[folder]
        if isinstance(value, OSError):
            raise value
        return value

    def _stop(self, reason: str) -> None:
        self.stopped.append(reason)
        self.asked.set()


def test_a_disk_that_fills_is_warned_of_once_and_then_stops_the_sweep():
    watched = Watched(STORAGE)
    for free, said, stopped in ((LOW * 100, 0, False), (LOW * 100 - 1, 1, False), (100, 1, False), (99, 1, True)):
        watched.free[STORAGE.folder] = free
        assert watched.watch.look() is stopped
        assert len(watched.said) == said and len(watched.stopped) == stopped
    assert (
        "--storage s" in watched.said[0] and "399 bytes are free" in watched.said[0] and "100 bytes" in watched.said[0]
    )
    assert "--storage s" in watched.stopped[0] and "99 bytes are free" in watched.stopped[0]


def test_each_disk_is_watched_and_one_that_does_not_answer_is_not_full():
    other = Place("MLflow's m.db", Path("m"), needed=10, reserve=50)
    watched = Watched(STORAGE, other)
    watched.free = {STORAGE.folder: OSError("stale"), other.folder: 10_000}
    assert not watched.watch.look() and not watched.said
    watched.free[other.folder] = 49
    assert watched.watch.look() and "m.db" in watched.stopped[0]


def test_the_thread_looks_by_itself_and_ends_with_the_block():
    watched = Watched(STORAGE, every_s=0.001)
    watched.free[STORAGE.folder] = 1
    with watched.watch:
        assert watched.asked.wait(30)
    assert len(watched.stopped) == 1
    idle = Watched(STORAGE)
    with idle.watch:
        pass
    assert not idle.watch._thread.is_alive() and not idle.stopped


def test_places_of_one_disk_are_added(tmp_path):
    first = Place("--storage s", tmp_path / "s" / "not yet", needed=10, reserve=1)
    second = Place("MLflow's m.db", tmp_path, needed=5, reserve=2)
    (both,) = by_disk([first, second])
    assert (both.needed, both.reserve) == (15, 3) and both.named == "--storage s and MLflow's m.db"
    elsewhere = Path("/proc")  # another file system, on Linux
    if elsewhere.is_dir():
        assert len(by_disk([first, Place("/proc", elsewhere, 1, 1)])) == 2


def test_the_free_space_of_a_folder_that_does_not_exist_yet_is_its_disk_s(tmp_path):
    assert free_bytes(tmp_path / "a" / "b") == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.1)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (12_345, "12 kB"), (3_400_000, "3.4 MB"), (5e9, "5.0 GB"),
     (12e12, "12 TB"), (5e15, "5000 TB")],
)  # fmt: skip
def test_sizes_for_people(count, text):
    assert size(int(count)) == text
