"""bench.sweep_overhead measures the overhead of a sweep of a few trials."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests import ROOT


@pytest.mark.slow
def test_the_command_on_a_few_trials(tmp_path, ray_folder) -> None:
    """The command asserts that each run was recorded. It may miss its targets: few trials share the start-up cost."""
    out = tmp_path / "figures.json"
    command = [sys.executable, "-m", "bench.sweep_overhead", "--trials", "6", "--runs-per-trial", "2", "--out", out]
    environment = {**os.environ, "RAY_TMPDIR": str(ray_folder)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode in (0, 1) and out.exists(), done.stderr
    figures = json.loads(out.read_text())
    assert json.loads(done.stdout) == figures
    assert (figures["trials"], figures["runs_per_trial"]) == (6, 2)
    assert figures["files"] >= 2, "one result per run"
    assert min(figures[name] for name in ("driver_cpu_ms", "writer_cpu_ms", "wall_s", "driver_rss_peak_mb")) > 0
