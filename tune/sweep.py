"""The sweep's command line: `python tune/sweep.py --grid demo`, or `rme-sweep --grid demo` where rme is installed.

The same command again resumes an interrupted sweep and skips finished runs. Exit status: 0 all runs are recorded (with
--inline: trained), 1 some failed or are not recorded, 2 the command cannot be carried out, 130 interrupted by Ctrl-C,
143 by SIGTERM, 124 by the end of --minutes.
"""

from __future__ import annotations

import argparse
import gc
import logging
import math
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

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

from rich.console import Console

from analysis.tracking_uri import DEFAULT_TRACKING_URI, default_tracking_uri
from rme.config import SpecError
from rme.data import DataError
from rme.hooks import HookError
from tune.plan.grid import Grid, GridError, is_plain_name
from tune.plan.grid_options import check_whole, chosen_grid
from tune.plan.plan import make_plan
from tune.plan.trials import ArraySize
from tune.run.options import AUTO, Options, Resources, Search
from tune.run.stopping import INTERRUPTED, TERMINATED, Terminated, TimeLimit, in_main_thread, terminate
from tune.store.errors import CommandError
from tune.store.storage import Storage


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    logging.basicConfig(level=logging.WARNING, handlers=[logging.NullHandler()])
    began = _BEGAN if _IS_PROGRAM else time.monotonic()
    console = Console(stderr=True, emoji=False)
    before = signal.signal(signal.SIGTERM, terminate) if in_main_thread() else None
    try:
        if _IS_PROGRAM:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        return _run(parser().parse_args(given), shlex.join([*PROGRAM, *given]), console, began)
    except (CommandError, SpecError, DataError, HookError) as error:
        console.print(f"sweep: {error}", markup=False, highlight=False, soft_wrap=True, style="red")
        return 2
    except ModuleNotFoundError as error:
        how = f"pip install {error.name}" if _IS_SCRIPT else "make venv"
        text = f"sweep: {error}; `{how}` installs it (only --inline needs neither Ray nor MLflow)"
        console.print(text, markup=False, highlight=False, soft_wrap=True, style="red")
        return 2
    except KeyboardInterrupt as stop:  # a second signal, or one when nothing was training
        console.print("stopped at once; the same command resumes", highlight=False)
        return TERMINATED if isinstance(stop, Terminated) else INTERRUPTED
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def command() -> int:
    """Run the command as a program that ends with it: the installed script's entry point."""
    status = main()
    gc.freeze()  # skips the collection at exit, which takes a second
    return status


def _run(asked: argparse.Namespace, command: str, console: Console, began: float) -> int:
    options = options_of(asked, command, began)
    if asked.json and not asked.plan:
        raise GridError("--json needs --plan")
    if asked.plan and options.search is not None:
        raise GridError("--plan and --search: give one of them")
    check_together(asked)
    grid = chosen_grid(options.grid, options.only, options.overrides, asked.dataset, asked.experiment)
    storage = Storage(options.storage)
    array_size = array_size_of(asked, options.resources, grid, storage)
    if asked.plan:
        _show_plan(options, grid, array_size, storage, asked.json)
        return 0
    check_whole(grid)
    from tune.run.driver import sweep

    if options.search is None:
        return sweep(options, grid, array_size, storage, console).status
    from tune.search.search import search

    def train_parents(parents: Grid) -> int:
        return sweep(options, parents, array_size, storage, console).status

    return search(options, grid, storage, console, train_parents)


def check_together(asked: argparse.Namespace) -> None:
    """Raise GridError for options that exclude each other."""
    excluded = {
        "inline": ("record", "search", "address", "tracking_uri", "report"),
        "record": ("search", "plan", "retry_failed", "minutes", "address"),
        "minutes": ("plan",),
        "register": ("inline", "search", "plan"),
    }
    reasons = {
        "inline": "an inline sweep trains in this process, without Ray and MLflow",
        "record": "it records what the storage has, and trains nothing",
        "minutes": "a plan trains nothing",
        "register": "it registers what a sweep has recorded in MLflow",
    }
    for option, others in excluded.items():
        for other in others:
            if getattr(asked, option) and getattr(asked, other):
                raise GridError(f"--{option} and --{other.replace('_', '-')}: give one of them; {reasons[option]}")
    if asked.inline and asked.gpus_per_trial is not None:
        if asked.gpus_per_trial == AUTO:
            raise GridError("--gpus-per-trial auto needs Ray; with --inline give a number: 0, 1 or a fraction")
        if asked.gpus_per_trial > 1:
            raise GridError(f"--gpus-per-trial {asked.gpus_per_trial:g}: an inline sweep uses one GPU, or a fraction")


