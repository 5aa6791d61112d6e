"""Compares the times of implementations of the same work, in interleaved rounds; and runs benchmark commands.

A benchmark is a function from `Settings` to rows, which `main` runs as a command:

    from bench.harness import Row, Settings, check_close, compare, main, timed

    def bench(settings: Settings) -> Iterator[Row]:
        x, ours, theirs = ...                       # the same random inputs for both, not zeros

        def equal() -> None:                        # called before anything is timed; raises DifferentError
            check_close("losses", ours(), theirs())

        yield from compare(
            "VAE step", timed(ours, settings.device), {"plain eager": timed(theirs, settings.device)},
            rounds=settings.rounds, equal=equal,
        )

    if __name__ == "__main__":
        main(bench, __doc__, methods="vae", members="1")

`compare` returns a row for each rival. A timer is any function that does the work once and returns seconds, so a rival
may also run in another process (`bench.child`), or measure the time itself. With rich installed the table is prettier.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rme import allocator, data, methods
from rme.device import device_name, pick_device
from tune.cost.timer import Timer, timed

__all__ = [
    "DifferentError", "Row", "Settings", "Timer", "check_close", "compare", "main", "quick_settings", "timed",
]  # fmt: skip

ROUNDS, QUICK_ROUNDS = 15, 5

STAGE_ROUNDS = {"cuda": QUICK_ROUNDS, "cpu": 3}
"""Rounds in a stage of `bench.device`: on a CPU a step of RME takes a third of a second."""


class DifferentError(AssertionError):
    """Two implementations compute different results, so their times cannot be compared."""


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        name: what was timed.
        rival: what it was timed against.
        median_ms: median of our times over the rounds.
        rival_median_ms: the same of the rival.
        ratio: median over the rounds of rival / ours; above 1, ours is faster.
        spread: interquartile range of that ratio, divided by its median.
        roofline: the fraction of the device's measured peak that ours reaches; None if not computed.
    """

    name: str
    rival: str
    median_ms: float
    rival_median_ms: float
    ratio: float
    spread: float
    roofline: float | None = None


# ---------------------------------------------------------------------- timing
def compare(
    name: str,
    ours: Timer,
    rivals: Mapping[str, Timer],
    *,
    rounds: int,
    equal: Callable[[], None] | None = None,
    warm_ups: int = 1,
    roofline_s: float | None = None,
) -> list[Row]:
    """Time ours and its rivals in turn, round by round; every second round in the opposite order.

    Args:
        name: what is timed.
        ours: our timer.
        rivals: the rivals' timers by name.
        rounds: how often each is timed.
        warm_ups: untimed calls of each before.
        equal: checks that all compute the same; called first, raises DifferentError.
        roofline_s: seconds of the work at the device's peak.

    Returns:
        a row for each rival.
    """
    if not rivals:
        return []
    if equal is not None:
        equal()
    timers = {"": ours, **rivals}
    for timer in timers.values():
        for _ in range(warm_ups):
            timer()
    samples: dict[str, list[float]] = {who: [] for who in timers}
    with _no_collection():
        for r in range(rounds):
            for who in list(timers) if r % 2 == 0 else reversed(list(timers)):
                samples[who].append(timers[who]())
    return [row(name, rival, samples[""], samples[rival], roofline_s) for rival in rivals]


def row(name: str, rival: str, ours: Sequence[float], theirs: Sequence[float], roofline_s: float | None = None) -> Row:
    """The row of paired times in seconds: ours[i] and theirs[i] are of the same round."""
    ratios = torch.tensor([b / a for a, b in zip(ours, theirs, strict=True)], dtype=torch.float64)
    low, middle, high = ratios.quantile(torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)).tolist()
    median = statistics.median(ours)
    return Row(
        name=name,
        rival=rival,
        median_ms=median * 1e3,
        rival_median_ms=statistics.median(theirs) * 1e3,
        ratio=middle,
        spread=(high - low) / middle,
        roofline=None if roofline_s is None else roofline_s / median,
    )


class _no_collection:
    """Disables garbage collection in the block, which would distort single times."""

    def __enter__(self) -> None:
        gc.collect()
        gc.disable()

    def __exit__(self, *exception: object) -> None:
        gc.enable()


