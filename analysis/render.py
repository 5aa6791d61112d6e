"""Renders a table for a terminal, as Markdown, CSV, LaTeX and HTML. Marks say in plain text what colours say."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from rich import box
from rich.columns import Columns
from rich.console import Console, Group
from rich.table import Table as RichTable
from rich.text import Text

from analysis.colours import LATEX, LATEX_NEEDS, MARKS, MEANINGS, PAPER, PLAIN, RICH
from analysis.stats import DIFFERENCE
from analysis.tables import SCORES, Entry, Table

NO_RUN = "–"

_LATEX_CORNER = {"dim(z)": r"$\dim(\mathbf{z})$", "": ""}
_CSV_NUMBERS = {
    "mean": "mean", "sd": "sd", "p": "p", "p_holm": "p_holm", "median": "median_difference",
    "estimate": "hodges_lehmann", "low": "hodges_lehmann_low", "high": "hodges_lehmann_high",
    "level": "hodges_lehmann_level",
}  # fmt: skip
_CSV_SIGNED = {"mean": "mean_difference", "sd": "sd_of_differences"}
_CSV_PAPER = [
    "published_mean", "published_sd", "difference_of_means", "difference_of_means_in_published_sd",
]  # fmt: skip

_TEMPLATES = Path(__file__).parent / "templates"

templates = Environment(
    loader=FileSystemLoader(_TEMPLATES),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
templates.globals.update(marks=MARKS, no_run=NO_RUN, scores=SCORES)


def mean_text(table: Table, entry: Entry) -> str:
    """`698.2`, or `+13.1` in a table of differences; empty for NaN."""
    return _number(entry.mean, table.digits, table.signed)


def value_text(table: Table, entry: Entry) -> str:
    """`698.2 ± 1.1`, then the other decoder's in parentheses; against the paper `698 − 699 = -1 (-0.6 sd)`."""
    if table.against_paper:
        return _against_paper_text(table, entry)
    sd = "" if np.isnan(entry.sd) else f" ± {entry.sd:.{table.digits}f}"
    value = f"{mean_text(table, entry)}{sd}"
    if entry.beside is None:
        return value
    return f"{value} ({' '.join(filter(None, [entry.beside.incomplete, value_text(table, entry.beside)]))})"


def _against_paper_text(table: Table, entry: Entry) -> str:
    ours, theirs = (_number(number, table.digits) or "?" for number in (entry.mean, entry.published_mean))
    difference = _number(entry.mean - entry.published_mean, table.digits, signed=True)
    if not difference:
        return f"{ours}, paper {'not legible' if theirs == '?' else theirs}"
    in_sd = in_published_sd(entry)
    return f"{ours} − {theirs} = {difference}" + ("" if np.isnan(in_sd) else f" ({_number(in_sd, 1, signed=True)} sd)")


def in_published_sd(entry: Entry) -> float:
    """Our mean minus the paper's, in the paper's standard deviations; NaN where it gives none."""
    return (entry.mean - entry.published_mean) / entry.published_sd if entry.published_sd > 0 else np.nan


def _number(value: float, digits: int, signed: bool = False) -> str:
    value = round(value, digits) + 0.0  # turns -0.0 into 0.0
    return "" if np.isnan(value) else f"{value:{'+' if signed else ''}.{digits}f}"


def p_text(p: float) -> str:
    """`0.016`: two significant digits."""
    return f"{p:.2g}"


def details(table: Table, entry: Entry) -> str:
    """All statistics of an entry in one line: `n = 10 of 10, mean 698.2341, sd 1.1021, rank 2, p = 0.016 ...`."""
    return ", ".join(detail_list(table, entry))


def detail_list(table: Table, entry: Entry) -> list[str]:
    """The statistics of `details`, one line for each."""
    of = " difference" if table.signed else ""
    parts = [f"n = {entry.n} of {entry.expected}"]
    if not np.isnan(entry.mean):
        parts.append(f"mean{of} {entry.mean:{'+' if table.signed else ''}.4f}")
    if not np.isnan(entry.sd):
        parts.append(f"sd {'of the differences ' if table.signed else ''}{entry.sd:.4f}")
    if entry.rank is not None:
        parts.append(f"rank {entry.rank}")
    if not np.isnan(entry.p):
        outcome = MEANINGS[entry.colour].partition(" (")[0]
        parts.append(f"{outcome}: p = {p_text(entry.p)} ({entry.n_pairs} pairs), Holm's p = {p_text(entry.p_holm)}")
    if not np.isnan(entry.median):
        whose = "" if table.signed else "best − this: "
        estimate = f"Hodges-Lehmann estimate {entry.estimate:+.4f} {interval_text(entry)}"
        parts.append(f"{whose}median difference {entry.median:+.4f}, {estimate}")
    if any(entry.restarts):  # all 0 says nothing: there may have been one restart
        parts.append(f"chosen restart by seed: {' '.join(map(str, entry.restarts))}")
    if entry.beside is not None:
        parts.append(f"in parentheses: {details(table, entry.beside)}")
    if table.against_paper:
        known = [_number(number, table.digits) for number in (entry.published_mean, entry.published_sd)]
        parts.append(f"paper {known[0] or 'not legible'}" + (f", sd {known[1]}" if known[1] else ""))
    return [*parts, *([entry.note] if entry.note else [])]


