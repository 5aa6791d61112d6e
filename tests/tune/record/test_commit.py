"""Which commit a run is recorded with: that of the code, not of a repository that happens to lie around it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

import rme
from tune.record.commit import commit_of, short


class Repository:
    """A git repository with one commit of one file, `project/code.py`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.code = folder / "project" / "code.py"
        self.code.parent.mkdir(parents=True)
        self.code.write_text("x = 1\n")
        self.git("init", "--quiet")
        (folder / ".gitignore").write_text(".venv\n")
        self.git("add", ".")
        self.git("-c", "user.name=A", "-c", "user.email=a@b.c", "commit", "--quiet", "--message", "first")

    def git(self, *arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=self.folder, check=True, capture_output=True, text=True
        ).stdout.strip()

    def installed(self, folder: str) -> Path:
        """A file that git does not track."""
        path = self.folder / folder / "code.py"
        path.parent.mkdir(parents=True)
        path.write_text("x = 1\n")
        return path


@pytest.fixture
def repository(tmp_path, monkeypatch) -> Repository:
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    return Repository(tmp_path / "repository")


def test_the_commit_of_tracked_code_and_whether_it_has_been_changed(repository):
    commit = repository.git("log", "-1", "--format=%H")
    assert commit_of(repository.code) == commit
    (repository.code.parent / "new.py").write_text("not tracked\n")
    assert commit_of(repository.code) == commit
    repository.code.write_text("x = 2\n")
    assert commit_of(repository.code) == f"{commit}+"


@pytest.mark.parametrize(
    "folder", [".venv/lib/python3.11/site-packages/project", "env/project"], ids=["ignored", "new"]
)
def test_code_installed_in_another_projects_repository_has_its_version(repository, folder):
    assert commit_of(repository.installed(folder)) == f"rme {rme.__version__}"


def test_outside_a_repository_and_without_git_code_has_its_version(repository, tmp_path, monkeypatch):
    outside = tmp_path / "code.py"
    outside.write_text("")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert commit_of(outside) == f"rme {rme.__version__}"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit_of(repository.code) == f"rme {rme.__version__}"


def test_a_commit_is_shortened_and_a_version_is_not():
    assert short("0123456789abcdef0123456789abcdef01234567+") == "01234567"
    assert short("rme 0.1.0.dev1") == "rme 0.1.0.dev1" and short("unknown") == "unknown"
