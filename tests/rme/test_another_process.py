"""Which packages imports need, and that a run's key is the same in another process."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from rme import data, methods
from rme.config import RunSpec
from tests import ROOT

BLOCKED = [
    "pydantic", "rich", "safetensors", "sklearn", "scipy", "ray", "mlflow", "pandas", "torchvision", "yaml", "PIL",
    "matplotlib",
]  # fmt: skip
RUN = {"method": "rme", "order": 5, "dataset": "mnist", "dim": 50, "seed": 3}

PROGRAM = f"""
import json, sys
sys.modules.update(dict.fromkeys({BLOCKED}))
from rme import data
found = {{"data": data.names(), "methods loaded": "rme.methods" in sys.modules}}
import rme, rme.nets, rme.engine, rme.methods, rme.evaluate
found["methods"] = rme.methods.names()
for name in {BLOCKED}:
    del sys.modules[name]
from rme.config import RunSpec
found["key"] = RunSpec(**{RUN}).key
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found() -> dict:
    """What the program above prints, with another seed of Python's string hashes."""
    env = {**os.environ, "PYTHONHASHSEED": "12345"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_data_sets_need_torch_and_numpy_only(found: dict) -> None:
    assert found["data"] == data.names() and not found["methods loaded"]


def test_networks_methods_and_engine_need_torch_and_numpy_only(found: dict) -> None:
    assert found["methods"] == methods.names()


def test_a_runs_key_is_the_same_in_another_process(found: dict) -> None:
    assert found["key"] == RunSpec(**RUN).key
