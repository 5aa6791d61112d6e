"""The recorder and its process write every run to MLflow, whatever happens to the process and the database."""

from __future__ import annotations

import logging
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from mlflow.artifacts import download_artifacts
from mlflow.entities import Run
from PIL import Image

import rme
from rme import RunSpec
from rme.result import MARKER
from tests import ROOT
from tests.databases import blank_database
from tests.sweeping import SMALL, cmdline, wait_for
from tests.tiny import write_npz
from tune.record.recorder import Recorder
from tune.record.tracking import Tracker
from tune.record.writer import Writer
from tune.record.writer_process import WriterError, WriterProcess
from tune.store.failure import Failure
from tune.store.storage import Storage


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """The result of a VAE with two restarts."""
    path = write_npz(tmp_path_factory.mktemp("data") / "spots.npz")
    return rme.fit(RunSpec.of({"method": "vae", "dataset": str(path), **SMALL, "restarts": 2}))


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """A database shared by the tests, because creating one takes seconds. Each test uses its own experiment."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    blank_database(path)
    return path


@pytest.fixture
def tracker(database, request):
    return Tracker(f"sqlite:///{database}", request.node.name)


@pytest.fixture
def writer(tracker, result, tmp_path):
    """Writes to the test's own experiment, from a storage with the result."""
    storage = Storage(tmp_path / "storage")
    result.save(storage.run_folder(result.spec.key))
    return Writer(tracker.uri, tracker.experiment, "", storage)


def recorded(tracker: Tracker) -> list[str]:
    return [run.data.tags["run_key"] for run in tracker.finished()]


@dataclass
class Session:
    """The runs given to one recorder, and what it did.

    Attributes:
        wanted: a run that the database refuses at first.
        shades: three runs of another cell, with pictures of different shades of grey.
        damaged: a run whose result is damaged; file: that result.
        heard: calls of `on_recorded`.
        refused: `heard` and `left` while the database refused.
        failures, left: the recorder's at its end; log: all messages.
    """

    tracker: Tracker
    storage: Storage
    wanted: RunSpec
    shades: list[RunSpec]
    damaged: RunSpec
    file: Path
    heard: list[tuple[str, dict[str, float]]]
    refused: tuple[list, list[RunSpec]] | None = None
    failures: dict[str, str] | None = None
    left: list[RunSpec] | None = None
    log: str = ""


@pytest.fixture(scope="module")
def session(result, database, tmp_path_factory) -> Session:
    """A recorder's session: a run that the database refuses at first, a damaged result, three runs of another cell."""
    storage = Storage(tmp_path_factory.mktemp("session"))
    tracker = Tracker(f"sqlite:///{database}", "session")
    wanted = result.spec.model_copy(update={"variant": "short"})
    result.save(storage.run_folder(wanted.key))
    damaged = result.spec.model_copy(update={"seed": 1})
    replace(result, spec=damaged).save(storage.run_folder(damaged.key))
    file = storage.run_folder(damaged.key) / MARKER
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    shades = []
    for seed, val_iwae in enumerate((-5.0, -3.0, -4.0)):
        spec = result.spec.model_copy(update={"seed": seed, "batch_size": 17})
        shade = torch.full_like(result.samples, 50 * seed)
        shaded = replace(result, spec=spec, val_iwae=torch.full((2,), val_iwae), samples=shade)
        shaded.save(storage.run_folder(spec.key))
        shades.append(spec)
    found = Session(tracker, storage, wanted, shades, damaged, file, [])
    with pytest.MonkeyPatch.context() as patch, logged() as texts:
        patch.setattr("tune.record.recorder.RETRY_AFTER_S", (0.01,))
        execute(database, "CREATE TRIGGER refuse BEFORE INSERT ON runs BEGIN SELECT RAISE(ABORT, 'not today'); END")
        recorder = Recorder(
            Writer(tracker.uri, tracker.experiment, "", storage),
            lambda spec, metrics: found.heard.append((spec.key, metrics)),
        )
        recorder.result(wanted)
        wait_for(lambda: any("not today" in text for text in texts))
        found.refused = list(found.heard), recorder.left
        execute(database, "DROP TRIGGER refuse")
        for spec in (damaged, *shades):
            recorder.result(spec)
        recorder.close()
        found.failures, found.left, found.log = recorder.failures, recorder.left, "\n".join(texts)
    return found


@contextmanager
def logged() -> Iterator[list[str]]:
    """The messages logged during the block."""
    texts: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            texts.append(record.getMessage())

    handler = Keep()
    logging.getLogger().addHandler(handler)
    try:
        yield texts
    finally:
        logging.getLogger().removeHandler(handler)


def test_the_recorder_retries_until_the_database_accepts_the_run(session, result):
    assert session.refused == ([], [session.wanted])
    assert session.left == [] and session.heard[0] == (result.spec.key, result.metrics)
    assert sorted(recorded(session.tracker)) == sorted(spec.key for spec in (session.wanted, *session.shades))


