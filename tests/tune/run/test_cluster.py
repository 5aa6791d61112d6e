"""Starting Ray on this machine, and joining a cluster."""

from __future__ import annotations

import pytest
from ray._private import services

from tune.run import cluster
from tune.run.cluster import ClusterError


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


def test_a_cluster_is_joined_not_started(monkeypatch):
    calls = []
    monkeypatch.setattr(cluster.ray, "init", lambda **arguments: calls.append(arguments))
    cluster.connect("auto")
    assert [call["address"] for call in calls] == ["auto"] and "num_cpus" not in calls[0]
