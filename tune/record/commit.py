"""The git commit of the running code."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path

from rme import __version__


@cache
def git_commit() -> str:
    """The commit, followed by `+` if files have been changed since; outside a checkout the version: `rme 0.1.0`."""
    return commit_of(Path(__file__))


def commit_of(file: Path) -> str:
    """`git_commit` of the code that this file belongs to."""

    def git(*arguments: str) -> str:
        found = subprocess.run(["git", *arguments], cwd=file.parent, capture_output=True, text=True, check=True)
        return found.stdout.strip()

    try:
        # an installed copy lies in an environment, which may lie in the repository of another project
        git("ls-files", "--error-unmatch", file.name)
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return f"rme {__version__}"


def short(commit: str) -> str:
    """The first 8 digits of a commit; other texts, such as a version, as they are."""
    return commit[:8] if re.fullmatch(r"[0-9a-f]{9,}\+?", commit) else commit
