"""The sweep's options: how they are parsed, which exclude each other, and the frozen values that they become.

Torch is not imported here, so `--help` and a mistyped option are answered at once.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from analysis.tracking_uri import DEFAULT_TRACKING_URI, default_tracking_uri
from rme.errors import nearest
from tune.plan import grid_files
from tune.plan.errors import GridError
from tune.run.options import AUTO, Options, Resources, Search
from tune.run.stopping import TimeLimit

PROGRAM = ("python", "tune/sweep.py")
"""How the program is called, unless it is called otherwise."""

WIDTH = 80
"""The widest that the help is, in characters."""


def parser(program: Sequence[str] = PROGRAM) -> argparse.ArgumentParser:
    """The parser of the options. `parse` uses it, with errors in one line."""
    prog = " ".join(program)
    made = _Parser(
        prog=prog,
        usage=f"{prog} --grid NAME|FILE.yaml [OPTION ...]",
        description="Train a grid of runs and record them in MLflow. The same command resumes an interrupted sweep and "
        "skips finished runs.",
        formatter_class=_Formatter,
        add_help=False,
        exit_on_error=False,
    )
    add = made.add_argument_group("what to run").add_argument
    add("--grid", type=_text, metavar="NAME|FILE.yaml", help="a grid by its name, below, or your own file; required")
    add("--only", type=_text, action="append", default=[], metavar="FIELD=A,B", help="keep the runs whose FIELD is A "
        "or B; several --only keep the runs that match all of them")  # fmt: skip
    add("--set", type=_text, action="append", default=[], metavar="FIELD=A,B", help="set a FIELD of every run, to one "
        "value or to several in turn, in place of the grid's")  # fmt: skip
    add("--dataset", type=_text, metavar="NAME|FILE.npz|FOLDER", help="short for --set dataset=...; your own images: "
        "an .npz file, or a folder of images, FOLDER@48 to resize them")  # fmt: skip
    add("--experiment", type=_name, metavar="NAME", help="name of the MLflow experiment (default: the grid's)")
    add("--retry-failed", action="store_true", help="train only the failed runs again, and what starts from them")
    add = made.add_argument_group("what to do with it").add_argument
    add("--plan", action="store_true", help="start nothing; print what would run, what is done, and estimated hours")
    add("--json", action="store_true", help="with --plan: print one JSON object")
    add("--inline", action="store_true", help="train in this process, one trial after another, without Ray and MLflow; "
        "the results are on the storage, and --record or the ordinary command records them")  # fmt: skip
    add("--record", action="store_true", help="record what the storage has, and train nothing")
    add("--minutes", type=_positive(float), metavar="N", help="end within N minutes, with all trainings saved; the "
        "same command resumes (default: no limit)")  # fmt: skip
    add("--register", type=_model_name, metavar="NAME", help="then make the model of the best run, by validation, a "
        "version of the registered model NAME in MLflow; the grid must have one cell")  # fmt: skip
    add = made.add_argument_group("where things are").add_argument
    add("--storage", type=_text, metavar="DIR", help="folder of results and checkpoints; on a cluster, one that "
        "all nodes share (default: storage)")  # fmt: skip
    add("--data-dir", type=_path, metavar="DIR", help="folder of the data sets (default: data)")
    add("--tracking-uri", type=_text, metavar="URI",
        help=f"where MLflow records (default: $MLFLOW_TRACKING_URI or {DEFAULT_TRACKING_URI})")  # fmt: skip
    add("--report", type=_path, metavar="DIR",
        help="write the report there at the end (default: report/NAME OF THE EXPERIMENT)")  # fmt: skip
    add = made.add_argument_group("which machines, and how much of them").add_argument
    add("--address", type=_text, metavar="auto|HOST:PORT", help="a running Ray cluster (default: start Ray here)")
    add("--cpus-per-trial", type=_positive(int), metavar="N", help="cores of a trial (default: 1)")
    add("--gpus-per-trial", type=_gpus, metavar="F|auto", help="GPUs of a trial, or a fraction of one; auto: measure "
        "how many trials fit in a GPU's memory (default: 1 if a GPU is available, else 0)")  # fmt: skip
    add("--seeds-per-trial", type=_positive(int), metavar="N", help="runs trained as one array (default: 2)")
    add("--members", type=_members, metavar="N|auto", help="instead of --seeds-per-trial: models trained as one "
        "array, in whole runs; auto: measure once how many pay off on this machine's device")  # fmt: skip
    add = made.add_argument_group("search the settings of one cell by validation score").add_argument
    add("--search", type=_one_of("optuna"), choices=["optuna"], metavar="optuna", help="search; needs --space")
    add("--space", type=_text, metavar="NAME|FILE.yaml", help="the fields and their ranges, a name in tune/spaces or "
        "a file")  # fmt: skip
    add("--samples", type=_positive(int), metavar="N", help="how many samples (default: 20)")
    add("--early-stopping", type=_one_of("asha", "none"), choices=["asha", "none"], metavar="asha|none",
        help="asha stops samples with low scores early, none trains each to the end (default: asha)")  # fmt: skip
    add = made.add_argument_group("help").add_argument
    add("-h", "--help", action="help", help="print this")
    return made


def parse(arguments: Sequence[str], program: Sequence[str] = PROGRAM) -> argparse.Namespace:
    """The parsed options. GridError names an option and its value, and what would be valid; SystemExit for `--help`."""
    made = parser(program)
    try:
        asked, unknown = made.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise GridError(_said(error, made)) from None
    if unknown:
        raise GridError(_unknown(unknown[0], made))
    if asked.grid is None:
        raise GridError(f"--grid is missing: {grid_files.valid_names()}; --help lists all options")
    return asked


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise GridError(message.removeprefix("argument "))

    def format_help(self) -> str:
        from tune.help_text import after_the_options  # late: an ordinary command needs no help

        return f"{super().format_help()}\n{after_the_options(self.prog, WIDTH)}"


class _Formatter(argparse.HelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=24, width=WIDTH)


def _said(error: argparse.ArgumentError, made: argparse.ArgumentParser) -> str:
    """An error of argparse, which begins with the option."""
    names = {"/".join(action.option_strings): action for action in made._actions}
    action = names.get(error.argument_name or "")
    if action is None:
        return error.message
    name = action.option_strings[-1]
    if action.nargs == 0:
        return f"{name}: it takes no value"
    if error.message.startswith("expected "):
        return f"{name}: its value is missing; expected {action.metavar}"
    return f"{name} {error.message}{f'; expected {action.metavar}' if error.message == _EMPTY else ''}"


def _unknown(text: str, made: argparse.ArgumentParser) -> str:
    if not text.startswith("-"):
        known = text in grid_files.names() or text.endswith((".yaml", ".yml"))
        return f"{text}: not an option; {f'did you mean --grid {text}?' if known else '--help lists the options'}"
    options = [name for action in made._actions for name in action.option_strings]
    name = text.partition("=")[0]
    return f"{name}: no such option; {nearest(name, options).strip() or '--help lists the options'}"


# ---------------------------------------------------------------------- types of options
_EMPTY = "'': it is empty"


def _text(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError(_EMPTY)
    return text


def _path(text: str) -> Path:
    return Path(_text(text))


def _positive(kind: type, zero: bool = False, other: str = "") -> Callable[[str], float]:
    """The type of a number; `other`: a further valid value, for the error."""
    at_least = "0 or more" if zero else "1 or more" if kind is int else "more than 0"
    valid = f"a {'whole number' if kind is int else 'number'}, {at_least}{f', or {other}' if other else ''}"

    def convert(text: str) -> float:
        try:
            value = kind(_text(text))
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or value < 0 or (value == 0 and not zero):
            raise argparse.ArgumentTypeError(f"{text}: must be {valid}")
        return value

    return convert


def _members(text: str) -> float | str:
    return text if text == AUTO else _positive(int, other=AUTO)(text)


def _gpus(text: str) -> float | str:
    return text if text == AUTO else _positive(float, zero=True, other=AUTO)(text)


def _one_of(*values: str) -> Callable[[str], str]:
    def convert(text: str) -> str:
        if _text(text) not in values:
            near = nearest(text, values)
            raise argparse.ArgumentTypeError(f"{text}: {near}valid values are {', '.join(values)}")
        return text

    return convert


def _name(text: str) -> str:
    if not grid_files.is_plain_name(_text(text)):  # it also names folders
        raise argparse.ArgumentTypeError(f"{text!r}: must be a plain name, without / and not starting with a dot")
    return text


def _model_name(text: str) -> str:
    if not grid_files.is_plain_name(_text(text)) or set(text) & set(":@'\"`"):
        raise argparse.ArgumentTypeError(f"{text!r}: must be a plain name, without / : @ and quotes")
    return text


# ---------------------------------------------------------------------- what the options mean
EXCLUDED: Mapping[str, tuple[str, ...]] = {
    "inline": ("record", "search", "address", "tracking_uri", "report"),
    "record": ("search", "plan", "retry_failed", "minutes", "address"),
    "minutes": ("plan",),
    "register": ("inline", "search", "plan"),
    "plan": ("search",),
}
"""Options that exclude each other."""

_REASONS = {
    "inline": "an inline sweep trains in this process, without Ray and MLflow",
    "record": "it records what the storage has, and trains nothing",
    "minutes": "a plan trains nothing",
    "register": "it registers what a sweep has recorded in MLflow",
    "plan": "a plan is of a sweep",
}


def check_together(asked: argparse.Namespace) -> None:
    """Raise GridError for options that exclude or need each other."""
    for option, others in EXCLUDED.items():
        for other in others:
            if getattr(asked, option) and getattr(asked, other):
                raise GridError(f"--{option} and --{other.replace('_', '-')}: give one of them; {_REASONS[option]}")
    if asked.json and not asked.plan:
        raise GridError("--json needs --plan")
    if asked.members is not None and asked.seeds_per_trial is not None:
        raise GridError("--members and --seeds-per-trial both say how large an array is: give one of them")
    if asked.inline and asked.gpus_per_trial is not None:
        if asked.gpus_per_trial == AUTO:
            raise GridError("--gpus-per-trial auto needs Ray; with --inline give a number: 0, 1 or a fraction")
        if asked.gpus_per_trial > 1:
            raise GridError(f"--gpus-per-trial {asked.gpus_per_trial:g}: an inline sweep uses one GPU, or a fraction")


def options_of(
    asked: argparse.Namespace, command: str = "", began: float = 0.0, program: tuple[str, ...] = PROGRAM
) -> Options:
    """The parsed options, with defaults filled in. Raises GridError for options that cannot be combined.

    `command`: as typed; `began`: when it began, on the monotonic clock; `program`: its first words.
    """
    places = ("dataset", "data_dir", "storage", "tracking_uri", "experiment", "report", "address")
    sizes = ("cpus_per_trial", "gpus_per_trial", "seeds_per_trial", "members")
    typed = {name: getattr(asked, name) for name in (*places, *sizes)}
    return Options(
        command=command,
        program=program,
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
        began=began or time.monotonic(),
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
