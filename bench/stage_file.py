"""The JSON file of a stage of `bench.device`: what was measured, on which device and with which code.

Its entries:

- stage, device, torch, code, commit: where the results are from; code is a digest of the source files;
- planned: names of the stage's cases, most important first;
- cases: by name {"seconds", "rows", "checks", "numbers", "error"}; error is None or one line;
- interrupted: names of cases that began and did not end, because the process was killed;
- fell_back: {"case", "why"} for each warning that something slower was used instead;
- complete: whether every planned case was measured without an error.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

import torch

from bench.harness import measured_on
from rme.checkpoint import write_atomically
from tune.record.commit import git_commit

ROOT = Path(__file__).resolve().parent.parent
"""The folder with the source files."""

MEASURED = ("rme", "bench", "tune/cost")
"""Folders whose code decides what is measured."""

Content = dict[str, Any]
"""A file's content, as described above."""


class UnusableFileError(ValueError):
    """A stage's file cannot be continued: it is damaged, or of another device or other code."""


def origin(device: torch.device) -> dict[str, str]:
    """What must agree for results to be continued: device, torch and code."""
    return {"device": measured_on(device), "torch": torch.__version__, "code": code_digest()}


def new(stage: str, device: torch.device) -> Content:
    """The content before anything is measured."""
    return {
        "stage": stage, **origin(device), "commit": git_commit(),
        "planned": [], "cases": {}, "interrupted": [], "fell_back": [], "complete": False,
    }  # fmt: skip


def load(path: Path) -> Content:
    """The content of a file. UnusableFileError if it cannot be read or is not the file of a stage."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UnusableFileError(f"{path}: cannot be read: {error}") from None
    missing = {"stage", "device", "torch", "code", "planned", "cases"} - set(content if is_stage(content) else ())
    if missing or not _has_cases(content):
        raise UnusableFileError(f"{path}: not the file of a stage of bench.device")
    return content


def _has_cases(content: Content) -> bool:
    wanted = {"seconds", "rows", "checks", "numbers", "error"}
    cases = content["cases"]
    return isinstance(cases, dict) and all(isinstance(case, dict) and wanted <= case.keys() for case in cases.values())


def is_stage(content: Any) -> bool:
    """Whether the content of a JSON file is a stage's."""
    return isinstance(content, dict) and "stage" in content


def load_same(path: Path, device: torch.device) -> Content | None:
    """The content of a file of this device and code; None if the file does not exist.

    Raises UnusableFileError, naming what differs.
    """
    if not path.exists():
        return None
    content = load(path)
    for what, here in origin(device).items():
        if content[what] != here:
            raise UnusableFileError(f"{path}: its {what} is {content[what]}, here it is {here}; use another --out")
    return content


def save(path: Path, content: Content) -> None:
    """Write the file, atomically. Raises OSError."""
    text = json.dumps(content, indent=1) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text))


@cache
def code_digest() -> str:
    """A digest of all source files that decide what is measured, so that no git is needed."""
    digest = hashlib.sha256()
    for path in sorted(path for folder in MEASURED for path in (ROOT / folder).rglob("*.py")):
        digest.update(f"{path.relative_to(ROOT).as_posix()}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:12]
