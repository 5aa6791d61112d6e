"""What a sweep leaves on disk: a folder for each finished run, and checkpoints of the trials under way.

STORAGE/runs/<run key>/       the result of a finished run, one file (rme.result, rme.timing)
STORAGE/trials/<trial key>/   checkpoints, until all of the trial's runs are finished
STORAGE/arrays.json           the sizes of arrays that `--members auto` chose (tune.cost.array_size)
STORAGE/failures/<run key>.json   why a run came to nothing that would again (tune.store.failure)
STORAGE/locks                 who trains or records what now (tune.store.locks)
STORAGE/ray/                  Ray's own notes; nothing is ever read back from them
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


class StorageError(CommandError):
    """A storage that cannot be used."""


class Storage:
    """A folder that every node sees (a disk, or NFS on a cluster)."""

    def __init__(self, root: str | Path) -> None:
        if "://" in str(root) and not str(root).startswith("file://"):
            raise StorageError(f"--storage {root}: only folders are supported; mount it (NFS, s3fs) and give its path")
        self.root = Path(str(root).removeprefix("file://")).expanduser().resolve()
        self.locks = Locks(self.root / "locks")

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

    def result(self, spec: RunSpec) -> Result | Timing | None:
        """A run's result, or None if there is none that is whole; a damaged one is named in the log.

        Its spec is `spec`: what is no part of the key, such as a variant's name, may have been another then.
        """
        folder = self.run_folder(spec.key)
        try:
            if isinstance(spec, TimingSpec):
                return replace(Timing.load(folder, spec.key), spec=spec)
            return replace(Result.load(folder, spec.key), spec=spec)
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
        return load_models(self.run_folder(spec.key), spec.key)

    def trial_folder(self, trial_key: str) -> Path:
        return self.root / "trials" / trial_key

    def checkpoints(self, trial_key: str) -> Checkpoints:
        return Checkpoints(self.trial_folder(trial_key))

    # ------------------------------------------------------------------ failures
    def _failure_file(self, key: str) -> Path:
        return self.root / "failures" / f"{key}.json"

    def save_failure(self, key: str, failure: Failure) -> None:
        """Keep why a run would come to nothing again. OSError passes through."""
        write_atomically(self._failure_file(key), lambda path: path.write_text(failure.to_json() + "\n"))

    def forget_failure(self, key: str) -> None:
        self._failure_file(key).unlink(missing_ok=True)

    def failures(self, keys: Collection[str]) -> dict[str, Failure]:
        """Which of these runs came to nothing and would again, and why."""
        folder = self.root / "failures"
        noted = {path.stem for path in folder.glob("*.json")}  # one look at the folder, not one for each run
        found = {}
        for key in keys:
            if key in noted:
                try:
                    found[key] = Failure.from_json(self._failure_file(key).read_text())
                except (OSError, ValueError, TypeError) as error:
                    log.warning("failure passed over: %s: %s", self._failure_file(key), error)
        return found

    # ------------------------------------------------------------------ other sweeps
    def held_elsewhere(self, runs: Sequence[RunSpec]) -> bool:
        """Whether another process is training one of these runs now."""
        return any(self.locks.held_elsewhere(spec.key) for spec in runs)

    def outcome(self, runs: Sequence[RunSpec]) -> dict[str, Failure] | None:
        """Once all of these runs have come to an end: the failures among them; None before."""
        open_ended = [spec.key for spec in runs if not self.has_result(spec.key)]
        failures = self.failures(open_ended) if open_ended else {}
        return failures if len(failures) == len(open_ended) else None

    @property
    def arrays_file(self) -> Path:
        """What `--members auto` chose."""
        return self.root / "arrays.json"

    @property
    def ray_folder(self) -> Path:
        return self.root / "ray"