def check_close(what: str, ours: Tensor, theirs: Tensor, *, rtol: float = 1e-4, atol: float = 1e-6) -> None:
    """Raise DifferentError with the largest difference unless |ours - theirs| <= atol + rtol |theirs| everywhere."""
    if ours.shape != theirs.shape:
        raise DifferentError(f"{what}: shapes {tuple(ours.shape)} and {tuple(theirs.shape)} differ")
    ours, theirs = ours.detach().cpu().double(), theirs.detach().cpu().double()
    difference = (ours - theirs).abs()
    excess = difference - (atol + rtol * theirs.abs())
    if not bool((excess <= 0).all()):  # a NaN is not close to anything
        i = int(torch.nan_to_num(excess, nan=torch.inf).argmax())
        a, b = ours.flatten()[i].item(), theirs.flatten()[i].item()
        raise DifferentError(f"{what}: {a:.9g} against {b:.9g}; the tolerance is {atol:g} + {rtol:g} relative")


# ---------------------------------------------------------------------- command line
@dataclass(frozen=True)
class Settings:
    """The options of a benchmark command.

    Attributes:
        methods: (method, order) pairs; the order is None for a method without order.
        members: sizes of arrays.
        rounds: how often each rival is timed.
        quick: whether the benchmark should take less than a minute.
        options: values of the command's own options.
    """

    device: torch.device
    dataset: str
    dim: int
    methods: tuple[tuple[str, int | None], ...]
    members: tuple[int, ...]
    rounds: int
    quick: bool
    options: Mapping[str, Any]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the data set's images."""
        return data.get(self.dataset).shape


def quick_settings(device: torch.device) -> Settings:
    """Settings of the stages of `bench.device`: MNIST's shape, dim 50, few rounds, no methods or members chosen."""
    rounds = STAGE_ROUNDS[device.type]
    return Settings(device, "mnist", 50, methods=(), members=(1,), rounds=rounds, quick=True, options={})


