"""Whether a folder can be written or created is found without creating it."""

from __future__ import annotations

import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests import ROOT
from tune.store.folders import fault


def test_folders_that_exist_or_can_be_created_have_no_fault(tmp_path):
    for folder in (tmp_path, tmp_path / "a", tmp_path / "a" / "b" / "c"):
        assert fault(folder) is None
    assert not any(tmp_path.iterdir())


def test_a_relative_folder_is_one_of_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert fault(Path("new")) is None
    assert fault(Path("file/x")) == f"{tmp_path / 'file'} is a file, not a folder"


def test_a_name_that_no_folder_can_have(tmp_path):
    assert str(fault(tmp_path / ("x" * 300))) == "it cannot be written: File name too long"


@pytest.mark.parametrize("below", ["", "/new/one"])
def test_a_folder_without_permission(tmp_path, below):
    """In a process of another user if this one is root, who may write everywhere."""
    closed = tmp_path / "closed"
    closed.mkdir()
    closed.chmod(0o555)
    for folder in (tmp_path, *tmp_path.parents):
        if folder == Path(tempfile.gettempdir()):
            break
        folder.chmod(folder.stat().st_mode | stat.S_IXGRP | stat.S_IXOTH)
    script = "import os, sys; from pathlib import Path; from tune.store.folders import fault; " \
        "os.geteuid() or os.setuid(65534); print(fault(Path(sys.argv[1])))"  # fmt: skip
    command = [sys.executable, "-c", script, f"{closed}{below}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == f"{closed if below else 'it'} cannot be written: Permission denied\n"
