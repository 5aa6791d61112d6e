"""How commands end: status, one line for an error of the package, and no word for a reader that has left."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

from rme import command_line
from rme.command_line import CommandError
from rme.config import RunSpec


def raising(error: BaseException):
    def work() -> None:
        raise error

    return work


@pytest.mark.parametrize(
    ("work", "status", "line"),
    [
        (lambda: None, 0, ""),
        (raising(CommandError("--k 0: too few\nand more")), 2, "rme x: --k 0: too few\n"),
        (lambda: RunSpec(method="vae", dataset="digits", dim=0), 2, None),
        (lambda: Path("/dev/null/file").write_text(""), 2, "rme x: /dev/null/file: Not a directory\n"),
        (raising(OSError("the disk is full")), 2, "rme x: the disk is full\n"),
        (raising(KeyboardInterrupt()), 130, ""),
    ],
)
def test_the_status_and_the_line(work, status, line, capsys):
    assert command_line.status("rme x", work) == status
    error = capsys.readouterr().err
    assert error == line if line is not None else error.startswith("rme x: dim=0: ") and error.count("\n") == 1


def test_a_mistake_in_the_code_is_not_hidden():
    with pytest.raises(ValueError, match="broadcast"):
        command_line.status("rme x", raising(ValueError("shapes cannot be broadcast")))


@pytest.mark.parametrize("lines", [1, 100_000])
def test_a_reader_that_ends_first_is_no_error(lines):
    """Few lines stay in the buffer until the end; many are refused in the middle."""
    code = (
        "import sys, time; from rme import command_line\n"
        "def work():\n"
        "    sys.stdin.read()\n"  # until the reader has left
        f"    for i in range({lines}): print(i)\n"
        "sys.exit(command_line.status('rme x', work))"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=-1, stdout=-1, stderr=-1) as process:
        assert process.stdin and process.stdout and process.stderr
        process.stdout.close()
        process.stdin.close()
        error = process.stderr.read()
        assert (process.wait(60), error) == (141, b"")


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "one", ""])
def test_whole_numbers_below_the_least_are_refused(text):
    assert command_line.whole(1)("1") == 1
    with pytest.raises(argparse.ArgumentTypeError, match="1 or more"):
        command_line.whole(1)(text)


def test_an_out_that_cannot_be_written_is_found_out_before_and_nothing_is_created(tmp_path):
    command_line.check_out(tmp_path / "new" / "deep" / "file.csv")
    command_line.check_out(tmp_path / "new", folder=True)
    command_line.check_out(tmp_path, folder=True)
    (tmp_path / "file").write_text("")
    command_line.check_out(tmp_path / "file")  # is replaced
    for out, folder in ((tmp_path, False), (tmp_path / "file" / "x.csv", False), (tmp_path / "file", True)):
        with pytest.raises(CommandError, match=str(out)):
            command_line.check_out(out, folder)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_folder_without_permission_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)  # root may write anywhere
    with pytest.raises(CommandError, match="not writable"):
        command_line.check_out(tmp_path / "x.csv")
