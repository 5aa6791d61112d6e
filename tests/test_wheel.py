"""The wheel, installed in an environment of its own and used away from the repository."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from mlflow import MlflowClient

import rme
from tests import ROOT
from tests.databases import blank_database
from tests.sweeping import processes_of, write_grid
from tests.tiny import write_npz

pytestmark = pytest.mark.slow

ROOMS = ("rme", "tune", "analysis", "bench")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from a copy of the repository's files by way of the source distribution."""
    copy, out = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("dist")
    for room in (*ROOMS, "tests"):
        shutil.copytree(ROOT / room, copy / room, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ROOT.iterdir():
        if path.is_file() and path.suffix != ".whl":
            shutil.copy(path, copy)
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out)],
        cwd=copy, capture_output=True, text=True, env={**os.environ, "PYTHONDONTWRITEBYTECODE": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    warned = [line for line in (done.stdout + done.stderr).splitlines() if re.search(r"(?i)\bwarning\b|deprecat", line)]
    assert not warned
    (made,) = out.glob("*.whl")
    return made


class Installed:
    """The wheel in an environment that has the dependencies of this one, and a folder to work in."""

    def __init__(self, folder: Path, wheel: Path, ray_folder: Path) -> None:
        environment = folder / "environment"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
        self.bin = environment / "bin"
        self.python = str(self.bin / "python")
        subprocess.run(
            [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--python", self.python, "install",
             "--no-index", "--no-deps", str(wheel)],
            check=True,
        )  # fmt: skip
        (self.packages,) = environment.glob("lib/python*/site-packages")
        # a .pth file's lines are folders; .pth files inside them, such as that of an editable rme, are not read
        (self.packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
        self.work = folder / "work"
        self.work.mkdir()
        self.uri = blank_database(self.work / "mlflow.db")
        self.ray_folder = ray_folder
        rows = [{"method": "vae"}, {"method": "rme", "order": 2}]
        dataset = write_npz(self.work / "spots.npz")
        write_grid(self.work / "spots.yaml", rows, dataset=str(dataset), seed=0, epochs=1)

    def __call__(self, *command: str) -> subprocess.CompletedProcess[str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL"))}
        environment = {
            **inherited, "RAY_TMPDIR": str(self.ray_folder), "RAY_worker_niceness": "0",
            "XDG_CACHE_HOME": str(self.work / "cache"), "MLFLOW_TRACKING_URI": self.uri,
        }  # fmt: skip
        return subprocess.run(command, cwd=self.work, env=environment, capture_output=True, text=True)

    def run(self, *command: str) -> str:
        """Standard output, then standard error, of a command that must succeed."""
        done = self(*command)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    def script(self, name: str, *arguments: str) -> str:
        return self.run(str(self.bin / name), *arguments)


@pytest.fixture(scope="module")
def installed(tmp_path_factory, wheel, ray_folder) -> Installed:
    return Installed(tmp_path_factory.mktemp("installed"), wheel, ray_folder)


@pytest.fixture(scope="module")
def swept(installed) -> str:
    """The output of a sweep with Ray, recorded in MLflow."""
    return installed.script("rme-sweep", "--grid", "spots.yaml", "--gpus-per-trial", "0")


def test_the_wheel_has_every_file_of_the_rooms_that_code_reads_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    kept = (".py", ".yaml", ".csv", ".bib", ".typed", ".j2", ".css", ".js")
    files = {str(path.relative_to(ROOT)) for room in ROOMS for path in (ROOT / room).rglob("*") if path.suffix in kept}
    assert names == {name for name in files if not name.startswith("bench/results/")}
    assert {"rme/py.typed", "tune/py.typed", "analysis/py.typed", "tune/grids/paper.yaml"} <= names


def test_the_installed_code_is_used(installed):
    code = "import rme, tune, analysis, bench; print(*(m.__file__ for m in (rme, tune, analysis, bench)))"
    files = installed.run(installed.python, "-c", code).split()
    assert files == [str(installed.packages / room / "__init__.py") for room in ROOMS]
    version = installed.run(installed.python, "-c", "import importlib.metadata as m; print(m.version('rme'))")
    assert version.strip() == rme.__version__


def test_commands_that_train_nothing(installed):
    plan = installed.script("rme-sweep", "--grid", "smoke", "--only", "method=vae", "--only", "decoder=conv", "--plan")
    assert "smoke" in plan and "core-seconds" in plan
    assert "usage: rme-sweep" in installed.script("rme-sweep", "--help")
    assert "usage: python -m tune.sweep" in installed.run(installed.python, "-m", "tune.sweep", "--help")
    unknown = installed(str(installed.bin / "rme-sweep"), "--grid", "nosuch")
    assert unknown.returncode == 2 and "valid values are demo" in unknown.stderr
    described = installed.script("rme", "describe", "--method", "rme", "--order", "2")
    assert (
        described == installed.run(installed.python, "-m", "rme", "describe", "--method", "rme", "--order", "2") != ""
    )


@pytest.mark.parametrize("name", ["rme-sweep", "another"])
def test_only_the_installed_script_sets_the_collector_and_holds_sigterm_back_while_it_imports(installed, name):
    code = (
        f"import sys, gc, signal; sys.argv = ['/bin/{name}']; before = gc.get_threshold()[0]; import tune.sweep; "
        "print(gc.get_threshold()[0] > before, signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, []))"
    )
    assert installed.run(installed.python, "-c", code).split() == 2 * [str(name == "rme-sweep")]


def test_an_inline_sweep_and_its_model(installed):
    arguments = ("--grid", "spots.yaml", "--only", "method=vae", "--inline", "--storage", "inline")
    assert "1 of 1 run is done" in installed.script("rme-sweep", *arguments)
    code = (
        "import rme; (row,) = rme.runs(storage='inline').to_dict('records'); "
        "model = rme.load(row['run_key'], storage='inline'); print(tuple(model.sample(3).shape))"
    )
    assert installed.run(installed.python, "-c", code).strip() == "(3, 1, 28, 28)"


def test_a_sweep_with_ray_is_recorded_with_the_version_as_its_code(installed, swept):
    assert "2 of 2 runs are done" in swept and not processes_of(installed.ray_folder)
    client = MlflowClient(installed.uri)
    experiment = client.get_experiment_by_name("spots")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.run_key != ''")
    assert {run.data.params["method"] for run in runs} == {"vae", "rme"}
    assert {run.data.tags["git_commit"] for run in runs} == {f"rme {rme.__version__}"}
    assert {run.data.tags["command"] for run in runs} == {"rme-sweep --grid spots.yaml --gpus-per-trial 0"}


def test_a_recorded_run_is_loaded_and_the_report_has_the_published_tables(installed, swept):
    code = (
        "import rme; runs = rme.runs('spots'); row = runs[runs['method'] == 'rme'].iloc[0]; "
        "model = rme.load(row['mlflow_run_id']); print(model.spec.method, tuple(model.sample(2).shape))"
    )
    assert installed.run(installed.python, "-c", code).strip() == "rme (2, 1, 28, 28)"
    installed.run(installed.python, "-m", "analysis.report", "--experiment", "spots", "--out", "report", "--no-figures")
    page = (installed.work / "report" / "index.html").read_text()
    assert "RME(2)" in page and (installed.packages / "analysis" / "published" / "log_likelihood.csv").exists()


def test_a_sweep_from_python_finds_the_runs_done(installed, swept):
    (installed.work / "program.py").write_text("import rme\nprint(len(rme.sweep('spots.yaml', gpus_per_trial=0)))\n")
    output = installed.run(installed.python, "program.py")
    assert output.startswith("2\n") and "2 runs are done already" in output
