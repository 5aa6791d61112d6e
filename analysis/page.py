"""The report's page: one self-contained HTML file, whose content security policy forbids loading anything else."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from analysis import listing, render
from analysis.claims import STATUSES, Claim
from analysis.colours import PLAIN
from analysis.figure import Figure
from analysis.listing import Listing
from analysis.panel import panel
from analysis.svg import dark_rules
from analysis.tables import DATASETS, SCORES, Table, place

_FEW = 6
"""Up to this many tables, none is folded."""


@dataclass(frozen=True)
class Group:
    """The tables of one data set and decoder.

    Attributes:
        label: its entry in the page's contents.
        first: the table shown first; beside: those shown next to it where the window is wide enough; folded: those
            shown when the reader unfolds them.
    """

    label: str
    first: Table
    beside: list[Table]
    folded: list[Table]


def render_page(
    *,
    experiment: str,
    answer: Sequence[str],
    tables: Sequence[Table],
    against_paper: Sequence[Table] = (),
    ranks: Sequence[Listing] = (),
    gains: Listing | None = None,
    trainings: Listing | None = None,
    claims: Sequence[Claim] = (),
    claim_lists: Sequence[Listing] = (),
    figures: Sequence[tuple[Figure, bytes]] = (),
    files: Mapping[str, str | bytes],
    how_it_was_run: Mapping[str, object],
    colours: str = PLAIN,
) -> str:
    """The page as HTML.

    Args:
        experiment: the page's title, usually the name of the MLflow experiment.
        answer: the findings; the page opens with the first.
        tables: scores and times.
        against_paper: our numbers next to the paper's.
        ranks: average ranks over all columns.
        gains: each row's gain over the VAE and over its control.
        trainings: how each row was trained.
        claims: the claims with their status.
        claim_lists: the claims' counts, and the claims one by one.
        figures: each with the bytes of its PNG file; the page shows it as SVG.
        files: the files that the page's links download, by name: each table and list as CSV, LaTeX and Markdown, each
            figure as PDF and its data as CSV.
        how_it_was_run: the template's variables about the runs, their settings, and what is missing.
        colours: scheme of the tables (`analysis.colours.SCHEMES`) until the reader chooses.
    """
    known = {column.dataset: column.dataset_label for table in tables for column in table.columns}
    svgs = [figure.svg(f"f{i}-") for i, (figure, _) in enumerate(figures, 1)]
    drawing = render.templates.get_template("figure.html.j2").module.drawing  # type: ignore[attr-defined]
    return render.templates.get_template("report.html.j2").render(
        experiment=experiment,
        answer=answer,
        groups=group(tables),
        n_tables=len(tables),
        against_paper=against_paper,
        ranks=ranks,
        gains=gains,
        trainings=trainings,
        claims_title="Against the paper" if against_paper or any(claim.in_paper for claim in claims) else "Claims",
        claim_lists=claim_lists,
        statuses=_statuses(claims),
        figures=[Markup(drawing(figure, Markup(svg))) for (figure, _), svg in zip(figures, svgs, strict=True)],
        datasets={name: known[name] for name in sorted(known, key=lambda name: place(name, DATASETS))},
        to_html=render.to_page_html,
        list_html=listing.to_page_html,
        packed=pack([*tables, *against_paper], files, figures),
        **assets(svgs),
        few=_FEW,
        colours=colours,
        compared=any(table.compared for table in tables),
        **how_it_was_run,
    )


def assets(svgs: Sequence[str] = ()) -> dict[str, str]:
    """The variables `script`, `styles` and `policy` of the template of a page with these figures."""
    script = Markup().join(map(render.source, ("panel.js", "figures.js", "page.js")))
    styles = Markup().join(map(render.source, ("table.css", "page.css", "panel.css", "figures.css")))
    styles += Markup(dark_rules(svgs))
    return {"script": script, "styles": styles, "policy": _policy(script, styles)}


def group(tables: Sequence[Table]) -> list[Group]:
    """Group tables of the same data set and decoder, keeping their order; every other table is a group by itself."""
    together: dict[tuple[str, ...], list[Table]] = {}
    for table in tables:
        alone = table.heads != "dim" or table.score not in SCORES
        first = table.columns[0]
        together.setdefault((table.name,) if alone else (first.dataset, first.decoder), []).append(table)
    shown = len(tables) if len(tables) <= _FEW else 1
    return [Group(_label(first), first, others[:shown], others[shown:]) for first, *others in together.values()]


def _label(table: Table) -> str:
    if table.score not in SCORES:
        return table.title
    if table.heads != "dim":
        subject = table.title.partition(": ")[2]
        return subject[:1].upper() + subject[1:]
    first = table.columns[0]
    return first.dataset_label + ("" if first.decoder == "conv" else f", {first.decoder.upper()} decoder")


def pack(
    tables: Sequence[Table], files: Mapping[str, str | bytes], figures: Sequence[tuple[Figure, bytes]] = ()
) -> str:
    """The files, each cell's details and seeds, and each figure's marks and PNG file, as base64 of gzipped JSON.

    Binary files are base64 within it. Compressed, because the rest is repetitive text and would make the page several
    times larger.
    """
    cells = {
        table.name: [
            [
                [] if entry is None else render.detail_list(table, entry)
                for entry in (table.entries.get((row, column)) for column in table.columns)
            ]
            for row in table.rows
        ]
        for table in tables
    }
    texts = {name: content for name, content in files.items() if isinstance(content, str)}
    binary = {name: base64.b64encode(content).decode() for name, content in files.items() if isinstance(content, bytes)}
    seeds = {table.name: panel(table) for table in tables if table.score in SCORES}
    marks = {figure.name: figure.places() for figure, _ in figures}
    pictures = {f"{figure.name}.png": base64.b64encode(png).decode() for figure, png in figures}
    content = {
        "cells": cells, "seeds": seeds, "files": texts, "binary": binary, "marks": marks, "pictures": pictures,
    }  # fmt: skip
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def _statuses(claims: Sequence[Claim]) -> list[tuple[str, str, int]]:
    """Each status: its rows' CSS class, its words, and the number of claims."""
    counted = [(name, sum(claim.status == name for claim in claims)) for name in STATUSES]
    return [("", "all", len(claims)), *((listing.STYLES[name], name, count) for name, count in counted)]


def _policy(script: str, styles: str) -> str:
    """A content security policy that allows this script, these styles and images in the page, and nothing else."""
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (script, styles)]
    return (
        f"default-src 'none'; script-src 'sha256-{hashes[0]}'; style-src 'sha256-{hashes[1]}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