def interval_text(entry: Entry) -> str:
    """`[+1.2, +3.4] (95.1%)`, or why there is no interval."""
    if np.isnan(entry.low):
        return "(too few pairs for a 95% interval)"
    return f"[{entry.low:+.4f}, {entry.high:+.4f}] ({100 * entry.level:.1f}%)"


def legend(table: Table) -> list[tuple[str, str, str]]:
    """Outcome, mark and meaning of each outcome in the table, best first; empty for a table without tests."""
    if not table.compared:
        return []
    return [(colour, MARKS[colour], meaning) for colour, meaning in MEANINGS.items() if colour in table.colours]


def _plain(table: Table, entry: Entry | None, mark: bool = True) -> str:
    """`n=3/10 698.2 ± 1.1 §`."""
    if entry is None:
        return NO_RUN
    return " ".join(filter(None, [entry.incomplete, value_text(table, entry), MARKS[entry.colour] if mark else ""]))


# ---------------------------------------------------------------------- terminal
def to_rich(table: Table, colours: str = PLAIN) -> Group:
    """Title, table and legend, for `rich.console.Console.print`.

    Args:
        table: what to show.
        colours: a scheme of `analysis.colours.SCHEMES`.
    """
    styles = RICH[colours]
    columns = []
    for column, header in zip(table.columns, table.flat_headers, strict=True):
        entries = [table.entries.get((row, column)) for row in table.rows]
        words = [_plain(table, entry, mark=False) for entry in entries]
        width = max(map(len, [*words, header]))  # right-aligned numbers, followed by the marks
        cells = [
            Text(f"{word:>{width}} {MARKS[entry.colour] if entry else ''}", style=_style(table, entry, styles))
            for word, entry in zip(words, entries, strict=True)
        ]
        columns.append((f"{header:>{width}}", cells))
    out = RichTable(box=box.SIMPLE_HEAD)
    out.add_column(table.corner, no_wrap=True)
    for header, _ in columns:
        out.add_column(Text(header), no_wrap=True)
    for i, row in enumerate(table.rows):
        out.add_row(Text(row.label), *(cells[i] for _, cells in columns))
    shown = [
        Text(f"{mark} {meaning}" if mark else f"no mark: {meaning}", style=styles[outcome])
        for outcome, mark, meaning in legend(table)
    ]
    # columns, so that a narrow terminal wraps between meanings, not within one
    meanings = [Columns(shown, padding=(0, 3))] if shown else []
    return Group(Text(table.title, style="bold"), out, *meanings, Text(""))


def _style(table: Table, entry: Entry | None, styles: dict[str, str]) -> str:
    if entry is None:
        return "dim"
    return styles[entry.colour] if table.compared else ""


def to_text(table: Table, colour: bool = False, width: int = 160, colours: str = PLAIN) -> str:
    """Text for a terminal of `width` characters, with ANSI colours of the scheme `colours` if `colour`."""
    console = Console(file=io.StringIO(), force_terminal=colour, width=width, color_system="256" if colour else None)
    with console.capture() as capture:
        console.print(to_rich(table, colours))
    return capture.get()


# ---------------------------------------------------------------------- Markdown
def to_markdown(table: Table) -> str:
    """A pipe table with title, caption and legend; the best mean of a column in bold."""
    lines = [f"**{escape_markdown(table.title)}**", ""]
    headers = map(escape_markdown, table.flat_headers)
    lines += [f"| {table.corner} | " + " | ".join(headers) + " |", "|:--|" + "--:|" * len(table.columns)]
    for row in table.rows:
        cells = [_markdown_cell(table, table.entries.get((row, column))) for column in table.columns]
        lines.append(f"| {escape_markdown(row.label)} | " + " | ".join(cells) + " |")
    lines += ["", escape_markdown(table.caption)]
    if legend(table):
        marks = [(f"**bold** {m}" if c == "best" else f"{k or 'no mark:'} {m}") for c, k, m in legend(table)]
        lines += ["", "; ".join(marks) + "."]
    return "\n".join(lines) + "\n"


def _markdown_cell(table: Table, entry: Entry | None) -> str:
    if entry is None or entry.colour != "best":
        return _plain(table, entry)
    return " ".join(filter(None, [entry.incomplete, f"**{value_text(table, entry)}**"]))


