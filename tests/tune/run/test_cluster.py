"""How Ray is come by."""

from __future__ import annotations

import pytest
from ray._private import services

from tune.run import cluster
from tune.run.cluster import ClusterError


@pytest.fixture
def slow(monkeypatch) -> list[int]:
    """A Ray whose node is known when it was asked for as often as the list's one number says."""
    asked_for = [3]

    def get_node(address, node):
        asked_for[0] -= 1
        if asked_for[0]:
            raise RuntimeError("not there yet")
        return {}

    def init(**arguments):
        try:
            services.get_node("here", "this one")
        except RuntimeError:  # Ray's own way; but for the thirty seconds
            raise Exception("The current node timed out during startup. So it is.") from None

    monkeypatch.setattr(services, "get_node", get_node)
    monkeypatch.setattr(cluster.ray, "init", init)
    return asked_for


def test_ray_may_be_slow_to_start(slow):
    before = services.get_node
    cluster.connect(None)
    assert slow == [0] and services.get_node is before


def test_a_ray_that_does_not_start_is_named_and_why(slow, monkeypatch):
    slow[0] = 10**9
    monkeypatch.setattr(cluster, "START_S", 0.3)
    with pytest.raises(ClusterError, match="Ray does not start: The current node timed out"):
        cluster.connect(None)


def test_a_cluster_is_joined_not_started(monkeypatch):
    calls = []
    monkeypatch.setattr(cluster.ray, "init", lambda **arguments: calls.append(arguments))
    cluster.connect("auto")
    assert [call["address"] for call in calls] == ["auto"] and "num_cpus" not in calls[0]
