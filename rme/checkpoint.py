"""Writes and reads safetensors files atomically and with a hash, and keeps a training's newest checkpoints."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

log = logging.getLogger(__name__)


class CorruptFile(RuntimeError):
    """A damaged file: truncated, changed or empty."""


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` write a temporary file next to `path`, then rename it to `path`.

    A crash or a full disk leaves either the old file or the new one, never a part. A link stays a link, to the new
    content; what is no file, such as a pipe or /dev/null, is written into. OSError propagates.
    """
    path = path.resolve()
    if path.exists() and not path.is_file():
        _write_into(path, write)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp's files are private, but results are shared
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # so that the rename, too, survives a power cut
    finally:
        os.close(folder)


def _write_into(path: Path, write: Callable[[Path], object]) -> None:
    with tempfile.NamedTemporaryFile() as temporary:
        write(Path(temporary.name))
        path.write_bytes(Path(temporary.name).read_bytes())


def save(path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Write named tensors and JSON metadata to one safetensors file, atomically. Raises OSError if that fails."""
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    text = json.dumps(meta, sort_keys=True)
    header = {"meta": text, "sha256": digest(plain, text)}
    try:
        write_atomically(path, lambda temporary: save_file(plain, temporary, metadata=header))
    except SafetensorError as error:  # raised by safetensors if the disk is full
        raise OSError(f"{path}: {error}") from error


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors (on the CPU) and metadata that `save` wrote. Nothing is unpickled.

    Raises:
        FileNotFoundError: the file does not exist.
        CorruptFile: the file is damaged.
    """
    if not path.exists():
        raise FileNotFoundError(path)
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise CorruptFile(f"{path}: {error}") from error
    if "meta" not in header or header.get("sha256") != digest(tensors, header["meta"]):
        raise CorruptFile(f"{path}: its content does not match its hash")
    return tensors, json.loads(header["meta"])


def digest(tensors: Mapping[str, Tensor], text: str) -> str:
    """The sha256 of named tensors and a text, in hex."""
    found = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        value = tensors[name]
        found.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        # a single value may have any stride, which a view as bytes does not accept
        flat = value.reshape(-1).as_strided((value.numel(),), (1,))
        found.update(flat.view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    return found.hexdigest()


class Checkpoints:
    """The newest checkpoints of one training, in a folder of their own.

    Args:
        folder: created when the first checkpoint is saved.
        keep: how many to keep; more than one, in case the newest is damaged.
    """

    _name = re.compile(r"epoch-(\d+)\.safetensors")

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder = folder
        self.keep = keep

    def _saved(self) -> list[tuple[int, Path]]:
        if not self.folder.is_dir():
            return []
        matches = ((self._name.fullmatch(path.name), path) for path in self.folder.iterdir())
        return sorted(((int(m[1]), path) for m, path in matches if m), reverse=True)

    def save(self, epoch: int, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        save(self.folder / f"epoch-{epoch:06d}.safetensors", tensors, meta)
        for _, path in self._saved()[self.keep :]:
            path.unlink(missing_ok=True)

    def newest(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The newest undamaged checkpoint, or None. Damaged ones are logged and ignored."""
        for _, path in self._saved():
            try:
                return load(path)
            except (CorruptFile, FileNotFoundError) as error:
                log.warning("checkpoint ignored: %s", error)
        return None
