"""Shared by the tests: one thread, tiny images and engines on them, and what sweeps need.

Torch is imported late, for the process that only hands out tests to others needs none.
"""

from __future__ import annotations

import gc
import importlib.util
import signal
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from tests.tiny import Tiny

gc.disable()  # imports make a million objects and no garbage; looking for it takes half of the collection's time


@pytest.hookimpl(trylast=True)  # after what looks at which lines are reached, also of imports
def pytest_sessionstart(session: pytest.Session) -> None:
    if session.config.getoption("numprocesses", None) and not hasattr(session.config, "workerinput"):
        return  # hands out tests, and runs none
    import torch

    from rme import allocator

    torch.set_num_threads(1)
    allocator.keep_freed_memory()
    if not torch.cuda.is_available() and importlib.util.find_spec("triton") is not None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TRITON_INTERPRET", "1")  # its own functions are made for what is said as it is imported
            import triton  # noqa: F401


@pytest.hookimpl(trylast=True)  # after what puts tests in random order
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files with the longest tests first: one that is begun last is waited for by the other processes."""

    def seconds(item: pytest.Item) -> float:
        mark = item.get_closest_marker("long")
        if mark is not None:
            return mark.args[0] if mark.args else 5
        return 60 if {"ray_folder", "network"} & {*getattr(item, "fixturenames", ())} else 0

    long: Counter[Path] = Counter()
    for item in items:
        long[item.path] += seconds(item)
    files = {path: place for place, path in enumerate(dict.fromkeys(item.path for item in items))}
    items.sort(key=lambda item: (-long[item.path], files[item.path], item.get_closest_marker("last") is not None))


@pytest.fixture
def signals() -> Iterator[None]:
    """Signals as in a terminal: `nohup`, or a shell's `&`, would have these tests ignore them."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {signum: signal.signal(signum, handler) for signum, handler in usual.items()}
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    gc.freeze()  # else the interpreter looks at each object once more as it ends


# the same examples each time, and nothing kept between runs; a busy machine makes no test fail by its slowness
hypothesis.settings.register_profile(
    "repeatable",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=100,
    suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.function_scoped_fixture],
)
hypothesis.settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def tiny() -> Tiny:
    from tests.tiny import Tiny

    return Tiny()


@pytest.fixture(scope="session", autouse=True)
def narrow_networks():
    """Images of 8x8, of which no data set is, get networks of few channels instead of those of Tables 1-3."""
    from rme import nets

    tables = nets.convolutions

    def narrow(image_shape: tuple[int, int, int]) -> tuple[list[int], list[int], int]:
        sides, channels, width = tables(image_shape)
        return (sides, [4, 4, 8], 16) if image_shape[1] == 8 else (sides, channels, width)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nets, "convolutions", narrow)
        yield


@pytest.fixture(scope="session")
def small() -> Tiny:
    """With images of 8x8 and narrow networks, which train several times as fast: for what is not about either."""
    from tests.tiny import Tiny

    return Tiny(8)


@pytest.fixture
def generator() -> torch.Generator:
    import torch

    return torch.Generator().manual_seed(20)


@pytest.fixture(scope="module")
def ray_folder():
    """A folder for the Ray of a file's sweeps, which is ended with it."""
    from tests.sweeping import short_folder

    with short_folder() as folder:
        yield folder


@pytest.fixture
def hold(tmp_path):
    from tests.sweeping import Hold

    with Hold(tmp_path / "hold") as hold:
        yield hold
