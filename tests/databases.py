"""MLflow's databases for tests: the tables, which take MLflow seconds to make, are made once and then copied."""

from __future__ import annotations

import functools
import shutil
import tempfile
from pathlib import Path

from mlflow import MlflowClient


def blank_database(path: Path) -> str:
    """Put a database with MLflow's tables, and nothing in them, at `path`. Returns its tracking URI."""
    path.write_bytes(_tables())
    return f"sqlite:///{path}"


@functools.cache
def _tables() -> bytes:
    folder = Path(tempfile.mkdtemp())
    try:
        MlflowClient(f"sqlite:///{folder}/blank.db").search_experiments()
        return (folder / "blank.db").read_bytes()
    finally:
        shutil.rmtree(folder)
