"""Which tracking URIs MLflow can use, without importing it or creating anything."""

from __future__ import annotations

import socket
import sqlite3
import time
from contextlib import closing

import pytest

from analysis.collect import CollectError, collect
from analysis.tracking_uri import TrackingURIError, check_scheme, check_server, check_uri

VALID = [
    "http://host:5000", "https://host/path", "postgresql://u:p@host/db", "postgresql+psycopg2://host/db",
    "mysql+pymysql://host/db", "mssql+pyodbc://host/db", "databricks", "databricks://profile", "sqlite:///mlflow.db",
    "sqlite+pysqlite:////tmp/mlflow.db?timeout=3",
]  # fmt: skip


@pytest.mark.parametrize("uri", VALID)
def test_kinds_that_mlflow_records_in(uri):
    from mlflow.tracking._tracking_service.utils import _get_tracking_scheme_with_resolved_uri

    check_scheme(uri)
    assert _get_tracking_scheme_with_resolved_uri(uri).partition("+")[0] in uri  # "custom_scheme" for unknown ones


@pytest.mark.parametrize("uri", ["foo://bar", "htp://host", "uc://x", "runs:/1", "sqlite://", "sqlite:///:memory:"])
def test_other_kinds_are_refused_with_the_valid_ones(uri):
    with pytest.raises(TrackingURIError, match=r"sqlite:///FILE\.db.*http://HOST:PORT"):
        check_scheme(uri)


def test_a_folder_of_files_is_refused_unless_mlflow_is_told_to_use_it(monkeypatch):
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    for uri, instead in (("mlruns", "mlruns/mlflow.db"), ("./my.db", "./my.db"), ("file:///x", "/x/mlflow.db")):
        with pytest.raises(TrackingURIError, match=f"sqlite:///{instead}$"):
            check_scheme(uri)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    check_uri("mlruns")


def test_a_database_may_be_missing_or_empty_but_not_a_file_of_another_kind(tmp_path):
    uri = f"sqlite:///{tmp_path}/m.db"
    check_uri(uri)
    assert not any(tmp_path.iterdir())
    (tmp_path / "m.db").touch()
    check_uri(uri)
    with closing(sqlite3.connect(tmp_path / "m.db")) as database:
        database.execute("CREATE TABLE t (x)")
    check_uri(uri)
    (tmp_path / "m.db").write_bytes(b"PK" + bytes(100))
    with pytest.raises(TrackingURIError, match=r"m\.db is not a sqlite database"):
        check_uri(uri)


@pytest.mark.parametrize("uri", ["foo://bar", "http://127.0.0.1:9"])
def test_reading_refuses_what_recording_refuses(uri):
    with pytest.raises(CollectError, match=uri):
        collect(uri, "any")


def test_a_machine_that_does_not_accept_is_named_within_seconds():
    """A listener whose queue is full drops connections, as a firewall does."""
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = []
        for _ in range(3):
            each = socket.socket()
            each.setblocking(False)
            each.connect_ex(listener.getsockname())
            waiting.append(each)
        began = time.monotonic()
        with pytest.raises(ConnectionError, match="does not answer"):
            check_server(f"http://127.0.0.1:{listener.getsockname()[1]}")
        assert time.monotonic() - began < 5
        for each in waiting:
            each.close()


@pytest.mark.parametrize("uri", ["http://", "http://:5000", "http://host:99999"])
def test_a_uri_without_a_host_or_with_an_impossible_port(uri):
    with pytest.raises(ConnectionError, match="does not answer"):
        check_server(uri)
