"""MkDocs hooks: what the site shows of the code itself, pages whose files lie outside `docs/`, and equations.

A page says where something is shown by a line of its own, `<!-- generated: NAME -->`, with a NAME of `PARTS`.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable, Sequence
from html import escape, unescape
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from matplotlib.font_manager import FontProperties
from matplotlib.mathtext import MathTextParser
from matplotlib.path import Path as Outline
from matplotlib.textpath import TextPath
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from analysis import collect, report
from bench import device
from rme import RunSpec, commands, data, methods
from rme import __main__ as rme_command
from tune import command_line as sweep_command_line
from tune import help_text
from tune.plan import grid_files

ROOT = Path(__file__).resolve().parent.parent

ELSEWHERE = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md", "benchmarks.md": "bench/README.md"}
"""Pages of the site, and their files in the repository."""


def on_files(files: Files, config: MkDocsConfig, **_: Any) -> None:
    for page, source in ELSEWHERE.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))


def on_page_markdown(markdown: str, **_: Any) -> str:
    markdown = markdown.replace("](docs/", "](")
    for page, source in ELSEWHERE.items():
        markdown = markdown.replace(f"](../{source}", f"]({page}")
    return re.sub(r"^<!-- generated: (.+) -->$", lambda found: PARTS[found[1]](), markdown, flags=re.MULTILINE)


def on_page_content(html: str, **_: Any) -> str:
    """Draw the equations that arithmatex has marked, so that a reader needs no script, no font and no network."""
    marked = re.compile(r'(class="arithmatex">)\\[([](.*?)\\[])]', re.DOTALL)
    return marked.sub(lambda found: found[1] + _drawn(found[2]), html)


# ---------------------------------------------------------------------- equations
_FONT = FontProperties(math_fontfamily="stix", size=100)
_LETTERS = {Outline.MOVETO: "M", Outline.LINETO: "L", Outline.CURVE3: "Q", Outline.CURVE4: "C", Outline.CLOSEPOLY: "Z"}


def _drawn(tex: str) -> str:
    """An equation as an SVG image in the text's colour and size, on its baseline."""
    tex = " ".join(unescape(tex).split())
    width, height, depth, *_ = MathTextParser("path").parse(f"${tex}$", dpi=72, prop=_FONT)
    outline = "".join(
        _LETTERS[code] + ("" if code == Outline.CLOSEPOLY else " ".join(f"{value:.0f}" for value in points))
        for points, code in TextPath((0, 0), f"${tex}$", prop=_FONT, size=100).iter_segments(simplify=False)
    )
    return (
        f'<svg role="img" aria-label="{escape(tex)}" viewBox="0 {depth - height:.0f} {width:.0f} {height:.0f}" '
        f'style="width: {width / 100}em; height: {height / 100}em; vertical-align: {-depth / 100}em">'
        f'<path transform="scale(1 -1)" d="{outline}"/></svg>'
    )


# ---------------------------------------------------------------------- parts
def command_line() -> str:
    """Each command: how it is called, and its options."""
    of_models = [commands.parser(name, rme_command.PROG)[0] for name in commands.COMMANDS]
    parsers = [sweep_command_line.parser(), report.parser(), collect.parser(), device.parser(), *of_models]
    return "\n\n".join(map(_command, parsers))


def _command(parser: argparse.ArgumentParser) -> str:
    name = parser.prog if parser.prog.startswith("python") else f"python {parser.prog}"
    tables = []
    for group in parser._action_groups:
        actions = [action for action in group._group_actions if action.dest != "help"]
        if actions:
            # argparse's own groups have titles that say nothing
            title = group.title if group.title not in ("options", "positional arguments") else "option"
            rows = [(_code(_call(action)), _help(action)) for action in actions]
            tables.append(_table([title or "option", "meaning"], rows))
    return "\n\n".join([f"## {name}", escape(parser.description or ""), *tables])


def values() -> str:
    """How the values of `--only` and `--set` are written."""
    return _table(["written", "meaning"], [(_code(name), escape(text)) for name, text in help_text.VALUES])


def exit_statuses() -> str:
    """The sweep's exit statuses."""
    return _table(["exit status", "meaning"], [(name, escape(text)) for name, text in help_text.EXIT_STATUSES])


def _call(action: argparse.Action) -> str:
    """`--only FIELD=A,B`, as the user types it."""
    value = action.metavar or ("|".join(map(str, action.choices)) if action.choices else action.dest.upper())
    if action.nargs == 0:
        value = ""
    elif action.nargs == "?":
        value = f"[{value}]"
    return f"{action.option_strings[-1] if action.option_strings else ''} {value}".strip()


def _help(action: argparse.Action) -> str:
    text = escape((action.help or "") % vars(action))
    return f"{text} (required)" if action.required else text


def run_spec() -> str:
    """RunSpec's fields."""
    rows = []
    for name, field in RunSpec.model_fields.items():
        default = "required" if field.is_required() else _code(str(field.get_default(call_default_factory=True)))
        rows.append((_code(name), _code(_type(field.annotation)), default, _bounds(field.metadata), _text(field)))
    return _table(["field", "type", "default", "bounds", "meaning"], rows)


def _text(field: Any) -> str:
    return escape(field.description or "")


def _type(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return " | ".join(map(str, get_args(annotation)))
    if get_origin(annotation) in (None, dict):
        return getattr(annotation, "__name__", "") if annotation in (int, str, float) else str(annotation)
    return " | ".join("None" if each is type(None) else _type(each) for each in get_args(annotation))


def _bounds(metadata: Iterable[Any]) -> str:
    signs = {"ge": "≥", "gt": "&gt;", "le": "≤", "lt": "&lt;"}
    known = [(sign, getattr(item, name)) for item in metadata for name, sign in signs.items() if hasattr(item, name)]
    return ", ".join(f"{sign} {value}" for sign, value in known)


def grids() -> str:
    """The grids that come with the project."""
    found = grid_files.descriptions()
    return _table(["grid", "what it runs"], [(_code(name), escape(text)) for name, text in found.items()])


def method_table() -> str:
    """What each method declares."""
    rows = []
    for name, method in methods.registry().items():
        order = f"{method.order_means}: {', '.join(map(str, method.orders))}" if method.orders else ""
        start = "scratch"
        if method.starts_from is not None:
            start = f"the finished {methods.get(method.starts_from).label}"
            start += f", trained on at {method.stage_rate:g}" if method.trains else ", which it leaves as it is"
        options = ", ".join(_code(f"{option}={value:g}") for option, value in method.options.items())
        rows.append((_code(name), method.label, order, start, options))
    return _table(["name", "in tables", "order", "starts from", "options"], rows)


def data_set_table() -> str:
    """What each data set declares."""
    rows = []
    for name, each in data.registry().items():
        channels, height, width = each.shape
        training, validation, test = each.split_sizes
        sizes = f"{training:,} / {validation:,} / {test:,}"
        rows.append((_code(name), f"{height}x{width}x{channels}", sizes, escape(each.source)))
    return _table(["name", "images", "training / validation / test", "where its files come from"], rows)


PARTS: dict[str, Callable[[], str]] = {
    "command line": command_line,
    "values": values,
    "exit statuses": exit_statuses,
    "fields": run_spec,
    "grids": grids,
    "methods": method_table,
    "data sets": data_set_table,
}


# ---------------------------------------------------------------------- Markdown
def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "&#124;") for cell in line) + " |" for line in lines)


def _code(text: str) -> str:
    return f"<code>{escape(text)}</code>"
