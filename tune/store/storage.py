"""The folder in which sweeps keep results, checkpoints, failures and locks.

STORAGE/runs/<run key>/       the result of a finished run, one file (rme.result, rme.timing)
STORAGE/trials/<trial key>/   a trial's checkpoints, until all of its runs are finished
STORAGE/arrays.json           the array sizes that `--members auto` chose (tune.cost.array_size)
STORAGE/failures/<run key>.json   why a run failed, if because of the run itself (tune.store.failure)
STORAGE/locks                 locks of the runs in training or being recorded (tune.store.locks)
STORAGE/ray/                  Ray's own files; a sweep never reads them
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from rme.checkpoint import Checkpoints, CorruptFile, write_atomically
from rme.config import RunSpec
from rme.result import MARKER, Result, load_models
from rme.timing import Timing, TimingSpec
from tune.store.errors import CommandError
from tune.store.failure import Failure
from tune.store.locks import Locks

log = logging.getLogger(__name__)


DAMAGED = "its result on the storage was damaged, so it must be trained again"
"""Why a run that has a result counts as failed."""


class StorageError(CommandError):
    """The storage, or another folder for results, cannot be used."""


def check_writable(folder: Path, named: str) -> None:
    """Create the folder if missing. Raises StorageError with `named` and the reason if it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise StorageError(f"{named}: cannot be written: {error.strerror or error}") from None


class Storage:
    """The storage in one folder, which all nodes share (on a cluster: NFS)."""

    def __init__(self, root: str | Path) -> None:
        if "://" in str(root) and not str(root).startswith("file://"):
            raise StorageError(f"--storage {root}: only folders are supported; mount it (NFS, s3fs) and give its path")
        self.root = Path(str(root).removeprefix("file://")).expanduser().resolve()
        self.locks = Locks(self.root / "locks")

    def check_writable(self) -> None:
        """Create the folder if missing. Raises StorageError with the reason if it cannot be written."""
        check_writable(self.root, f"--storage {self.root}")

    def run_folder(self, key: str) -> Path:
        return self.root / "runs" / key

    def has_result(self, key: str) -> bool:
        return (self.run_folder(key) / MARKER).exists()

    def result(self, spec: RunSpec) -> Result | Timing | None:
        """A run's result, or None if it is missing or damaged; a damaged one is logged.

        The result's spec is set to `spec`, because fields outside the key, such as a variant's name, may have changed.
        """
        folder = self.run_folder(spec.key)
        try:
            if isinstance(spec, TimingSpec):
                return replace(Timing.load(folder, spec.key), spec=spec)
            return replace(Result.load(folder, spec.key), spec=spec)
        except FileNotFoundError:
            return None
        except CorruptFile as error:
            log.warning("damaged result ignored: %s", error)
            return None

    def sound_result(self, spec: RunSpec) -> Result | Timing | None:
        """As `result`; a damaged one is also deleted, so that the run is trained again."""
        result = self.result(spec)
        if result is None:
            self.discard(spec.key)
        return result

    def discard(self, key: str) -> None:
        """Delete a run's damaged result, so that the run is trained again."""
        (self.run_folder(key) / MARKER).unlink(missing_ok=True)

    def models(self, spec: RunSpec) -> list[dict[str, Tensor]]:
        """The finished models of a run. Raises FileNotFoundError or CorruptFile."""
        return load_models(self.run_folder(spec.key), spec.key)

    def trial_folder(self, trial_key: str) -> Path:
        return self.root / "trials" / trial_key

    def checkpoints(self, trial_key: str) -> Checkpoints:
        return Checkpoints(self.trial_folder(trial_key))

    # ------------------------------------------------------------------ failures
    @property
    def failures_folder(self) -> Path:
        return self.root / "failures"

    def _failure_file(self, key: str) -> Path:
        return self.failures_folder / f"{key}.json"

    def save_failure(self, key: str, failure: Failure) -> None:
        """Save why a run failed because of the run itself. OSError propagates."""
        write_atomically(self._failure_file(key), lambda path: path.write_text(failure.to_json() + "\n"))

    def forget_failure(self, key: str) -> None:
        self._failure_file(key).unlink(missing_ok=True)

    def failures(self, keys: Collection[str]) -> dict[str, Failure]:
        """Those of these runs that failed because of the run itself, and why; by key."""
        noted = {
            path.stem for path in self.failures_folder.glob("*.json")
        }  # listed once, instead of asking for each run
        found = {}
        for key in keys:
            if key in noted:
                try:
                    found[key] = Failure.from_json(self._failure_file(key).read_text())
                except (OSError, ValueError, TypeError) as error:
                    log.warning("damaged failure file ignored: %s: %s", self._failure_file(key), error)
        return found

    # ------------------------------------------------------------------ other sweeps
    def held_elsewhere(self, runs: Sequence[RunSpec]) -> bool:
        """Whether another process is training one of these runs now."""
        return any(self.locks.held_elsewhere(spec.key) for spec in runs)

    def outcome(self, runs: Sequence[RunSpec]) -> dict[str, Failure] | None:
        """The failures among these runs, by key, once each has a result or has failed; None before."""
        without_result = [spec.key for spec in runs if not self.has_result(spec.key)]
        failures = self.failures(without_result) if without_result else {}
        return failures if len(failures) == len(without_result) else None

    @property
    def arrays_file(self) -> Path:
        """The file of the array sizes that `--members auto` chose."""
        return self.root / "arrays.json"

    @property
    def ray_folder(self) -> Path:
        return self.root / "ray"