def _show_plan(options: Options, grid: Grid, array_size: ArraySize, storage: Storage, as_json: bool) -> None:
    from tune.plan.show_plan import show_plan

    if options.inline:
        show_plan(make_plan(grid, array_size, (), storage, options.retry_failed), as_json, None)
        return
    from tune.plan.conflicts import other_settings
    from tune.record.tracking import finished_without_creating, run_keys

    finished = finished_without_creating(options.tracking_uri, grid.name)
    plan = make_plan(grid, array_size, run_keys(finished), storage, options.retry_failed)
    show_plan(plan, as_json, other_settings(grid, finished))


def array_size_of(asked: argparse.Namespace, resources: Resources, grid: Grid, storage: Storage) -> ArraySize:
    """How many runs are trained as one array: a number, or a function of the run."""
    if asked.members is not None and asked.seeds_per_trial is not None:
        raise GridError("--members and --seeds-per-trial both say how large an array is: give one of them")
    if grid.kind.alone:
        return 1
    if asked.members is None:
        return asked.seeds_per_trial or 2
    if asked.members != AUTO:
        return lambda spec: max(1, asked.members // spec.restarts)
    from rme.device import pick_device
    from tune.cost.array_size import measured

    device = pick_device("cpu" if resources.gpus == 0 else "auto")
    if resources.address is not None and device.type == "cpu" and resources.gpus != 0:
        raise GridError("--members auto measures on this machine, which has no GPU: give --members N")
    return measured(grid.with_parents(), storage, device, keep=not asked.plan)


# ---------------------------------------------------------------------- options
def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=" ".join(PROGRAM), description="Train a grid of runs and record them in MLflow."
    )
    add = parser.add_argument
    add("--grid", required=True, metavar="NAME|FILE.yaml", help="a grid of tune/grids/ by name, or a file")
    add("--only", action="append", default=[], metavar="FIELD=A,B", help="keep the runs whose FIELD is A or B")
    add("--set", action="append", default=[], metavar="FIELD=VALUE", help="set a field of every run")
    add(
        "--dataset",
        metavar="NAME|FILE.npz|FOLDER",
        help="short for --set dataset=...; your own images: an .npz file, "
        "or a folder of images, FOLDER@48 to resize them",
    )
    add("--data-dir", type=Path, metavar="DIR", help="folder of the data sets (default: data)")
    add("--storage", metavar="DIR", help="folder of results and checkpoints; on a cluster, one that "
        "all nodes share (default: storage)")  # fmt: skip
    add("--tracking-uri", metavar="URI",
        help=f"where MLflow records (default: $MLFLOW_TRACKING_URI or {DEFAULT_TRACKING_URI})")  # fmt: skip
    add(
        "--report",
        type=Path,
        metavar="DIR",
        help="write the report there at the end (default: report/NAME OF THE EXPERIMENT)",
    )
    add("--address", metavar="auto|HOST:PORT", help="a running Ray cluster (default: start Ray here)")
    add("--cpus-per-trial", type=_positive(int), metavar="N", help="cores of a trial (default: 1)")
    add("--gpus-per-trial", type=_gpus, metavar="F|auto", help="GPUs of a trial, or a fraction of one; auto: measure "
        "how many trials fit in a GPU's memory (default: 1 if a GPU is available, else 0)")  # fmt: skip
    add("--seeds-per-trial", type=_positive(int), metavar="N", help="runs trained as one array (default: 2)")
    add("--members", type=_members, metavar="N|auto", help="instead of --seeds-per-trial: models trained as one "
        "array, in whole runs; auto: measure once how many pay off on this machine's device")  # fmt: skip
    add("--search", choices=["optuna"], help="search the settings of one cell by validation score; needs --space")
    add("--samples", type=_positive(int), metavar="N", help="with --search: how many samples (default: 20)")
    add("--space", metavar="NAME|FILE.yaml", help="with --search: the fields and their ranges, a name in "
        "tune/spaces or a file")  # fmt: skip
    add("--early-stopping", choices=["asha", "none"], help="with --search: asha stops samples with low scores early, "
        "none trains each to the end (default: asha)")  # fmt: skip
    add("--experiment", type=_name, metavar="NAME", help="name of the MLflow experiment (default: the grid's)")
    add("--retry-failed", action="store_true", help="train only the failed runs again, and what starts from them")
    add("--inline", action="store_true", help="train in this process, one trial after another, without Ray and MLflow; "
        "the results are on the storage, and --record or the ordinary command records them")  # fmt: skip
    add("--record", action="store_true", help="record what the storage has, and train nothing")
    add("--register", type=_model_name, metavar="NAME", help="then make the model of the best run, by validation, a "
        "version of the registered model NAME in MLflow; the grid must have one cell")  # fmt: skip
    add("--minutes", type=_positive(float), metavar="N", help="end within N minutes, with all trainings saved; the "
        "same command resumes (default: no limit)")  # fmt: skip
    add("--plan", action="store_true", help="start nothing; print what would run, what is done, and estimated hours")
    add("--json", action="store_true", help="with --plan: print one JSON object")
    return parser


