"""The command `python -m rme`: its list of commands, and how it ends."""

from __future__ import annotations

import subprocess
import sys

import pytest

import rme
from rme import commands
from rme.__main__ import main


def test_without_a_command_it_prints_the_commands_and_refuses(capsys):
    assert main([]) == 2
    error = capsys.readouterr().err
    assert all(f"  {name} " in error for name in commands.COMMANDS)


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_each_command_has_options_and_a_description(name, capsys):
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert end.value.code == 0 and "--" in capsys.readouterr().out
    made, module = commands.parser(name, "python -m rme")
    assert made.prog == f"python -m rme {name}" and callable(module.run)
    assert made.description and all(action.help for action in made._actions)


@pytest.mark.parametrize(
    ("arguments", "status"),
    [(["--help"], 0), (["--version"], 0), (["nothing"], 2), (["--nothing"], 2), (["score"], 2),
     (["sample", "--model", "m", "--out", "o", "--count", "0"], 2), (["score", "--seed", "-1"], 2)],
)  # fmt: skip
def test_options_end_the_program_as_usual(arguments, status, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == status
    printed = capsys.readouterr()
    if arguments == ["--version"]:
        assert printed.out == f"rme {rme.__version__}\n"


def test_describe_is_the_module_s_command(capsys):
    assert main(["describe", "--dataset", "digits", "--method", "hf"]) == 2
    assert "1, 2, 4, 8" in capsys.readouterr().err


def test_help_loads_no_torch():
    code = (
        "import sys; from rme import commands; from rme.__main__ import main\n"
        "for arguments in ([], ['--help'], ['score', '--help']):\n"
        "    try: main(arguments)\n"
        "    except SystemExit: pass\n"
        "print(*sorted({'torch', 'numpy', 'pydantic', 'PIL'} & {*sys.modules}), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == ""
