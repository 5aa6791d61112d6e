"""What the shell offers when Tab is pressed after `rme`: argcomplete asks the program itself, which answers."""

from __future__ import annotations

import argparse
import os
from importlib import import_module

from argcomplete import autocomplete

from rme import commands


def complete(prog: str) -> None:
    """Print what can follow on the command line that argcomplete has put into the environment, and end the program."""
    parser = argparse.ArgumentParser(prog=prog)
    subparsers = parser.add_subparsers()
    typed = os.environ.get("COMP_LINE", "").split()
    for name, makes in commands.COMMANDS.items():
        subparser = subparsers.add_parser(name, help=makes)
        if name in typed:  # the options of the others are not needed
            import_module(f"rme.commands.{name}").options(subparser)
    autocomplete(parser, always_complete_options="long")