def _positive(kind: type, zero: bool = False):
    def parse(text: str):
        value = kind(text)
        if not math.isfinite(value) or value < 0 or (value == 0 and not zero):
            raise argparse.ArgumentTypeError(f"{text} must be a number, {'0 or more' if zero else 'more than 0'}")
        return value

    parse.__name__ = kind.__name__  # argparse names it in its errors
    return parse


def _members(text: str) -> int | str:
    return text if text == "auto" else _positive(int)(text)


_members.__name__ = "number of models"


def _gpus(text: str) -> float | str:
    return text if text == "auto" else _positive(float, zero=True)(text)


_gpus.__name__ = "number of GPUs"


def _name(text: str) -> str:
    if not is_plain_name(text):
        raise argparse.ArgumentTypeError(f"{text!r} must be a plain name, without /")  # it also names folders
    return text


def _model_name(text: str) -> str:
    if not is_plain_name(text) or set(text) & set(":@'\"`"):
        raise argparse.ArgumentTypeError(f"{text!r} must be a plain name, without / : @ and quotes")
    return text


def options_of(asked: argparse.Namespace, command: str = "", began: float = 0.0) -> Options:
    """The parsed options, with defaults filled in. Raises GridError for options that cannot be combined.

    `began`: when the command began, on the monotonic clock.
    """
    places = ("dataset", "data_dir", "storage", "tracking_uri", "experiment", "report", "address")
    sizes = ("cpus_per_trial", "gpus_per_trial", "seeds_per_trial", "members")
    typed = {name: getattr(asked, name) for name in (*places, *sizes)}
    return Options(
        command=command,
        program=PROGRAM,
        grid=asked.grid,
        only=tuple(asked.only),
        overrides=tuple(asked.set),
        storage=asked.storage or "storage",
        data_dir=asked.data_dir or Path("data"),
        tracking_uri=asked.tracking_uri or default_tracking_uri(),
        report=asked.report,
        reports=not (asked.inline or asked.search),
        resources=Resources(asked.address, asked.cpus_per_trial or 1, asked.gpus_per_trial),
        retry_failed=asked.retry_failed,
        inline=asked.inline,
        record=asked.record,
        register=asked.register,
        limit=TimeLimit.of(asked.minutes, began),
        search=_search(asked),
        given={f"--{name.replace('_', '-')}": str(value) for name, value in typed.items() if value is not None},
    )


def _search(asked: argparse.Namespace) -> Search | None:
    if not asked.search:
        for option in ("samples", "space", "early_stopping"):
            if getattr(asked, option) is not None:
                raise GridError(f"--{option.replace('_', '-')} needs --search optuna")
        return None
    if asked.space is None:
        raise GridError("--search needs --space NAME|FILE.yaml, the fields to search and their ranges")
    return Search(asked.space, asked.samples or Search.samples, asked.early_stopping != "none")


if __name__ == "__main__":
    sys.exit(command())
