"""One table as text for a terminal, Markdown, CSV, LaTeX and HTML. Colours are doubled by marks where type is plain."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from rich import box
from rich.console import Console, Group
from rich.table import Table as RichTable
from rich.text import Text

from analysis.tables import Entry, Table

MARKS = {"best": "*", "": "", "yellow-orange": "†", "orange": "‡", "red-orange": "§", "untested": "?"}
"""What stands for a colour where there is none."""

MEANINGS = {
    "best": "best mean",
    "": "p ≤ 0.01",
    "yellow-orange": "0.01 < p ≤ 0.05",
    "orange": "0.05 < p ≤ 0.1",
    "red-orange": "p > 0.1",
    "untested": "too few pairs for a test",
}
"""What a colour says about a cell, in the order of a legend."""

NO_RUN = "–"

_RICH = {
    "best": "bold red", "": "", "yellow-orange": "yellow3", "orange": "dark_orange", "red-orange": "orange_red1",
    "untested": "dim italic",
}  # fmt: skip
_LATEX = {
    "yellow-orange": "YellowOrange", "orange": "Orange", "red-orange": "RedOrange", "untested": "gray",
}  # fmt: skip
_CSV = [
    "table", "score", "dataset", "decoder", "dim", "method", "order", "label", "n", "expected", "mean", "sd", "rank",
    "p", "n_pairs", "colour", "note",
]  # fmt: skip

templates = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
templates.globals.update(marks=MARKS, meanings=MEANINGS, no_run=NO_RUN)


def mean_text(table: Table, entry: Entry) -> str:
    """`698.2`, and `+13.1` in a table of differences; empty without a number."""
    mean = round(entry.mean, 1) + 0.0  # turns -0.0 into 0.0
    return "" if np.isnan(mean) else f"{mean:+.1f}" if table.signed else f"{mean:.1f}"


def value_text(table: Table, entry: Entry) -> str:
    """`698.2 ± 1.1`."""
    sd = "" if np.isnan(entry.sd) else f" ± {entry.sd:.1f}"
    return f"{mean_text(table, entry)}{sd}"


def p_text(p: float) -> str:
    """`0.016`: two digits that count."""
    return f"{p:.2g}"


def details(entry: Entry) -> str:
    """All that is known of one entry, in a line: `n = 10, mean 698.2341, sd 1.1021, rank 2, p = 0.016 (10 pairs)`."""
    parts = [f"n = {entry.n} of {entry.expected}"]
    if not np.isnan(entry.mean):
        parts.append(f"mean {entry.mean:.4f}")
    if not np.isnan(entry.sd):
        parts.append(f"sd {entry.sd:.4f}")
    if entry.rank is not None:
        parts.append(f"rank {entry.rank}")
    if not np.isnan(entry.p):
        parts.append(f"p = {p_text(entry.p)} ({entry.n_pairs} pairs)")
    return ", ".join([*parts, *([entry.note] if entry.note else [])])


def legend(table: Table) -> list[tuple[str, str, str]]:
    """(colour, mark, meaning) of the colours that occur; empty for a table that compares nothing."""
    if table.signed:
        return []
    return [(colour, MARKS[colour], meaning) for colour, meaning in MEANINGS.items() if colour in table.colours]


def _plain(table: Table, entry: Entry | None, mark: bool = True) -> str:
    """`n=3/10 698.2 ± 1.1 §`."""
    if entry is None:
        return NO_RUN
    return " ".join(filter(None, [entry.incomplete, value_text(table, entry), MARKS[entry.colour] if mark else ""]))


def _plain_legend(table: Table) -> str:
    return "   ".join(f"{mark or 'no mark'} {meaning}" for _, mark, meaning in legend(table))


# ---------------------------------------------------------------------- terminal
def to_rich(table: Table) -> Group:
    """Title, table and legend, for `rich.console.Console.print`."""
    columns = []
    for dim in table.dims:
        entries = [table.entries.get((row, dim)) for row in table.rows]
        words = [_plain(table, entry, mark=False) for entry in entries]
        width = max(map(len, [*words, str(dim)]))  # the numbers stand below one another, the marks behind them
        cells = [
            Text(
                f"{word:>{width}} {MARKS[entry.colour] if entry else ''}", style=_RICH[entry.colour] if entry else "dim"
            )
            for word, entry in zip(words, entries, strict=True)
        ]
        columns.append((f"{dim:>{width}}", cells))
    out = RichTable(box=box.SIMPLE_HEAD)
    out.add_column("dim(z)", no_wrap=True)
    for header, _ in columns:
        out.add_column(header, no_wrap=True)
    for i, row in enumerate(table.rows):
        out.add_row(Text(row.label), *(cells[i] for _, cells in columns))
    return Group(Text(table.title, style="bold"), out, Text(_plain_legend(table), style="dim"))


def to_text(table: Table, colour: bool = False, width: int = 160) -> str:
    """Text for a terminal of `width` characters, with ANSI colours if asked for."""
    console = Console(file=io.StringIO(), force_terminal=colour, width=width, color_system="256" if colour else None)
    with console.capture() as capture:
        console.print(to_rich(table))
    return capture.get()


# ---------------------------------------------------------------------- Markdown
def to_markdown(table: Table) -> str:
    """A pipe table with its title and legend; the best of a column in bold."""
    lines = [f"**{_escape_markdown(table.title)}**", ""]
    lines += ["| dim(z) | " + " | ".join(map(str, table.dims)) + " |", "|:--|" + "--:|" * len(table.dims)]
    for row in table.rows:
        cells = [_markdown_cell(table, table.entries.get((row, dim))) for dim in table.dims]
        lines.append(f"| {_escape_markdown(row.label)} | " + " | ".join(cells) + " |")
    lines += ["", _escape_markdown(table.caption)]
    if legend(table):
        marks = [(f"**bold** {m}" if c == "best" else f"{k or 'no mark'} {m}") for c, k, m in legend(table)]
        lines += ["", "; ".join(marks) + "."]
    return "\n".join(lines) + "\n"


def _markdown_cell(table: Table, entry: Entry | None) -> str:
    if entry is None or entry.colour != "best":
        return _plain(table, entry)
    return " ".join(filter(None, [entry.incomplete, f"**{value_text(table, entry)}**"]))


def _escape_markdown(text: str) -> str:
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", text)


# ---------------------------------------------------------------------- CSV
def to_csv(table: Table) -> str:
    """Long form, a line for each cell that has runs, with every number at full precision; empty where there is none.

    Columns: table, score, dataset, decoder, dim, method, order, label, n, expected, mean, sd, rank, p, n_pairs,
    colour, note. Means and standard deviations are in nats.
    """
    out = io.StringIO()
    writer = csv.DictWriter(out, _CSV, lineterminator="\n")
    writer.writeheader()
    for row in table.rows:
        for dim in table.dims:
            entry = table.entries.get((row, dim))
            if entry is None:
                continue
            numbers = {name: getattr(entry, name) for name in ("mean", "sd", "p")}
            writer.writerow(
                {"table": table.name, "score": table.score, "dataset": table.dataset, "decoder": table.decoder}
                | {"dim": dim, "method": row.method, "order": row.order, "label": row.label}
                | {"n": entry.n, "expected": entry.expected, "rank": entry.rank, "n_pairs": entry.n_pairs}
                | {name: "" if np.isnan(number) else repr(number) for name, number in numbers.items()}
                | {"colour": entry.colour, "note": entry.note}
            )
    return out.getvalue()


# ---------------------------------------------------------------------- LaTeX
def to_latex(table: Table) -> str:
    """A table environment in the look of Tables 7-11: `685.1^{1.8}`, the best in bold red."""
    lines = [
        r"% needs \usepackage{booktabs} and \usepackage[dvipsnames]{xcolor}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_latex_caption(table)}}}",
        rf"\label{{tab:{table.name}}}",
        rf"\begin{{tabular}}{{l{'r' * len(table.dims)}}}",
        r"\toprule",
        " & ".join([r"$\dim(\mathbf{z})$", *map(str, table.dims)]) + r" \\",
        r"\midrule",
    ]
    for row in table.rows:
        cells = [_latex_cell(table, table.entries.get((row, dim))) for dim in table.dims]
        lines.append(" & ".join([_latex_label(row.label), *cells]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"]) + "\n"


def _latex_cell(table: Table, entry: Entry | None) -> str:
    if entry is None:
        return "--"
    mean, best = mean_text(table, entry), entry.colour == "best"
    sd = "" if np.isnan(entry.sd) else f"^{{{entry.sd:.1f}}}"
    number = rf"\mathbf{{{mean}}}" if best else mean
    value = f"${number}{sd}$" if mean else ""
    name = "red" if best else _LATEX.get(entry.colour)
    if name and value:
        value = rf"\textcolor{{{name}}}{{{value}}}"
    incomplete = rf"{{\scriptsize {entry.incomplete}}}" if entry.incomplete else ""
    return " ".join(filter(None, [incomplete, value]))


def _latex_caption(table: Table) -> str:
    meanings = {
        "best": "bold red: the best mean", "": r"no colour: $p \le 0.01$",
        "yellow-orange": r"yellow-orange: $p \in (0.01, 0.05]$", "orange": r"orange: $p \in (0.05, 0.1]$",
        "red-orange": "red-orange: $p > 0.1$", "untested": "gray: too few pairs for a test",
    }  # fmt: skip
    words = "; ".join(meanings[colour] for colour, _, _ in legend(table))
    caption = f"{_escape_latex(table.caption)} The superscripts are the standard deviations."
    return caption + (f" {words[0].upper()}{words[1:]}." if words else "")


def _latex_label(label: str) -> str:
    """`RME(5)` as the paper sets it, with the order raised."""
    name, order = re.fullmatch(r"(.*?)(\(\d+\))?", label, re.DOTALL).groups()  # type: ignore[union-attr]
    return _escape_latex(name) + (f"$^{{{order}}}$" if order else "")


def _escape_latex(text: str) -> str:
    special = {
        "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "≤": r"$\le$",
        "<": r"$<$", ">": r"$>$", **{character: rf"\{character}" for character in "&%$#_{}"},
    }  # fmt: skip
    return "".join(special.get(character, character) for character in text)


# ---------------------------------------------------------------------- HTML
def to_html(table: Table) -> str:
    """A `<figure>` with the table, its caption and legend; hovering over a cell tells its n, mean, sd and p."""
    macro = templates.get_template("table.html.j2").module.table  # type: ignore[attr-defined]
    return str(macro(table, legend(table), lambda entry: value_text(table, entry), details))