def escape_markdown(text: str) -> str:
    """`text` with Markdown's special characters escaped."""
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", text)


# ---------------------------------------------------------------------- CSV
def to_csv(table: Table) -> str:
    """Long form: a line for each cell that has runs, numbers at full precision, empty fields for NaN.

    Columns: table, score, dataset, decoder, dim, method, order, variant, label, n, expected, mean, sd, rank, p, p_holm,
    n_pairs, colour (the paper's, see `analysis.colours`); of the paired difference best - this median_difference,
    hodges_lehmann, hodges_lehmann_low, hodges_lehmann_high and hodges_lehmann_level (see `analysis.tables.Entry`);
    seeds and the value of each, with a space between; restarts, note. In a table of differences mean_difference and
    sd_of_differences instead of mean and sd, and all differences are this - baseline. Against the paper also
    published_mean, published_sd, difference_of_means, difference_of_means_in_published_sd. A cell in parentheses has
    its own line, with its decoder.
    """
    out = io.StringIO()
    names = _csv_names(table)
    fields = ["table", "score", "dataset", "decoder", "dim", "method", "order", "variant", "label", "n", "expected",
              names["mean"], names["sd"], "rank", "p", "p_holm", "n_pairs", "colour",
              *(names[name] for name in DIFFERENCE), "seeds", "values", "restarts", "note",
              *(_CSV_PAPER if table.against_paper else [])]  # fmt: skip
    writer = csv.DictWriter(out, fields, lineterminator="\n")
    writer.writeheader()
    for row in table.rows:
        for column in table.columns:
            entry = table.entries.get((row, column))
            if entry is None:
                continue
            about = {"table": table.name, "score": table.score, "dataset": column.dataset, "dim": column.dim}
            about |= {"method": row.method, "order": row.order, "variant": row.variant, "label": row.label}
            writer.writerow(about | {"decoder": column.decoder} | _csv_numbers(table, entry))
            if entry.beside is not None:
                writer.writerow(about | {"decoder": "conv"} | _csv_numbers(table, entry.beside))
    return out.getvalue()


def _csv_names(table: Table) -> dict[str, str]:
    """Column of each of the entry's numbers."""
    return _CSV_NUMBERS | (_CSV_SIGNED if table.signed else {})


def _csv_numbers(table: Table, entry: Entry) -> dict[str, object]:
    numbers = {column: getattr(entry, name) for name, column in _csv_names(table).items()}
    if table.against_paper:
        difference = entry.mean - entry.published_mean
        paper = (entry.published_mean, entry.published_sd, difference, in_published_sd(entry))
        numbers |= dict(zip(_CSV_PAPER, paper, strict=True))
    counts: dict[str, object] = {name: getattr(entry, name) for name in ("n", "expected", "rank", "n_pairs")}
    by_seed = {"seeds": entry.seeds, "values": map(float, entry.values), "restarts": entry.restarts}
    return (
        counts
        | {name: "" if np.isnan(number) else repr(float(number)) for name, number in numbers.items()}
        | {name: " ".join(map(str, values)) for name, values in by_seed.items()}
        | {"colour": entry.colour, "note": entry.note}
    )