def main(
    bench: Callable[[Settings], Iterable[Row]],
    description: str | None,
    *,
    methods: str,
    members: str = "1",
    dim: int = 50,
    quick_methods: str | None = None,
    quick_members: str | None = None,
    options: Callable[[argparse.ArgumentParser], None] | None = None,
    argv: Sequence[str] | None = None,
) -> list[Row]:
    """Run a benchmark command: parse the command line, print the rows as a table, and write them as JSON if asked.

    `methods`, `members` and `dim` are defaults; `quick_methods` and `quick_members` are those with --quick, if
    different; `options` adds the command's own options to the parser.
    """
    settings, path = parse(
        description, methods=methods, members=members, dim=dim, quick_methods=quick_methods,
        quick_members=quick_members, options=options, argv=argv,
    )  # fmt: skip
    prepare(settings.device)
    rows: list[Row] = []
    try:
        for one in bench(settings):
            rows.append(one)
            print(f"  {one.name} / {one.rival}: {one.ratio:.2f}", file=sys.stderr, flush=True)
    except (DifferentError, ValueError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    print_table(f"{settings.dataset}, dim {settings.dim}, {measured_on(settings.device)}", rows)
    if path is not None:
        write_json(path, settings.device, rows)
    return rows


def parse(
    description: str | None,
    *,
    methods: str,
    members: str,
    dim: int,
    quick_methods: str | None = None,
    quick_members: str | None = None,
    options: Callable[[argparse.ArgumentParser], None] | None = None,
    argv: Sequence[str] | None = None,
) -> tuple[Settings, Path | None]:
    """Parse the command line: the settings and the path of `--json`. Exits with status 2, naming an invalid value."""
    p = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    p.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    p.add_argument("--dataset", default="mnist", help="whose image shape is used; its files are not needed")
    p.add_argument("--dim", type=int, default=dim, help="latent dimension (default: %(default)s)")
    p.add_argument("--methods", help=f"such as vae,rme:5,iaf; without a number, all orders (default: {methods})")
    p.add_argument("--members", help=f"sizes of arrays (default: {members})")
    p.add_argument("--rounds", type=int, help=f"samples of each rival (default: {ROUNDS}, quick: {QUICK_ROUNDS})")
    p.add_argument("--quick", action="store_true", help="less than a minute, with wider spreads")
    p.add_argument("--json", type=Path, metavar="FILE", help="write the rows there")
    common = {a.dest for a in p._actions}
    if options is not None:
        options(p)
    a = p.parse_args(argv)
    try:
        data.get(a.dataset)
        settings = Settings(
            device=pick_device(a.device),
            dataset=a.dataset,
            dim=_at_least_one(a.dim, "--dim"),
            methods=parse_methods(a.methods or (a.quick and quick_methods) or methods),
            members=parse_members(a.members or (a.quick and quick_members) or members),
            rounds=_at_least_one(a.rounds or (QUICK_ROUNDS if a.quick else ROUNDS), "--rounds"),
            quick=a.quick,
            options={name: value for name, value in vars(a).items() if name not in common},
        )
    except ValueError as error:
        p.error(str(error))
    if a.json is not None and not a.json.parent.is_dir():
        p.error(f"--json {a.json}: the folder {a.json.parent} does not exist")
    return settings, a.json


def parse_methods(text: str) -> tuple[tuple[str, int | None], ...]:
    """(method, order) pairs from `vae,rme:5,iaf` or `all`. Raises ValueError with the valid values."""
    found: list[tuple[str, int | None]] = []
    for item in methods.names() if text == "all" else text.split(","):
        name, _, order = item.strip().partition(":")
        kind = methods.get(name)
        if not order:
            found += [(kind.name, o) for o in kind.orders] if kind.orders else [(kind.name, None)]
        elif kind.orders is None or not order.isdigit() or int(order) not in kind.orders:
            orders = ", ".join(map(str, kind.orders)) if kind.orders else "none"
            raise ValueError(f"--methods {item}: the orders of {kind.name} are {orders}")
        else:
            found.append((kind.name, int(order)))
    return tuple(found)


def parse_members(text: str) -> tuple[int, ...]:
    """Numbers from `1,2,4`. Raises ValueError."""
    try:
        return tuple(_at_least_one(int(item), "--members") for item in text.split(","))
    except ValueError:
        raise ValueError(f"--members {text}: such as 8 or 1,2,4, each at least 1") from None


def _at_least_one(value: int, option: str) -> int:
    if value < 1:
        raise ValueError(f"{option} {value}: at least 1")
    return value


# ---------------------------------------------------------------------- the machine
def prepare(device: torch.device) -> None:
    """Prepare this process for timing: on a CPU with one thread, and the allocator settings of training.

    The argument checks of torch.distributions are disabled: they are not part of the work, and synchronise a GPU.
    """
    torch.distributions.Distribution.set_default_validate_args(False)
    if device.type == "cuda":
        if device.index is not None:  # "cuda" without an index is the current device
            torch.cuda.set_device(device)
    else:
        torch.set_num_threads(1)
        allocator.keep_freed_memory()


def measured_on(device: torch.device) -> str:
    """The device's name; for a CPU also that one core was used."""
    return device_name(device) + ("" if device.type == "cuda" else ", one core, CPU time")


# ---------------------------------------------------------------------- output
def write_json(path: Path, device: torch.device, rows: Iterable[Row], **more: Any) -> None:
    """Write {"device", "torch", "rows": [...]} and the entries of `more`."""
    content = {"device": measured_on(device), "torch": torch.__version__, "rows": [asdict(r) for r in rows], **more}
    path.write_text(json.dumps(content, indent=1) + "\n")


FILE_WIDTH = 140
"""Columns of tables that are not printed to a terminal."""

HEADINGS = ("what", "ms", "against", "ms", "ratio", "spread", "roofline")


def cells(r: Row | Mapping[str, Any]) -> tuple[str, ...]:
    """A row as text, in the order of HEADINGS."""
    v = asdict(r) if isinstance(r, Row) else r
    return (
        str(v["name"]),
        f"{v['median_ms']:.4g}",
        str(v["rival"]),
        f"{v['rival_median_ms']:.4g}",
        f"{v['ratio']:.2f}",
        f"{v['spread']:.0%}",
        "" if v["roofline"] is None else f"{v['roofline']:.0%}",
    )


def print_table(title: str, rows: Sequence[Row]) -> None:
    """Print rows as a table."""
    print_columns(title, HEADINGS, [cells(r) for r in rows], left=(0, 2))


def print_columns(
    title: str, headings: Sequence[str], lines: Sequence[Sequence[str]], left: Sequence[int] = (0,)
) -> None:
    """Print a table, with rich if installed; the columns in `left` are left-aligned, the others right-aligned."""
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        print(title)
        print(*plain_columns(headings, lines, left), sep="\n")
        return
    table = Table(title=title, title_justify="left")
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="left" if i in left else "right")
    for line in lines:
        table.add_row(*line)
    console = Console()
    # a file has no width, and rich would break lines at 80 columns
    (console if console.is_terminal else Console(width=FILE_WIDTH)).print(table)


def plain_columns(headings: Sequence[str], lines: Sequence[Sequence[str]], left: Sequence[int]) -> Iterator[str]:
    """Lines of text with aligned columns."""
    widths = [max(len(line[i]) for line in [headings, *lines]) for i in range(len(headings))]
    for line in [headings, *lines]:
        padded = (c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True)))
        yield "  ".join(padded).rstrip()
