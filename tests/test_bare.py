"""What needs neither Ray nor MLflow runs where they are not installed: each import of them is refused here."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests import ROOT

REFUSED = ("ray", "mlflow", "pandas", "torchvision", "optuna", "matplotlib")
"""Of the packages that the project depends on, all but torch, numpy, pydantic, safetensors, pyyaml, rich, scikit-learn
and what these depend on."""

SITECUSTOMIZE = f"""
import sys

class Without:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in {REFUSED!r} else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
"""


@pytest.fixture
def bare(tmp_path):
    """Runs a Python command without these packages, and so do the processes that it starts."""
    (tmp_path / "sitecustomize.py").write_text(SITECUSTOMIZE)
    environment = {
        **os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT))), "XDG_CACHE_HOME": str(tmp_path / "c")
    }  # fmt: skip

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True
        )

    return run


@pytest.mark.parametrize("package", REFUSED)
def test_the_packages_are_refused(bare, package):
    assert f"No module named '{package}'" in bare("-c", f"import {package}").stderr


def test_an_inline_sweep(bare, tmp_path):
    command = (str(ROOT / "tune" / "sweep.py"), "--grid", "smoke", "--only", "method=vae", "--only", "decoder=conv",
               "--only", "seed=0")  # fmt: skip
    done = bare(*command, "--inline")
    assert done.returncode == 0 and "1 of 1 run is done" in done.stderr, done.stderr
    assert len(list((tmp_path / "storage" / "runs").iterdir())) == 1
    plan = bare(*command, "--inline", "--plan", "--json")
    assert plan.returncode == 0 and json.loads(plan.stdout)["done_runs"] == 1, plan.stderr
    ordinary = bare(*command)
    assert ordinary.returncode == 2 and "--inline" in ordinary.stderr and "Traceback" not in ordinary.stderr


@pytest.mark.slow
def test_the_stages_of_a_device(bare, tmp_path):
    done = bare("-m", "bench.device", "--device", "cpu", "--minutes", "1", "--out", str(tmp_path / "d"))
    assert done.returncode == 0, done.stdout + done.stderr
    right = json.loads((tmp_path / "d" / "right.json").read_text())
    assert right["cases"] and not any(case["error"] for case in right["cases"].values())
    assert "checks right" in done.stdout and "hours of --grid paper" in done.stdout
