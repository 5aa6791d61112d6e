"""The report's page: one file that needs no other one and that loads nothing, which its own policy makes sure of."""

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
from analysis.figure import Figure
from analysis.listing import Listing
from analysis.tables import DATASETS, SCORES, Table, place

_FEW = 6
"""Up to so many tables are all open."""


@dataclass(frozen=True)
class Group:
    """The tables of one data set and decoder.

    Attributes:
        label: in the page's contents.
        first, beside, folded: what is shown, what is shown beside it where there is room, and what is to be opened.
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
) -> str:
    """The page as HTML.

    Args:
        experiment: name of the MLflow experiment.
        answer: sentences, the first of which the page opens with.
        tables: of scores and times.
        against_paper: ours next to the paper's.
        ranks: average ranks over all columns.
        gains: what each row's gain over the VAE is worth.
        trainings: how each row was trained.
        claims: the paper's.
        claim_lists: the same counted, and one by one.
        figures: each with its PNG file.
        files: what the page's links give, by file name: of each table and list its CSV, LaTeX and Markdown, of each
            figure its PDF and its numbers as CSV.
        how_it_was_run: what the template says of the runs, of the settings and of what is missing.
    """
    script, styles = render.source("page.js"), render.source("table.css") + render.source("page.css")
    known = {column.dataset: column.dataset_label for table in tables for column in table.columns}
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
        figures=[Markup(drawing(figure, base64.b64encode(png).decode())) for figure, png in figures],
        datasets={name: known[name] for name in sorted(known, key=lambda name: place(name, DATASETS))},
        to_html=render.to_page_html,
        list_html=listing.to_page_html,
        packed=pack([*tables, *against_paper], files),
        script=script,
        styles=styles,
        policy=_policy(script, styles),
        few=_FEW,
        **how_it_was_run,
    )


def group(tables: Sequence[Table]) -> list[Group]:
    """Tables of one data set and decoder together, in their order; each other table alone."""
    together: dict[tuple[str, ...], list[Table]] = {}
    for table in tables:
        alone = table.heads != "dim" or table.score not in SCORES
        first = table.columns[0]
        together.setdefault((table.name,) if alone else (first.dataset, first.decoder), []).append(table)
    shown = len(tables) if len(tables) <= _FEW else 1
    return [
        Group(_label(first), first, others[:shown], others[shown:]) for first, *others in together.values()
    ]  # fmt: skip


def _label(table: Table) -> str:
    if table.score not in SCORES:
        return table.title
    if table.heads != "dim":
        subject = table.title.partition(": ")[2]
        return subject[:1].upper() + subject[1:]
    first = table.columns[0]
    return first.dataset_label + ("" if first.decoder == "conv" else f", {first.decoder.upper()} decoder")


def pack(tables: Sequence[Table], files: Mapping[str, str | bytes]) -> str:
    """Base64 of gzip of JSON: the files (bytes as base64), and for each table what is known of each of its cells.

    Both repeat themselves much, so that this takes a fraction of what they would take as text.
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
    content = {"cells": cells, "files": texts, "binary": binary}
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def _statuses(claims: Sequence[Claim]) -> list[tuple[str, str, int]]:
    """(class of the rows, words, how many) of each status."""
    counted = [(name, sum(claim.status == name for claim in claims)) for name in STATUSES]
    return [("", "all", len(claims)), *((listing.STYLES[name], name, count) for name, count in counted)]


def _policy(script: str, styles: str) -> str:
    """What the browser is to allow: this script, these styles, pictures within the page, and nothing else."""
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (script, styles)]
    return (
        f"default-src 'none'; script-src 'sha256-{hashes[0]}'; style-src 'sha256-{hashes[1]}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