def test_a_result_is_recorded_under_its_present_name(session, result):
    """It was trained as a plain VAE; the present grid calls the same run a variant."""
    assert session.wanted.key == result.spec.key
    (run,) = (run for run in session.tracker.finished() if run.data.tags["run_key"] == result.spec.key)
    assert run.info.run_name == "spots d3 VAE, short seed 0" and run.data.params["variant"] == "short"
    (parent,) = parents(session.tracker, session.wanted)
    assert parent.info.run_name == "spots d3 VAE, short" and parent.data.params["variant"] == "short"


def test_a_damaged_result_is_not_recorded(session):
    assert session.failures.keys() == {session.damaged.key}
    assert session.damaged.key not in recorded(session.tracker)
    assert not session.storage.has_result(session.damaged.key), "else it would not be trained again"
    assert str(session.file) in session.log, "the process's log messages reach the driver"


def test_at_the_end_a_cell_shows_the_pictures_of_its_best_run(session):
    (parent,) = parents(session.tracker, session.shades[0])
    assert parent.data.tags["shown_val_iwae"] == "-3.0"
    assert parent.data.metrics["cell/n"] == 3
    uri = session.tracker.uri
    picture = download_artifacts(run_id=parent.info.run_id, artifact_path="samples.png", tracking_uri=uri)
    with Image.open(picture) as samples:
        colours = sorted((count, colour) for count, colour in samples.getcolors(2**24) if colour != (255, 255, 255))
        assert colours[-1][1] == (50, 50, 50)


def parents(tracker: Tracker, spec: RunSpec) -> list[Run]:
    """The parent runs of a run's cell in MLflow."""
    return tracker.client.search_runs([tracker.experiment_id], f"tags.cell_key = '{spec.cell_key}'")


def execute(database: Path, statement: str) -> None:
    with closing(sqlite3.connect(database, timeout=30)) as connection:
        connection.execute(statement)
        connection.commit()


def test_runs_that_the_database_never_accepts_are_listed_at_the_end(result, database, writer):
    """Closing does not wait for them, although the process is in the middle of a write."""
    with closing(sqlite3.connect(database, isolation_level=None)) as locked:
        locked.execute("BEGIN EXCLUSIVE")
        recorder = Recorder(writer)
        recorder.result(result.spec)
        wait_for(lambda: recorder.writer.pid is not None)
        pid = recorder.writer.pid
        recorder.close(timeout_s=0.2)
        assert recorder.left == [result.spec]
        assert not cmdline(pid), "the process outlives the recorder"
        locked.execute("ROLLBACK")


def test_with_nothing_to_record_no_process_is_started(tracker, writer, result):
    tracker.record(result)  # as by a driver that was killed before it updated the cells' statistics
    with Recorder(writer) as recorder:
        pass
    assert recorder.writer.pid is None
    (parent,) = tracker.client.search_runs([tracker.experiment_id], "tags.cell_key != ''")
    assert parent.data.metrics["cell/n"] == 1


def test_a_killed_writer_process_does_not_start_again(writer, result):
    process = WriterProcess(writer)
    process.kill()
    with pytest.raises(WriterError, match="was stopped"):
        process.result(result.spec)


def test_a_writer_process_that_does_not_start_or_is_killed_is_replaced(writer, result, tracker, monkeypatch, caplog):
    monkeypatch.setattr("tune.record.recorder.RETRY_AFTER_S", (0.01,))
    working = sys.executable
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with Recorder(writer) as recorder:
        recorder.failure(result.spec, Failure("of an earlier attempt"))
        wait_for(lambda: "does not start: " in caplog.text and "/nowhere/python" in caplog.text)
        monkeypatch.setattr(sys, "executable", working)
        wait_for(lambda: not recorder.left)
        first = recorder.writer.pid
        os.kill(first, signal.SIGKILL)
        recorder.result(result.spec)
        wait_for(lambda: not recorder.left)
        assert recorder.writer.pid != first
    assert "was killed by signal 9" in caplog.text
    assert recorded(tracker) == [result.spec.key]


DRIVER = """
import sys, time
from rme import RunSpec
from tune.store.failure import Failure
from tune.store.storage import Storage
from tune.record.writer import Writer
from tune.record.writer_process import WriterProcess

uri, experiment, storage, spec = sys.argv[1:]
process = WriterProcess(Writer(uri, experiment, "", Storage(storage)))
process.failure(RunSpec.model_validate_json(spec), Failure("for a test"))
print(process.pid, flush=True)
time.sleep(3600)
"""


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_the_process_outlives_ctrl_c_but_not_its_driver(result, writer, end):
    arguments = [writer.uri, writer.experiment, str(writer.storage.root), result.spec.model_dump_json()]
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, *arguments], stdout=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True
    )
    pid = int(driver.stdout.readline())
    try:
        assert os.getpgid(pid) != os.getpgid(driver.pid), "Ctrl-C goes to all of the driver's group"
        time.sleep(1)
        assert cmdline(pid)
    finally:
        driver.send_signal(end)
        driver.wait()
    wait_for(lambda: not cmdline(pid), patience_s=60)
