"""Where MLflow records: the default, and whether there is anything at a URI. MLflow itself is not imported for that."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from pathlib import Path

DEFAULT_TRACKING_URI = "sqlite:///mlflow.db"

CONNECT_S = 10.0
"""How long a tracking server may take to answer at all; MLflow itself would retry for minutes."""


def default_tracking_uri() -> str:
    """$MLFLOW_TRACKING_URI if it is set, else a database in the current folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_TRACKING_URI


def sqlite_path(uri: str) -> Path | None:
    """The database file of a sqlite URI, absolute; None for other URIs."""
    scheme, found, path = uri.partition(":///")
    if not found or scheme.partition("+")[0] != "sqlite":  # sqlite+pysqlite: with SQLAlchemy's name of a driver
        return None
    return Path(path.partition("?")[0]).resolve()


def check_server(uri: str) -> None:
    """Raises ConnectionError with the reason if a tracking server does not answer; other URIs pass."""
    if not uri.startswith(("http://", "https://")):
        return
    try:
        urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=CONNECT_S).close()
    except urllib.error.HTTPError:
        pass  # something answers; whether it is MLflow, and lets us in, MLflow's client says better
    except (OSError, ValueError) as error:
        raise ConnectionError(f"the server does not answer: {getattr(error, 'reason', error)}") from error
