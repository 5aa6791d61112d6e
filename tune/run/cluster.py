"""Starts Ray on this machine, or joins a running cluster."""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

# before the import: Ray reads some of these while it is imported
for _name, _value in {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # else each trial writes a CSV, a JSON and a TensorBoard file
    "TUNE_MAX_PENDING_TRIALS_PG": "8",  # else a custom searcher's trials start one by one
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # Ray's own state is never read back
    "TUNE_WARN_THRESHOLD_S": "30",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # the sweep stops its trials itself (tune.run.stopping)
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # the sweep prints errors itself, and their tracebacks are in MLflow
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # only the last report of a search's sample has a score
}.items():
    os.environ.setdefault(_name, _value)

import ray
import ray.exceptions
from ray._private import services

from rme.errors import first_line
from tune.run.machine import available
from tune.run.stopping import in_main_thread, nothing, without_sigterm
from tune.store.errors import CommandError

START_S = 180.0
"""Time limit for Ray's own processes to start on this machine, s."""

LOOK_EVERY_S = 0.2
"""Interval at which a SIGTERM that waits for Ray's start is looked for."""

OBJECT_STORE_BYTES = 128 << 20
"""Small, because trials do not use Ray's object store; Ray's default is a third of the memory."""


class ClusterError(CommandError):
    """Ray cannot be reached or started, or it is unknown whether it has GPUs."""


def connect(address: str | None, on_signal: Callable[[], object] = nothing) -> None:
    """Start Ray here, or join the cluster at `address`. Raises ClusterError.

    `on_signal`: called in a thread at Ctrl-C or SIGTERM, of which the second has to wait until Ray has started.
    """
    local: dict[str, Any] = {
        "num_cpus": available()["cpu"], "object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": False
    }  # fmt: skip
    logging.getLogger("ray").setLevel(logging.ERROR)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        with _own_signals(on_signal):
            if address and ":" in address and "://" not in address:
                # checked here, because Ray would try for a minute and then end the process
                host, _, port = address.rpartition(":")
                socket.create_connection((host, int(port)), timeout=10).close()
            if address:
                ray.init(address=address, **quiet)
            else:
                _start(address="local", **quiet, **local)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        reason = first_line(error)
        raise ClusterError(f"--address {address}: {reason}" if address else f"Ray does not start: {reason}") from error
    except KeyboardInterrupt:
        disconnect()
        raise


@contextmanager
def _own_signals(on_signal: Callable[[], object]) -> Iterator[None]:
    """While Ray starts, keep this process's handler of SIGTERM, and let the signal wait until Ray has started.

    At Ctrl-C, and at a SIGTERM that waits, `on_signal` is called in a thread.

    Interrupted in the middle, Ray would leave processes. They inherit that the signal is blocked, as Ray blocks Ctrl-C
    in them: Slurm and systemd send it to every process, and then the trials must still be able to save.
    """
    handler, set_handler = signal.getsignal(signal.SIGTERM), ray._private.utils.set_sigterm_handler
    interrupt = signal.getsignal(signal.SIGINT)
    received: list[int] = []
    ended = threading.Event()

    def tell() -> None:
        # in a thread: the main thread may be printing
        threading.Thread(target=on_signal, name="stopping", daemon=True).start()

    def interrupted(signum: int, frame: FrameType | None) -> None:
        tell()
        received.append(signum)  # Python drops an exception that is raised where it forks a process
        if callable(interrupt):
            interrupt(signum, frame)

    def terminated(signum: int, frame: FrameType | None) -> None:
        tell()
        received.append(signum)

    def watch() -> None:
        while not ended.wait(LOOK_EVERY_S):
            if signal.SIGTERM in signal.sigpending():
                on_signal()
                return

    ray._private.utils.set_sigterm_handler = lambda handler: None
    with without_sigterm():
        if in_main_thread():
            # a library's thread may not block the signal
            signal.signal(signal.SIGTERM, terminated)
            signal.signal(signal.SIGINT, interrupted)
            threading.Thread(target=watch, name="SIGTERM", daemon=True).start()
        try:
            yield
        finally:
            ended.set()
            ray._private.utils.set_sigterm_handler = set_handler
            if in_main_thread():
                # Ray's C++ code has installed one that ends the process; so before a pending signal is delivered
                signal.signal(signal.SIGTERM, handler)
                signal.signal(signal.SIGINT, interrupt)
    if received:
        # delivered to a thread that does not block SIGTERM, or a Ctrl-C of which the exception was dropped
        signal.raise_signal(received[0])


def _start(**arguments: Any) -> None:
    """Start Ray here. Raises RuntimeError if it does not start."""
    get_node = services.get_node

    def patient(*arguments: Any) -> Any:
        deadline = time.monotonic() + START_S
        while True:
            try:
                return get_node(*arguments)
            except RuntimeError:
                if time.monotonic() >= deadline:
                    raise
            time.sleep(0.1)

    services.get_node = patient  # Ray gives up after 30 s, too short on a busy machine; there is no setting for it
    try:
        ray.init(**arguments)
    except Exception as error:
        if "timed out during startup" in str(error):  # Ray raises a plain Exception
            raise RuntimeError(str(error)) from error
        raise
    finally:
        services.get_node = get_node


def logs() -> str:
    """The folder of the logs of the workers that Ray has on this machine."""
    node = ray._private.worker._global_node
    return f"{'/tmp/ray/session_latest' if node is None else node.get_session_dir_path()}/logs"


def disconnect() -> None:
    """Disconnect from Ray, and stop it if it was started here."""
    # now: if the recorder's thread, which still runs, freed one of Ray's objects after the shutdown, Ray would end the
    # process
    gc.collect()
    import psutil  # Ray's own copy, which can be imported only after Ray

    node = ray._private.worker._global_node
    if node is None:
        return
    kill_all = node.kill_all_processes

    def kill_at_once(**options: Any) -> None:
        """Without waiting for each to react to SIGTERM, which is blocked; and with what Ray's processes started."""
        below = []
        for _, started_here in node.live_processes():
            with suppress(psutil.NoSuchProcess):
                process = psutil.Process(started_here.pid)
                process.suspend()  # so that it starts no other meanwhile
                below += process.children(recursive=True)
        kill_all(**{**options, "allow_graceful": False})
        for process in below:
            with suppress(psutil.NoSuchProcess):
                process.kill()

    node.kill_all_processes = kill_at_once
    ray.shutdown()
