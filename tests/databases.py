"""MLflow databases for tests. Creating the tables takes MLflow seconds, so they are created once and copied."""

from __future__ import annotations

import functools
import logging
import shutil
import tempfile
from pathlib import Path

from mlflow import MlflowClient


def blank_database(path: Path) -> str:
    """Write a database with MLflow's tables, all empty, to `path`. Returns its tracking URI."""
    path.write_bytes(_tables())
    return f"sqlite:///{path}"


@functools.cache
def _tables() -> bytes:
    folder = Path(tempfile.mkdtemp())
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)  # else they log each table, to a test's standard error
    try:
        MlflowClient(f"sqlite:///{folder}/blank.db").search_experiments()
        return (folder / "blank.db").read_bytes()
    finally:
        shutil.rmtree(folder)
