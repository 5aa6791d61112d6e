"""Use trained models from the command line: `python -m rme COMMAND`, or `rme COMMAND`.

Exit status: 0 done, 2 the command cannot be carried out (one line on standard error says why), 130 interrupted by
Ctrl-C, 141 the reader of standard output has ended.
"""
# PYTHON_ARGCOMPLETE_OK: argcomplete may run this file to complete a command line

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import rme
from rme import command_line, commands

PROG = "python -m rme"


def parser(prog: str = PROG) -> argparse.ArgumentParser:
    """The parser of the command's name; `commands.parser` has that of what follows."""
    width = max(map(len, commands.COMMANDS))
    lines = [f"  {name:{width}}  {makes}" for name, makes in commands.COMMANDS.items()]
    made = argparse.ArgumentParser(
        prog=prog,
        usage=f"{prog} COMMAND ...",
        description="Use a trained model, or describe one.",
        epilog="\n".join(["commands:", *lines, "", f"`{prog} COMMAND --help` lists a command's options."]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("command", choices=commands.COMMANDS, metavar="COMMAND", help="one of the commands below")
    made.add_argument("--version", action="version", version=f"rme {rme.__version__}")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status; SystemExit for --help, --version and unknown options."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    prog = "rme" if Path(sys.argv[0]).stem == "rme" else PROG
    if "_ARGCOMPLETE" in os.environ:  # the shell asks what could be typed next
        from rme.completion import complete

        complete(prog)
    if not given:
        parser(prog).print_help(sys.stderr)
        return command_line.REFUSED
    if given[0] not in commands.COMMANDS:
        parser(prog).parse_args(given[:1])  # ends the program
    return command_line.status(f"rme {given[0]}", lambda: _run(given[0], given[1:], prog))


def _run(name: str, given: Sequence[str], prog: str) -> None:
    made, module = commands.parser(name, prog)
    module.run(made.parse_args(given))


if __name__ == "__main__":
    sys.exit(main())
