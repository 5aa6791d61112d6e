"""Starting Ray on this machine, and joining a cluster."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress

import pytest
from ray._private import services

from tune.run import cluster
from tune.run.cluster import ClusterError
from tune.run.stopping import Terminated, terminate

pytestmark = pytest.mark.usefixtures("signals")


@pytest.fixture
def slow(monkeypatch) -> list[int]:
    """A Ray whose node is found only at the n-th call of `get_node`; returns [n], which counts down."""
    calls_left = [3]

    def get_node(address, node):
        calls_left[0] -= 1
        if calls_left[0]:
            raise RuntimeError("not found yet")
        return {}

    def init(**arguments):
        try:
            services.get_node("here", "this one")
        except RuntimeError:  # as Ray does, but without waiting for 30 s
            raise Exception("The current node timed out during startup. More text.") from None

    monkeypatch.setattr(services, "get_node", get_node)
    monkeypatch.setattr(cluster.ray, "init", init)
    return calls_left


def test_ray_may_be_slow_to_start(slow):
    before = services.get_node
    cluster.connect(None)
    assert slow == [0] and services.get_node is before


def test_if_ray_does_not_start_the_error_says_why(slow, monkeypatch):
    slow[0] = 10**9
    monkeypatch.setattr(cluster, "START_S", 0.3)
    with pytest.raises(ClusterError, match="Ray does not start: The current node timed out"):
        cluster.connect(None)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_ray_starts_is_said_at_once_and_then_obeyed(monkeypatch, signum):
    """SIGTERM only once Ray has started, because Ray would leave processes."""
    told, started = threading.Event(), []

    def init(**arguments):
        os.kill(os.getpid(), signum)
        # not one long wait: a library's thread may have received the signal, which this thread then handles
        assert any(told.wait(0.1) for _ in range(600))
        started.append(True)

    monkeypatch.setattr(cluster.ray, "init", init)
    monkeypatch.setattr(cluster, "disconnect", lambda: None)
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        with pytest.raises(Terminated if signum == signal.SIGTERM else KeyboardInterrupt):
            cluster.connect(None, told.set)
        assert told.wait(60) and bool(started) == (signum == signal.SIGTERM)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_ctrl_c_that_is_lost_while_ray_starts_is_obeyed_once_it_has_started(monkeypatch):
    """Python drops what a handler raises within the hooks of a fork, and Ray starts processes."""
    ended = []

    def init(**arguments):
        with suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(60)

    monkeypatch.setattr(cluster.ray, "init", init)
    monkeypatch.setattr(cluster, "disconnect", lambda: ended.append(True))
    with pytest.raises(KeyboardInterrupt):
        cluster.connect(None)
    assert ended


def test_a_cluster_is_joined_not_started(monkeypatch):
    calls = []
    monkeypatch.setattr(cluster.ray, "init", lambda **arguments: calls.append(arguments))
    cluster.connect("auto")
    assert [call["address"] for call in calls] == ["auto"] and "num_cpus" not in calls[0]
