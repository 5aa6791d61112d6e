"""What is sure to fail is refused at once, in one line that says what would be valid, and creates nothing."""

from __future__ import annotations

import os
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from rme import data
from rme.hooks import ON_EPOCH
from tests import ROOT
from tune import sweep
from tune.command_line import options_of, parse
from tune.plan.grid_options import chosen_grid
from tune.run import checks
from tune.store.storage import Storage

DEMO = ("--grid", "demo", "--only", "method=vae", "--only", "seed=0")


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The current folder: `file` is a file, `full` a folder, `text.db` is no database, `good.db` is a sqlite one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "file").write_text("a file")
    (tmp_path / "full").mkdir()
    (tmp_path / "text.db").write_text("some text, longer than the start of a database")
    with closing(sqlite3.connect(tmp_path / "good.db")) as database:
        database.execute("CREATE TABLE birds (name)")
    return tmp_path


@pytest.fixture
def refused(folder, capsys) -> Callable[..., str]:
    """A function from a command's options to its one line; the status must be 2, and the folder unchanged."""

    def call(*options: str, grid: tuple[str, ...] = DEMO) -> str:
        before = sorted(folder.rglob("*"))
        assert sweep.main([*grid, *options]) == 2
        assert sorted(folder.rglob("*")) == before
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1, lines
        return lines[0]

    return call


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--storage", "file"], ["--storage {here}/file: it is a file"]),
        (["--storage", "file/below"], ["--storage {here}/file/below: {here}/file is a file"]),
        (["--report", "file"], ["--report file: it is a file"]),
        (["--report", "file/below/it"], ["--report file/below/it: {here}/file is a file"]),
        (["--dataset", "omniglot"], ["data/omniglot/chardata.mat is missing", "github.com/yburda/iwae"]),
        (["--dataset", "mnist", "--data-dir", "file"], ["--data-dir file: it is a file", "MNIST"]),
        (["--dataset", "mnist", "--data-dir", "no/where"], ["--data-dir no/where", "{here}/no does not exist"]),
        (["--tracking-uri", "foo://bar"], ["--tracking-uri foo://bar", "foo://", "sqlite:///FILE.db", "http://HOST"]),
        (["--tracking-uri", "sqlite:///no/x.db"], ["sqlite:///no/x.db", "the folder {here}/no does not exist"]),
        (["--tracking-uri", "sqlite:///file/x.db"], ["the folder {here}/file is a file"]),
        (["--tracking-uri", "sqlite:///full"], ["{here}/full is a folder", "sqlite:///{here}/full/mlflow.db"]),
        (["--tracking-uri", "sqlite:///text.db"], ["{here}/text.db is not a sqlite database"]),
        (["--tracking-uri", "sqlite://"], ["--tracking-uri sqlite://: ", "no file", "sqlite:///FILE.db"]),
        (["--tracking-uri", "full/mine.db"], ["--tracking-uri full/mine.db", "sqlite:///full/mine.db"]),
        (["--tracking-uri", "file:///runs"], ["--tracking-uri file:///runs", "sqlite:////runs/mlflow.db"]),
        (["--cpus-per-trial", "4096"], ["--cpus-per-trial 4096: this machine has"]),
        (["--gpus-per-trial", "64"], ["--gpus-per-trial 64: this machine has"]),
        (["--address", "somewhere"], ["--address somewhere", "auto", "HOST:PORT"]),
        (["--address", "host:many"], ["--address host:many", "HOST:PORT"]),
    ],
)  # fmt: skip
def test_each_mistake_is_named_in_one_line(refused, folder, options, words):
    line = refused(*options)
    for word in words:
        assert word.format(here=folder) in line


def test_servers_that_do_not_answer_are_named(refused):
    with closing(socket.socket()) as held:
        held.bind(("127.0.0.1", 0))  # and does not listen, so a connection is refused
        port = held.getsockname()[1]
        uri = f"http://127.0.0.1:{port}"
        assert f"--tracking-uri {uri}: the server does not answer" in refused("--tracking-uri", uri)
        assert f"--address 127.0.0.1:{port}: no cluster answers" in refused("--address", f"127.0.0.1:{port}")


def test_a_tracking_uri_of_the_environment_is_named_as_such(refused, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "foo://bar")
    assert "MLFLOW_TRACKING_URI=foo://bar: " in refused()


def test_a_missing_hook_is_named(refused, monkeypatch):
    monkeypatch.setenv(ON_EPOCH, "nowhere:at_all")
    assert f"{ON_EPOCH}=nowhere:at_all" in refused()


def test_more_than_one_cell_cannot_be_registered(refused):
    line = refused("--register", "mine", grid=("--grid", "demo", "--only", "seed=0"))
    assert "--register mine needs one cell" in line and "RME(2)" in line


def test_the_default_report_folder_is_checked(refused, folder):
    (folder / "report").write_text("a file")
    assert f"--report report/demo (the default): {folder}/report is a file" in refused()


@pytest.mark.parametrize("storage", ["storage", "full", "good"])
def test_valid_paths_pass_and_nothing_is_created(folder, storage):
    before = sorted(folder.rglob("*"))
    assert reason("--storage", storage, "--cpus-per-trial", "1") is None
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("uri", ["sqlite:///mlflow.db", "sqlite:///good.db", "sqlite+pysqlite:///full/new.db"])
def test_databases_that_exist_or_can_be_created_pass(folder, uri):
    assert reason("--tracking-uri", uri) is None
    assert not (folder / "mlflow.db").exists()


def test_the_reason_is_the_line_that_the_command_prints(refused):
    assert refused("--storage", "file") == f"sweep: {reason('--storage', 'file')}"


def test_only_what_is_needed_is_checked(folder, monkeypatch):
    """An inline sweep needs no MLflow and writes no report, and a recording needs no images."""
    assert reason("--inline", "--storage", "full") is None
    assert reason("--record", "--dataset", "omniglot") is None
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "foo://bar")
    (folder / "report").write_text("a file")
    assert reason("--inline") is None


def reason(*options: str) -> str | None:
    """Why a command would be refused."""
    asked = parse([*DEMO, *options])
    chosen = options_of(asked)
    grid = chosen_grid(chosen.grid, chosen.only, chosen.overrides, asked.dataset, None)
    return checks.refusal(chosen, grid, Storage(chosen.storage))


@pytest.mark.parametrize(("name", "package"), [("mnist", "torchvision"), ("celeba", "gdown"), ("svhn", "torchvision")])
def test_a_download_without_its_package_is_refused(refused, monkeypatch, name, package):
    from rme.data import _files

    found = _files.importlib.util.find_spec
    monkeypatch.setattr(_files.importlib.util, "find_spec", lambda each: None if each == package else found(each))
    line = refused("--dataset", name)
    assert f"{data.label(name)}: " in line and f"{package}, needed for the download, is not installed" in line


@pytest.mark.long(seconds=4)
def test_a_wrong_path_is_refused_without_importing_ray_or_mlflow(folder):
    script = "import sys; from tune import sweep; assert sweep.main(sys.argv[1:]) == 2; " \
        "assert not {'ray', 'mlflow', 'pandas'} & sys.modules.keys()"  # fmt: skip
    command = [sys.executable, "-c", script, *DEMO, "--storage", "file"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
