"""Prints benchmark results as Markdown, a section for each device: the stages of `bench.device` and `--json` files.

python -m bench.table                           # all of bench/results, which has a folder for each device
python -m bench.table DIR ...                   # the files of these folders
python -m bench.table --write bench/README.md   # instead of printing, replaces what is between the two markers
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench.harness import HEADINGS, cells
from bench.stage_file import ROOT, Content, is_stage
from bench.summary import DEVICES, ORDER, paragraph

RESULTS = ROOT / "bench" / "results"

BEGIN, END = "<!-- bench.table: begin -->", "<!-- bench.table: end -->"
"""Lines of a Markdown file between which `--write` puts the tables."""


class Table(NamedTuple):
    """Headings, and lines of as many cells; the columns `left` are left-aligned."""

    headings: Sequence[str]
    lines: Sequence[Sequence[str]]
    left: Sequence[int] = (0,)


# ---------------------------------------------------------------------- tables
def rows_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Comparisons."""
    return Table(HEADINGS, [cells(row) for row in rows], (0, 2))


def memory_table(peaks: Sequence[Mapping[str, Any]]) -> Table:
    """Peak memory, MiB."""
    lines = [(p["name"], f"{p['training_mib']:.0f}", f"{p['iwae_mib']:.0f}") for p in peaks]
    return Table(("peak memory, MiB", "training", "and IWAE"), lines)


def hours_table(hours: Mapping[str, float]) -> Table:
    """Hours by data set, on one device and divided by several."""
    total = {**hours, "all": sum(hours.values())}
    lines = [(name, *(f"{value / n:,.0f}" for n in DEVICES)) for name, value in total.items()]
    return Table(("hours of --grid paper", *(f"on {n}" for n in DEVICES)), lines)


def stage_parts(content: Content) -> Iterator[str | Table]:
    """What the file of a stage holds, as tables and sentences."""
    found = content["cases"]
    if rows := [row for case in found.values() for row in case["rows"]]:
        yield rows_table(rows)
    if numbers := [number for case in found.values() for number in case["numbers"]]:
        yield Table(("what", "value", "unit"), [(n["what"], figure(n["value"]), n["unit"]) for n in numbers], (0, 2))
    if checks := [(name, check) for name, case in found.items() for check in case["checks"]]:
        wrong = [(name, check) for name, check in checks if not check["right"]]
        yield f"{len(checks) - len(wrong)} of {len(checks)} checks right."
        if wrong:
            lines = [(name, c["what"], figure(c["difference"]), figure(c["tolerance"])) for name, c in wrong]
            yield Table(("wrong in", "what", "difference", "tolerance"), lines, (0, 1))
    if errors := [(name, case["error"]) for name, case in found.items() if case["error"]]:
        yield Table(("case", "raised"), errors, (0, 1))
    if fell_back := content["fell_back"]:
        yield Table(("case", "fell back"), [(one["case"], one["why"]) for one in fell_back], (0, 1))
    if left := [name for name in content["planned"] if name not in found]:
        yield f"Not measured: {'; '.join(left)}."
    if not content["planned"]:
        yield "Nothing to measure on this device."


def figure(value: float) -> str:
    """A number with four digits, or all digits before the decimal point."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e12 else f"{value:.4g}"


# ---------------------------------------------------------------------- Markdown
def markdown(result: dict[str, Any]) -> Iterator[str]:
    """Lines of one file's content: of a stage, or of a command's `--json`."""
    parts: list[str | Table] = []
    if is_stage(result):
        parts = list(stage_parts(result))
    else:
        parts.append(rows_table(result["rows"]))
        if memory := result.get("memory"):
            parts.append(memory_table(memory))
        if hours := result.get("paper_hours"):
            parts.append(hours_table(hours))
    for i, part in enumerate(parts):
        if i:
            yield ""
        if isinstance(part, Table):
            yield from _markdown_table(part)
        else:
            yield part


def _markdown_table(table: Table) -> Iterator[str]:
    def line(entries: Sequence[str]) -> str:
        return "| " + " | ".join(entry.replace("|", r"\|") for entry in entries) + " |"

    yield line(table.headings)
    yield "|" + "|".join("---" if i in table.left else "---:" for i in range(len(table.headings))) + "|"
    yield from map(line, table.lines)


def section(folder: Path) -> Iterator[str]:
    """Lines of one device's folder. Exits, naming the file, if one is not a result or is of another device."""
    results: dict[str, dict[str, Any]] = {}
    texts: dict[str, list[str]] = {}
    for path in sorted(folder.glob("*.json")):
        try:
            result = json.loads(path.read_text())
            texts[path.stem] = list(markdown(result))
            results[path.stem] = {"device": result["device"], "torch": result["torch"], **result}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            sys.exit(f"{path}: not a benchmark result: {type(error).__name__}: {error}")
    devices = sorted({result["device"] for result in results.values()})
    if len(devices) != 1:
        sys.exit(f"{folder}: results of {' and '.join(devices) or 'no device'}; a folder holds those of one device")
    yield from (f"### {devices[0]}", "")
    stages = {name: result for name, result in results.items() if is_stage(result)}
    if stages:
        yield from (paragraph(stages), "")
    for name in sorted(results, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name)):
        yield from (f"#### {name}", "", f"torch {results[name]['torch']}", "", *texts[name], "")


def replaced(text: str, tables: str) -> str:
    """`text` with `tables` between the two markers. ValueError if it has not both, in order."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"it needs the lines {BEGIN} and {END}, in this order")
    return f"{before}{BEGIN}\n\n{tables.strip()}\n\n{END}{after}"


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("folders", nargs="*", type=Path, metavar="DIR", help="a device's folder (default: bench/results/*)")
    p.add_argument("--write", type=Path, metavar="FILE", help="put the tables between this file's two markers")
    a = p.parse_args(argv)
    folders = a.folders or sorted(path for path in RESULTS.iterdir() if path.is_dir())
    missing = [str(folder) for folder in folders if not folder.is_dir()]
    if missing:
        p.error(f"{missing[0]}: no such folder")
    tables = "\n".join(line for folder in folders for line in section(folder))
    if a.write is None:
        print(tables)
        return
    try:
        a.write.write_text(replaced(a.write.read_text(), tables))
    except (OSError, ValueError) as error:
        p.error(f"--write {a.write}: {error}")


if __name__ == "__main__":
    main()
