"""Loads the model of a run: `rme.load`."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from safetensors import SafetensorError, safe_open

from rme import model_file
from rme.checkpoint import CorruptFile
from rme.config import RunSpec, SpecError
from rme.device import pick_device
from rme.errors import first_line
from rme.model import Model
from rme.model_file import ModelFile, ModelFileError
from rme.result import MARKER, Result

_MLFLOW_ID = re.compile(r"[0-9a-f]{32}")
_KEY = re.compile(r"[0-9a-f]{16}")


class LoadError(ValueError):
    """No model can be loaded from there; the message says why."""


def load(
    source: str | Path | RunSpec | Result | Model,
    *,
    storage: str | Path = "storage",
    tracking_uri: str | None = None,
    device: str = "auto",
) -> Model:
    """The model of a run: its chosen restart.

    Args:
        source: a run's folder on a storage (`storage/runs/KEY`) or its `result.safetensors`; a `RunSpec` or a run's
            key, looked up on the `storage`; an MLflow run id or a URI such as `runs:/ID` or `models:/NAME/1`; a
            `Result`; or a .safetensors file that `Model.save` wrote or MLflow has. Only safetensors files are read,
            never a pickle.
        storage: folder of the results of a sweep.
        tracking_uri: where MLflow records; None: $MLFLOW_TRACKING_URI, or mlflow.db in the current folder.
        device: 'auto', 'cpu', 'cuda', 'cuda:1', ...

    Raises:
        LoadError: nothing is found there, it is damaged, something else or of another version, its method is not
            installed, or MLflow does not answer.
        ValueError: the device is not available.

    Example:
        >>> result = rme.fit(rme.RunSpec(method="vae", dataset="digits", dim=2, epochs=1, restarts=1, iwae_samples=2))
        >>> result.save(folder)
        >>> rme.load(folder).spec == rme.load(result).spec == result.spec
        True
    """
    chosen = pick_device(device)
    if isinstance(source, Model):
        return source.to(chosen)
    if isinstance(source, Result):
        return Model.of(source, device=chosen)
    if not isinstance(source, (str, Path, RunSpec)):
        raise LoadError(f"{type(source).__name__} is no source of a model; expected a path, a RunSpec, a run's key, "
                        "an MLflow run id or URI, or a Result")  # fmt: skip
    try:
        return Model(_file(source, Path(storage), tracking_uri), chosen)
    except (CorruptFile, ModelFileError) as error:
        raise LoadError(first_line(error)) from error
    except OSError as error:  # no permission, a name that is too long
        raise LoadError(f"{str(source)[:100]}: cannot be read: {error.strerror or first_line(error)}") from error


def _file(source: str | Path | RunSpec, storage: Path, tracking_uri: str | None) -> ModelFile:
    if isinstance(source, RunSpec):
        return _on_storage(source.key, storage, source.run_name)
    text, path = str(source), Path(source).expanduser()
    if text.startswith(("runs:/", "models:/")) or (_MLFLOW_ID.fullmatch(text) and not path.exists()):
        return _in_mlflow(text, tracking_uri)
    if path.is_dir():
        return _in_folder(path)
    if path.is_file():
        return _in_file(path)
    if _KEY.fullmatch(text):
        return _on_storage(text, storage, f"run {text}")
    raise LoadError(f"{text}: not found; expected a run's folder, a .safetensors file, a run's key (16 hex digits), an "
                    "MLflow run id (32 hex digits) or a URI runs:/... or models:/...")  # fmt: skip


def _on_storage(key: str, storage: Path, name: str) -> ModelFile:
    folder = storage.expanduser() / "runs" / key
    if not (folder / MARKER).exists():
        raise LoadError(f"{name} has no result in {folder}; storage= (default: storage) says where the sweep's is")
    return _in_file(folder / MARKER)


def _in_folder(folder: Path) -> ModelFile:
    for name in (MARKER, model_file.NAME):
        if (folder / name).is_file():
            return _in_file(folder / name)
    if (folder / "runs").is_dir():
        raise LoadError(f"{folder} is the storage of a sweep: give a RunSpec or a key, and storage={str(folder)!r}")
    raise LoadError(f"{folder} has neither {MARKER} nor {model_file.NAME}: it is no run's folder")


def _in_file(path: Path) -> ModelFile:
    """The model of a result's or a model's file."""
    try:
        with safe_open(path, framework="pt") as file:
            names, about = set(file.keys()), file.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        raise LoadError(f"{path} is damaged, or no safetensors file: {first_line(error)}") from error
    if "meta" not in about:
        return ModelFile.read(path)
    if "vae_ms" in names:
        raise LoadError(f"{path} is a timing, which has no model")
    if not any(name.startswith("model.0.") for name in names):
        raise LoadError(f"{path} is a checkpoint of a training, not a finished run")
    try:
        result = Result.of_file(path)
        return replace(ModelFile.of(result), key=json.loads(about["meta"])["key"])
    except (SpecError, KeyError, TypeError, ValueError) as error:
        raise LoadError(f"{path} is not a result of this version: {first_line(error)}") from error


def _in_mlflow(source: str, tracking_uri: str | None) -> ModelFile:
    # found on demand, because the science runs without MLflow and without the other rooms
    try:
        models = import_module("analysis.recorded_model")
    except ModuleNotFoundError as error:
        raise LoadError(f"{source}: MLflow cannot be used here: {error}") from error
    try:
        return models.model_file(source, tracking_uri)
    except models.ModelError as error:
        raise LoadError(first_line(error)) from error
