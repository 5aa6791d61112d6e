"""What is sure to fail is refused before a sweep starts, within seconds, and nothing is created.

Neither Ray nor MLflow is imported (only `--register` needs MLflow), so that a mistyped path is refused at once.
"""

from __future__ import annotations

import os
import socket
import tempfile
from importlib.util import find_spec
from pathlib import Path

from analysis.tracking_uri import TrackingURIError, check_server, check_uri
from rme import data, hooks
from rme.config import SpecError
from rme.data import DataError
from rme.hooks import HookError
from tune.plan.grid import Grid
from tune.run.images import needs_images
from tune.run.machine import check_machine
from tune.run.options import Options
from tune.store import folders
from tune.store.errors import CommandError
from tune.store.storage import Storage

REACH_S = 2.0
"""How long a cluster's head may take to accept a connection."""

_REFUSALS = (CommandError, SpecError, DataError, HookError, ModuleNotFoundError)


class StartError(CommandError):
    """The sweep would fail later. Nothing has been created."""


def check_start(options: Options, grid: Grid, storage: Storage) -> None:
    """Raise if the sweep or search is sure to fail: first what is known from paths, last what needs the network.

    Raises:
        CommandError: a folder that cannot be written, a tracking URI or a Ray cluster that cannot be used, more cores
            or GPUs than this machine has, or a `--register` that needs another grid.
        DataError: images are missing and cannot be downloaded.
        HookError: RME_ON_EPOCH names no function.
        ModuleNotFoundError: Ray or MLflow is not installed.
    """
    if options.register is not None:
        from tune.record.register import check_one_cell  # late: imports MLflow

        check_one_cell(options.register, grid.runs)
    _check_folder(storage.root, f"--storage {storage.root}")
    if options.reports and grid.kind.trains:
        report = options.report or Path("report") / grid.name
        _check_folder(report, f"--report {report}{'' if options.report else ' (the default)'}")
    if needs_images(options, grid, storage):
        _check_images(grid, options.data_dir)
    uri = options.tracking_uri
    if not options.inline:
        for package in ("mlflow",) if options.record else ("mlflow", "ray"):
            if find_spec(package) is None:
                raise ModuleNotFoundError(f"No module named {package!r}", name=package)
        try:
            check_uri(uri)
        except TrackingURIError as error:
            raise StartError(f"{_origin(options)}: {error}") from None
    if not options.record:
        check_machine(options.resources, grid.kind)
    hooks.on_epoch()  # a wrong hook is reported here once, not by each worker
    if options.resources.address is not None:
        _check_address(options.resources.address)
    if not options.inline:
        try:
            check_server(uri)
        except ConnectionError as error:
            raise StartError(f"{_origin(options)}: {error}") from None


def refusal(options: Options, grid: Grid, storage: Storage) -> str | None:
    """The line of what `check_start` raises; None if it raises nothing."""
    try:
        check_start(options, grid, storage)
    except _REFUSALS as error:
        return str(error)
    return None


def _check_folder(folder: Path, named: str) -> None:
    if reason := folders.fault(folder):
        raise StartError(f"{named}: {reason}")


def _check_images(grid: Grid, data_dir: Path) -> None:
    """Raise DataError for missing images, or StartError if they are to be written where nothing can be."""
    # all of them: whether images are missing must not depend on which data set comes first
    names = dict.fromkeys(spec.dataset for spec in grid.runs)
    writing = [name for name in names if data.get(name).must_write(data_dir)]
    if not writing:
        return
    named = f"--data-dir {data_dir}"
    why = f"for the images of {data.label(writing[0])}"
    folder = data_dir.absolute()
    if not folder.parent.exists():
        raise StartError(f"{named}: the folder {folder.parent} does not exist; create it, or name another folder")
    if reason := folders.fault(folder):
        raise StartError(f"{named}: {reason} ({why})")


def _origin(options: Options) -> str:
    """The tracking URI and where it comes from."""
    if "--tracking-uri" not in options.given and os.environ.get("MLFLOW_TRACKING_URI") == options.tracking_uri:
        return f"MLFLOW_TRACKING_URI={options.tracking_uri}"
    return f"--tracking-uri {options.tracking_uri}"


def _check_address(address: str) -> None:
    """Raise StartError if no Ray cluster can be at an address."""
    if address == "auto":
        if not _ray_is_near():
            raise StartError("--address auto: no Ray runs on this machine; `ray start --head` starts one")
        return
    if "://" in address or address == "local":
        return
    host, colon, port = address.rpartition(":")
    if not (colon and host and port.isdecimal() and 0 < int(port) < 1 << 16):
        raise StartError(f"--address {address}: valid are auto, and HOST:PORT of the cluster's head (10.0.0.1:6379)")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_S).close()
    except OSError as error:
        raise StartError(f"--address {address}: no cluster answers: {error.strerror or error}") from None


def _ray_is_near() -> bool:
    """Whether one of the signs exists by which Ray finds a running cluster."""
    temporary = Path(os.environ.get("RAY_TMPDIR", tempfile.gettempdir()))
    if os.environ.get("RAY_ADDRESS") or (temporary / "ray" / "ray_current_cluster").exists():
        return True
    if not Path("/proc/self/cmdline").exists():
        return True  # unknown
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            program = path.read_bytes().partition(b"\0")[0]
        except OSError:
            continue
        if program.endswith((b"/gcs_server", b"/raylet")):
            return True
    return False
