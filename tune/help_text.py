"""What the sweep's `--help` prints after its options: grids, fields, how values are written, exit statuses and more."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

from rme.run_fields import RunFields
from tune.plan import grid_files

VALUES = (
    ("dim=10,50", "several values; of --set, every row of the grid runs with each"),
    ("seed=0-9", "a range, of the whole numbers order, dim and seed; also 0-3,7"),
    ('variant="a, b"', "double quotes enclose a value with a comma"),
    ("variant=none", "no value: the rows without a variant; --set patience=none"),
    ("options.NAME=5", "with --set: a hyperparameter that the method itself declares"),
)
"""How the values of `--only` and `--set` are written."""

EXIT_STATUSES = (
    ("0", "every run is done; with --inline, trained; of --plan, it would start"),
    ("1", "some runs failed or are not recorded, or a disk was nearly full"),
    ("2", "the command cannot be carried out, or, with --plan, could not be"),
    ("124", "stopped because the time of --minutes is over"),
    ("141", "the reader of standard output has ended, as in `| head`"),
    ("129, 130, 143", "stopped as the terminal was closed, by Ctrl-C, by SIGTERM; the same command resumes"),
)

EXAMPLES = (
    ("what would run, and the hours", "--grid paper --plan"),
    ("a part of it", "--grid paper --only dataset=mnist --only dim=10,50"),
    ("your own images, other seeds and length", "--grid demo --dataset my_images.npz --set seed=0-9 --set epochs=200"),
)
"""What each is for, and its options."""

DOCUMENTS = (
    ("docs/sweep.md", "a sweep of your own"),
    ("docs/command_line.md", "every command, and how to complete options with Tab"),
    ("docs/run_spec.md", "the fields, with types, defaults and bounds"),
    ("docs/add_a_grid.md", "a grid of your own"),
)


def after_the_options(prog: str, width: int) -> str:
    """The text, in lines of at most `width` characters; commands begin with `prog`."""
    fields = [(name, info.description or "") for name, info in RunFields.model_fields.items()]
    commands = [line for purpose, options in EXAMPLES for line in (f"# {purpose}", *_command(prog, options, width))]
    return "\n".join(
        [
            *_section("grids", grid_files.descriptions().items(), width),
            *_section("fields of a run, for --only and --set", fields, width),
            *_section("values of --only and --set", VALUES, width),
            *_section("exit status", EXIT_STATUSES, width),
            "examples:",
            *(f"  {line}" for line in commands),
            "",
            *_section("documentation", DOCUMENTS, width)[:-1],
            "",
        ]
    )


def _section(title: str, rows: Iterable[tuple[str, str]], width: int) -> list[str]:
    """Lines of a title, names and their texts in two columns, and an empty line."""
    rows = list(rows)
    column = 4 + max(len(name) for name, _ in rows)
    lines = [f"{title}:"]
    for name, text in rows:
        first = f"  {name}".ljust(column)
        lines += textwrap.wrap(
            text, width, initial_indent=first, subsequent_indent=" " * column, break_on_hyphens=False
        )
    return [*lines, ""]


def _command(prog: str, options: str, width: int) -> list[str]:
    """A command in lines that end in a backslash where it continues."""
    lines, words = [prog], options.replace(" --", "\n--").split("\n")
    for word in words:
        if len(lines[-1]) + len(word) + 5 > width:  # the indent, a space and the backslash
            lines[-1] += " \\"
            lines.append(f"    {word}")
        else:
            lines[-1] += f" {word}"
    return lines
