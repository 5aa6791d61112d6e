"""The sweep's command line: `python tune/sweep.py --grid demo`, or `rme-sweep --grid demo` where rme is installed.

The same command again resumes an interrupted sweep and skips finished runs. Exit status: 0 all runs are recorded (with
--inline: trained), 1 some failed or are not recorded, 2 the command cannot be carried out, 130 interrupted by Ctrl-C,
143 by SIGTERM, 129 by SIGHUP, 124 by the end of --minutes, 141 the reader of standard output has ended.
"""
# PYTHON_ARGCOMPLETE_OK: argcomplete may run this file to complete a command line

from __future__ import annotations

import gc
import logging
import os
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, cast

_BEGAN = time.monotonic()

INSTALLED = "rme-sweep"
"""Name of the installed script, which calls `command`."""

# the installed script imports this file first, and what follows has to come before the other imports
_IS_SCRIPT = bool(sys.argv) and Path(sys.argv[0]).stem == INSTALLED
_IS_PROGRAM = __name__ == "__main__" or _IS_SCRIPT

if _IS_PROGRAM:  # an importing program keeps its own threshold and signals
    gc.set_threshold(100_000)  # imports make a million objects and no garbage; collecting takes a fifth of their time
    # until `main` handles it; the libraries' threads, which are started by imports, never receive it
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

if not __package__:  # `python tune/sweep.py` puts this folder, not the project's, on the path
    _ROOT = str(Path(__file__).resolve().parent.parent)
    if _ROOT not in sys.path:
        sys.path.insert(0, _ROOT)
    sys.path[:] = [entry for entry in sys.path if entry != str(Path(__file__).resolve().parent)]

if _IS_SCRIPT:
    PROGRAM: tuple[str, ...] = (INSTALLED,)
elif __name__ == "__main__" and __package__:
    PROGRAM = ("python", "-m", "tune.sweep")
else:
    PROGRAM = ("python", "tune/sweep.py")

from rme.command_line import BROKEN_PIPE, discard_output
from tune.command_line import check_together, options_of, parse, parser
from tune.plan.grid_files import find
from tune.run.stopping import INTERRUPTED, TERMINATED, Terminated, in_main_thread, terminate
from tune.store.errors import CommandError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status; SystemExit for --help."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    logging.basicConfig(level=logging.WARNING, handlers=[logging.NullHandler()])
    began = _BEGAN if _IS_PROGRAM else time.monotonic()
    before = signal.signal(signal.SIGTERM, terminate) if in_main_thread() else None
    try:
        asked = parse(given, PROGRAM)
        options = options_of(asked, shlex.join([*PROGRAM, *given]), began, PROGRAM)
        check_together(asked)
        find(asked.grid)
        from rich.console import Console  # late, as torch: a mistyped option and --help are answered at once

        from tune.run.doing import doing
        from tune.run.lasting_output import LastingOutput

        console = Console(file=cast(IO[str], LastingOutput(sys.stderr)), emoji=False)
        with doing("loading PyTorch", console, began, lines=False):  # an error is one line
            from tune.carry_out import carry_out
        if _IS_PROGRAM:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        status = carry_out(asked, options, console)
        sys.stdout.flush()
        return status
    except CommandError as error:
        return _refused(str(error))
    except ModuleNotFoundError as error:
        how = f"pip install {error.name}" if _IS_SCRIPT else "make venv"
        return _refused(f"{error}; `{how}` installs it (only --inline needs neither Ray nor MLflow)")
    except BrokenPipeError:
        discard_output()
        return BROKEN_PIPE
    except KeyboardInterrupt as stop:  # a second signal, or one when nothing was training
        print("stopped" if "--plan" in given else "stopped at once; the same command resumes", file=sys.stderr)
        return TERMINATED if isinstance(stop, Terminated) else INTERRUPTED
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def _refused(why: str) -> int:
    """Print the line of a command that cannot be carried out, and return its status."""
    from rich.console import Console

    text = f"sweep: {why}"
    Console(stderr=True, emoji=False).print(text, markup=False, highlight=False, soft_wrap=True, style="red")
    return 2


def command() -> int:
    """Run the command as a program that ends with it: the installed script's entry point."""
    if "_ARGCOMPLETE" in os.environ:  # the shell asks what could be typed next
        from tune.completion import complete

        complete(parser(PROGRAM))
    status = main()
    gc.freeze()  # skips the collection at exit, which takes a second
    return status


if __name__ == "__main__":
    sys.exit(command())
