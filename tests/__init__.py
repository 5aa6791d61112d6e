"""Tests: one folder per package, one test file per source file. Shared helpers are in this folder."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
"""The repository."""
