"""What a sweep leaves on disk: a folder for each finished run, and checkpoints of the trials under way.

STORAGE/runs/<run key>/       models, arrays and result.json of a finished run (rme.result)
STORAGE/trials/<trial key>/   checkpoints, until all of the trial's runs are finished
STORAGE/ray/                  Ray's own notes; nothing is ever read back from them
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

from torch import Tensor

from rme.checkpoint import Checkpoints, CorruptFile
from rme.config import RunSpec
from rme.result import MARKER, Result, load_models

log = logging.getLogger(__name__)


class StorageError(ValueError):
    """A storage that cannot be used."""


class Storage:
    """A folder that every node sees (a disk, or NFS on a cluster)."""

    def __init__(self, root: str | Path) -> None:
        if "://" in str(root) and not str(root).startswith("file://"):
            raise StorageError(f"--storage {root}: only folders are supported; mount it (NFS, s3fs) and give its path")
        self.root = Path(str(root).removeprefix("file://")).expanduser().resolve()

    def check_writable(self) -> None:
        """Raises StorageError naming the folder and the reason."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.root):
                pass
        except OSError as error:
            raise StorageError(f"--storage {self.root}: cannot be written: {error.strerror or error}") from None

    def run_folder(self, key: str) -> Path:
        return self.root / "runs" / key

    def has_result(self, key: str) -> bool:
        return (self.run_folder(key) / MARKER).exists()

    def result(self, spec: RunSpec) -> Result | None:
        """A run's result, or None if there is none that is whole; a damaged one is named in the log."""
        try:
            return Result.load(self.run_folder(spec.key))
        except FileNotFoundError:
            return None
        except CorruptFile as error:
            log.warning("result passed over: %s", error)
            return None

    def discard(self, key: str) -> None:
        """Let a run's result, found damaged, count as none."""
        (self.run_folder(key) / MARKER).unlink(missing_ok=True)

    def models(self, spec: RunSpec) -> list[dict[str, Tensor]]:
        """The finished models of a run. Raises FileNotFoundError or CorruptFile."""
        return load_models(self.run_folder(spec.key))

    def trial_folder(self, trial_key: str) -> Path:
        return self.root / "trials" / trial_key

    def checkpoints(self, trial_key: str) -> Checkpoints:
        return Checkpoints(self.trial_folder(trial_key))

    def error_file(self, trial_key: str) -> Path:
        """Where a worker leaves the traceback of what made its trial fail."""
        return self.trial_folder(trial_key) / "error.txt"

    @property
    def ray_folder(self) -> Path:
        return self.root / "ray"
