"""How Ray is come by."""

from __future__ import annotations

import pytest

from tune import cluster
from tune.cluster import ClusterError

SLOW = "The current node timed out during startup. This could happen because the GCS has become overloaded."


def starts(monkeypatch, *errors: Exception) -> list[dict]:
    """The calls of a `ray.init` that raises these, one after the other, and then starts."""
    calls: list[dict] = []
    left = list(errors)

    def init(**arguments):
        calls.append(arguments)
        if left:
            raise left.pop(0)

    monkeypatch.setattr(cluster.ray, "init", init)
    return calls


def test_a_ray_that_is_slow_to_start_is_started_again(monkeypatch):
    calls = starts(monkeypatch, Exception(SLOW), Exception(SLOW))
    cluster.connect(None)
    assert len(calls) == 3 and calls[0] == calls[2] and calls[0]["address"] == "local"


def test_a_ray_that_does_not_start_is_named_and_why(monkeypatch):
    starts(monkeypatch, *[Exception(SLOW)] * 10)
    with pytest.raises(ClusterError, match="Ray does not start: The current node timed out"):
        cluster.connect(None)
    calls = starts(monkeypatch, OSError("no sockets left"))
    with pytest.raises(ClusterError, match="Ray does not start: no sockets left"):
        cluster.connect(None)
    assert len(calls) == 1


def test_a_cluster_is_not_started(monkeypatch):
    calls = starts(monkeypatch)
    cluster.connect("auto")
    assert [call["address"] for call in calls] == ["auto"] and "num_cpus" not in calls[0]
