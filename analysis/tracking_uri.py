"""Where MLflow records: the default, and whether a URI can be used. MLflow itself is not imported for that."""

from __future__ import annotations

import os
import socket
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

DEFAULT_TRACKING_URI = "sqlite:///mlflow.db"

REACH_S = 2.0
"""How long a machine may take to accept a connection; it does so even when its server is busy."""

CONNECT_S = 10.0
"""How long a tracking server may take to answer at all; MLflow itself would retry for minutes."""

SERVERS = ("http", "https")
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_OTHERS = ("databricks",)
_VALID = (
    "valid are sqlite:///FILE.db, the URI of a server (http://HOST:PORT, https://...), another database "
    "(postgresql://, mysql://, mssql://) and databricks"
)
_ALLOW_FOLDERS = "MLFLOW_ALLOW_FILE_STORE"
"""The environment variable without which MLflow refuses to record in a folder of files."""
_SQLITE = b"SQLite format 3\0"
"""The first bytes of a sqlite database that is not empty."""


class TrackingURIError(ValueError):
    """MLflow cannot record at a URI. The message says why and what would be valid; it does not name the URI."""


def default_tracking_uri() -> str:
    """$MLFLOW_TRACKING_URI if it is set, else a database in the current folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_TRACKING_URI


def sqlite_path(uri: str) -> Path | None:
    """The database file of a sqlite URI, absolute; None for other URIs."""
    scheme, found, path = uri.partition(":///")
    if not found or scheme.partition("+")[0] != "sqlite":  # sqlite+pysqlite: with SQLAlchemy's name of a driver
        return None
    return Path(path.partition("?")[0]).resolve()


def check_uri(uri: str) -> None:
    """Raise TrackingURIError if MLflow cannot record at a URI. Creates nothing and uses no network.

    A sqlite database need not exist, but its folder must, and a file that exists must be a sqlite database.
    """
    check_scheme(uri)
    path = sqlite_path(uri)
    if path is None:
        return
    if path.is_dir():
        raise TrackingURIError(f"{path} is a folder, not a database; a file in it is sqlite:///{path / 'mlflow.db'}")
    if path.exists():
        _check_database(path)
    if not path.parent.is_dir():
        what = "is a file" if path.parent.exists() else "does not exist"
        raise TrackingURIError(f"the folder {path.parent} {what}; create it, or name a file in another folder")
    if not os.access(path.parent, os.W_OK | os.X_OK):  # sqlite also writes a journal beside the database
        raise TrackingURIError(f"the folder {path.parent} cannot be written; name a file in another folder")


def check_scheme(uri: str) -> None:
    """Raise TrackingURIError if MLflow does not know this kind of URI, or would record in no file."""
    scheme = urllib.parse.urlsplit(uri).scheme if ":" in uri else uri if uri in _OTHERS else ""
    scheme = scheme.partition("+")[0]
    if scheme in ("", "file"):
        if os.environ.get(_ALLOW_FOLDERS, "").lower() not in ("true", "1"):
            path = uri.removeprefix("file://")
            database = path if path.endswith((".db", ".sqlite")) else f"{path.rstrip('/')}/mlflow.db"
            raise TrackingURIError(
                f"it names a folder of files, in which MLflow no longer records; as a database it is sqlite:///{database}"
            )
    elif scheme == "sqlite":
        if not uri.partition(":///")[2].partition("?")[0] or ":memory:" in uri:
            raise TrackingURIError(f"it names no file; {_VALID}")
    elif scheme not in (*SERVERS, *DATABASES, *_OTHERS, *_plugins()):
        raise TrackingURIError(f"MLflow knows no {scheme}://; {_VALID}")


def _plugins() -> set[str]:
    """Further schemes, of packages that are installed."""
    from importlib.metadata import entry_points  # late: only for a scheme that is not known

    return {plugin.name for plugin in entry_points(group="mlflow.tracking_store")}


def _check_database(path: Path) -> None:
    try:
        with path.open("rb") as file:
            start = file.read(len(_SQLITE))
    except OSError as error:
        raise TrackingURIError(f"{path} cannot be read: {error.strerror or error}") from error
    if start not in (b"", _SQLITE):
        raise TrackingURIError(f"{path} is not a sqlite database; name another file, which is created")
    if not os.access(path, os.W_OK):
        raise TrackingURIError(f"{path} cannot be written")


def check_server(uri: str) -> None:
    """Raises ConnectionError with the reason if a tracking server does not answer; other URIs pass."""
    if not uri.startswith(tuple(f"{scheme}://" for scheme in SERVERS)):
        return
    try:
        _reach(uri)
        urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=CONNECT_S).close()
    except urllib.error.HTTPError:
        pass  # something answers; whether it is MLflow, and lets us in, MLflow's client says better
    except (OSError, ValueError) as error:
        raise ConnectionError(f"the server does not answer: {getattr(error, 'reason', error)}") from error


def _reach(uri: str) -> None:
    """Connect to the server's machine. OSError or ValueError if that fails; a proxy is not tried."""
    parts = urllib.parse.urlsplit(uri)
    host = parts.hostname
    if not host:
        raise ValueError("it names no host")
    if parts.scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(host):
        return
    port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    socket.create_connection((host, port), timeout=REACH_S).close()
