"""The tests: a folder for each package, a file for each of its files. What they share is in this one."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
"""The repository."""