# ---------------------------------------------------------------------- LaTeX
def to_latex(table: Table, colours: str = PLAIN) -> str:
    """A table environment like the paper's Tables 7-11: `685.1^{1.8}`, the best mean bold.

    Args:
        table: what to show.
        colours: a scheme of `analysis.colours.SCHEMES`; that of the paper has its colours, and no marks.
    """
    defined = LATEX_NEEDS[colours] if table.compared else ""
    lines = [
        r"% needs \usepackage{booktabs} and \usepackage[dvipsnames]{xcolor}",
        r"\begin{table}",
        r"\centering",
        *([defined] if defined else []),
        rf"\caption{{{_latex_caption(table, colours)}}}",
        rf"\label{{tab:{table.name}}}",
        rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}",
        r"\toprule",
        *_latex_groups(table),
        " & ".join([_LATEX_CORNER[table.corner], *map(escape_latex, table.headers)]) + r" \\",
        r"\midrule",
    ]
    for row in table.rows:
        cells = [_latex_cell(table, table.entries.get((row, column)), colours) for column in table.columns]
        lines.append(" & ".join([label_latex(row.label), *cells]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"]) + "\n"


def _latex_groups(table: Table) -> list[str]:
    """A header row of data sets, each spanning its dims, with a rule below each."""
    if not table.groups:
        return []
    spans, rules, first = [], [], 2
    for label, count in table.groups:
        spans.append(rf"\multicolumn{{{count}}}{{c}}{{{escape_latex(label)}}}")
        rules.append(rf"\cmidrule(lr){{{first}-{first + count - 1}}}")
        first += count
    return [" & ".join(["", *spans]) + r" \\", " ".join(rules)]


def _latex_cell(table: Table, entry: Entry | None, colours: str) -> str:
    if entry is None:
        return "--"
    value = _latex_value(table, entry)
    name, _, mark = LATEX[colours][entry.colour] if table.compared else ("", "", "")
    if name and value:
        value = rf"\textcolor{{{name}}}{{{value}}}"
    if mark and value:  # of no width, so that the numbers stay aligned; beside parentheses it needs its own
        value += rf"\,{mark}" if entry.beside is not None else rf"\rlap{{\,{mark}}}"
    beside = ""
    if entry.beside is not None:
        beside = f"({_latex_cell(replace(table, compared=False), replace(entry.beside, colour=''), colours)})"
    incomplete = rf"{{\scriptsize {entry.incomplete}}}" if entry.incomplete else ""
    return " ".join(filter(None, [incomplete, value, beside]))


def _latex_value(table: Table, entry: Entry) -> str:
    """`$685.1^{1.8}$`; against the paper `$684.0$ ($-1.1$, $-0.6$ sd)`."""
    mean = mean_text(table, entry)
    if table.against_paper:
        difference = _number(entry.mean - entry.published_mean, table.digits, signed=True)
        in_sd = in_published_sd(entry)
        known = [f"${difference}$"] if difference else []
        known += [rf"${_number(in_sd, 1, signed=True)}\,$sd"] if not np.isnan(in_sd) else []
        return " ".join(filter(None, [f"${mean}$" if mean else "", f"({', '.join(known)})" if known else ""]))
    sd = "" if np.isnan(entry.sd) else f"^{{{entry.sd:.{table.digits}f}}}"
    number = rf"\mathbf{{{mean}}}" if entry.colour == "best" else mean
    return f"${number}{sd}$" if mean else ""


def _latex_caption(table: Table, colours: str) -> str:
    words = "; ".join(f"{LATEX[colours][outcome][1]}: {escape_latex(meaning)}" for outcome, _, meaning in legend(table))
    caption = escape_latex(table.caption)
    if not table.against_paper:
        caption += " The superscripts are the standard deviations."
    return caption + (f" {words[0].upper()}{words[1:]}." if words else "")


def label_latex(label: str) -> str:
    """`RME(5)` with the order as a superscript, as in the paper; a variant follows, as in `RME(5), kl 20`."""
    parts = re.fullmatch(r"(.*?)(\(\d+\))?(, .*)?", label, re.DOTALL).groups()  # type: ignore[union-attr]
    name, order, variant = parts
    return escape_latex(name) + (f"$^{{{order}}}$" if order else "") + escape_latex(variant or "")


def escape_latex(text: str) -> str:
    """`text` with LaTeX's special characters escaped."""
    special = {
        "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "≤": r"$\le$",
        "<": r"$<$", ">": r"$>$", "−": "$-$", "×": r"$\times$", "–": "--",
        **{character: rf"\{character}" for character in "&%$#_{}"},
    }  # fmt: skip
    return "".join(special.get(character, character) for character in text)


# ---------------------------------------------------------------------- HTML
def to_html(table: Table, colours: str = PLAIN) -> str:
    """A self-contained `<figure>` with the table, caption, legend and colours, for a notebook.

    Colours follow the reader's light or dark scheme; hovering over a cell shows its statistics.

    Args:
        table: what to show.
        colours: a scheme of `analysis.colours.SCHEMES`.
    """
    return f"<style>\n{source('table.css')}</style>\n{_html(table, alone=True, paper=colours == PAPER)}"


def to_page_html(table: Table) -> Markup:
    """As `to_html`, without the styles, the hover text and the files, which the report's page holds itself."""
    return Markup(_html(table, alone=False))


def _html(table: Table, alone: bool, paper: bool = False) -> str:
    macro = templates.get_template("table.html.j2").module.table  # type: ignore[attr-defined]
    starts = {after for before, after in pairwise(table.rows) if before.method != after.method}
    return str(macro(table, legend(table), _Cells(table), starts, alone, paper))


class _Cells:
    """The functions of an entry that the template calls."""

    def __init__(self, table: Table) -> None:
        self.value = partial(value_text, table)
        self.details = partial(details, table)
        self.sort_key = partial(sort_key, table)


def sort_key(table: Table, entry: Entry) -> str:
    """What the page sorts by: the mean, or against the paper the difference; empty for NaN."""
    number = entry.mean - entry.published_mean if table.against_paper else entry.mean
    return "" if np.isnan(number) else repr(float(number))


def source(name: str) -> Markup:
    """The text of a style sheet or script in the templates' folder."""
    return Markup((_TEMPLATES / name).read_text(encoding="utf-8"))
