"""Lists that are no table of methods by dimensions (average ranks, claims), as text, Markdown, CSV, LaTeX and HTML."""

from __future__ import annotations

import csv
import io
import string
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from markupsafe import Markup
from rich import box
from rich.console import Console, Group
from rich.table import Table as RichTable
from rich.text import Text

from analysis import trainings
from analysis.claims import HELD, NOT_ABOVE, NOT_HELD, NOT_RUN, STATUSES, TOO_FEW, UNKNOWN, Claim, count
from analysis.claims import title as title_of
from analysis.gains import Gain, gains
from analysis.ranks import RankComparison
from analysis.render import escape_latex, escape_markdown, label_latex, p_text, source, templates
from analysis.stats import CELL
from analysis.tables import DECODERS, SCORES, slug, sort_rows, sorted_columns

Value = str | float

STYLES = {HELD: "held", NOT_ABOVE: "not-above", NOT_HELD: "not-held", TOO_FEW: "too-few", NOT_RUN: "not-run"}
"""Class of a claim's row in the page's style sheet."""


@dataclass(frozen=True)
class Listing:
    """Rows of words and numbers below a header.

    Attributes:
        name: of its files; title: one line; caption: how to read it.
        header: of each column; the same number of values in each row; a NaN is shown as nothing.
        styles: for each row a class of the page's style sheet; empty if none has one.
        labels: columns of method labels, which LaTeX sets as the paper does.
        datasets: for each row the name of the data set that it is of, for the page's filter; empty if none has one.
    """

    name: str
    title: str
    caption: str
    header: list[str]
    rows: list[list[Value]]
    styles: list[str] = field(default_factory=list)
    labels: tuple[int, ...] = ()
    datasets: list[str] = field(default_factory=list)


def rank_listing(ranks: RankComparison, decoder: str) -> Listing | None:
    """Average ranks, and by letters who is not told apart; None with fewer than two rows or complete columns.

    Args:
        ranks: of `analysis.ranks.compare_ranks`.
        decoder: whose columns they are over.
    """
    if np.isnan(ranks.critical_difference):
        return None
    letters = [
        "".join(letter for letter, (first, last) in zip(_LETTERS, ranks.groups, strict=False) if first <= i <= last)
        for i in range(len(ranks.rows))
    ]
    test = ranks.friedman
    if test.note:
        says = f"Friedman's test: {test.note}."
    else:
        says = (
            f"Friedman's test that all are equal: chi-squared {test.statistic:.2f}, p = {p_text(test.p)}; Iman and "
            f"Davenport's F {test.f:.2f}, p = {p_text(test.f_p)}."
        )
    left_out = [*ranks.left_out_rows, *ranks.left_out_columns]
    caption = (
        f"Rank of each row's mean within a column, averaged over the {len(ranks.columns)} complete columns; 1 is the "
        f"best. {says} Rows that share a letter differ by less than Nemenyi's critical difference of "
        f"{ranks.critical_difference:.2f} (level {ranks.level:g}). Columns of one data set are not independent of one "
        f"another."
    )
    if left_out:
        caption += f" Left out, as incomplete: {', '.join(left_out)}."
    rows: list[list[Value]] = [
        [row["method_label"], float(row["average_rank"]), letter]
        for row, letter in zip(ranks.rows.to_dict("records"), letters, strict=True)
    ]
    title = f"Average rank over all columns: {DECODERS.get(decoder, decoder)}"
    header = ["Row", "Average rank", "Not told apart"]
    return Listing(f"average-ranks-{slug(decoder)}", title, caption, header, rows, labels=(0,))


_LETTERS = string.ascii_letters


def claim_summary(claims: list[Claim]) -> Listing | None:
    """For each statement, in how many columns it holds, by our runs and by the paper's numbers; None without any."""
    if not claims:
        return None
    of_paper = any(claim.in_paper for claim in claims)
    rows: list[list[Value]] = []
    for statement in dict.fromkeys(claim.statement for claim in claims):
        same = [claim for claim in claims if claim.statement == statement]
        row: list[Value] = [statement, *(str(sum(claim.status == status for claim in same)) for status in STATUSES)]
        theirs = [claim.published for claim in same if claim.published != UNKNOWN]
        row += [f"{theirs.count(HELD)} of {len(theirs)}" if theirs else UNKNOWN] if of_paper else []
        rows.append(row)
    header = ["In how many columns", *(status[0].upper() + status[1:] for status in STATUSES)]
    header += ["Held by the paper's numbers"] if of_paper else []
    return Listing("claims-counted", title_of(claims), count(claims), header, rows)


def claim_listing(claims: list[Claim]) -> Listing | None:
    """The claims with their status, by ours and by the paper's own numbers; None without any.

    Where the paper has none of the columns, its numbers have no column here.
    """
    if not claims:
        return None
    of_paper = any(claim.in_paper for claim in claims)
    caption = (
        "A claim has not enough runs where a cell it speaks of lacks some, or where they are too few for the p that it "
        "speaks of, or for one of .05. It is held, but not above its control, where the VAE that was trained at the "
        "same rate for as long does as well."
    )
    if of_paper:
        caption += " The last column is what the paper's own means or times, taken alone, say of the claim."
    rows: list[list[Value]] = [
        [
            claim.status,
            claim.statement,
            claim.where,
            claim.evidence,
            claim.source,
            *([claim.published] if of_paper else []),
        ]
        for claim in claims
    ]
    styles = [STYLES[claim.status] for claim in claims]
    header = ["Status", "Claim", "Where", "Evidence", "Source", *(["By the paper's numbers"] if of_paper else [])]
    datasets = [claim.dataset for claim in claims]
    title = f"{title_of(claims)}, column by column"
    return Listing("claims", title, caption, header, rows, styles, datasets=datasets)


def gain_listing(runs: pd.DataFrame, score: str = "test_iwae") -> Listing | None:
    """Every row's gain over the VAE beside that of its equal control, and what is its own; None without a VAE.

    Args:
        runs: trainings, one row for each run, as `analysis.collect.collect` gives them.
        score: a key of `analysis.tables.SCORES`, nats.
    """
    rows: list[list[Value]] = []
    datasets = []
    for column in sorted_columns(runs):
        first = column.iloc[0]
        decoder = "" if first["decoder"] == "conv" else f" {first['decoder']}"
        found = {gain.key: gain for gain in gains(column, score)}
        cells = sort_rows(column.drop_duplicates(CELL))
        for key in (trainings.key_of(cell) for _, cell in cells.iterrows()):
            gain = found.get(key)
            if gain is not None and not np.isnan(gain.above_vae):
                rows.append([f"{first['dataset_label']} d{first['dim']}{decoder}", *_gain_row(gain)])
                datasets.append(str(first["dataset"]))
    if not rows:
        return None
    header = ["Where", "Row", "Above the VAE", "Its control", "The control above the VAE", "Above its control",
              "Interval", "p", "Pairs"]  # fmt: skip
    caption = (
        f"{SCORES[score]}, nats per image, paired by seed. Above the VAE: mean differences from the VAE that it starts "
        "from, over the seeds that its control has too. A row's control is the VAE trained for as many epochs at the "
        "same rate, from the same start: what it gains too is the training's. Above its control: Hodges and Lehmann's "
        "estimate of what is the row's own, with its interval, and the p of the one-sided Wilcoxon test that it is "
        "above 0; none where the pairs are too few."
    )
    return Listing(
        "gains", "What each gain over the VAE is worth", caption, header, rows, datasets=datasets, labels=(1, 3)
    )


def _gain_row(gain: Gain) -> list[Value]:
    if gain.is_control:
        kind = "(a control)" if gain.key[0] == trainings.CONTROL else "(a VAE)"
        return [gain.label, gain.above_vae, kind, np.nan, np.nan, "", "", str(gain.n)]
    if gain.control is None:
        return [gain.label, gain.above_vae, trainings.NO_CONTROL, np.nan, np.nan, "", "", ""]
    low, high = gain.own.low, gain.own.high
    interval = "" if np.isnan(low) else f"[{low:+.2f}, {high:+.2f}]"
    return [
        gain.label, gain.above_vae, gain.control_label, 0.0 if gain.control_is_vae else gain.control_above_vae,
        gain.own.estimate, interval, "" if np.isnan(gain.p) else p_text(gain.p), str(gain.n_pairs),
    ]  # fmt: skip


def training_listing(runs: pd.DataFrame) -> Listing:
    """How each row was trained: start, epochs, rate, finish, which epoch was kept, updates, parameters.

    Args:
        runs: trainings, one row for each run, as `analysis.collect.collect` gives them.
    """
    found = trainings.described(sort_rows(runs))
    caption = (
        "Epochs: of the training from scratch, and of the stage that starts from a finished VAE. Rate: Adam's in the "
        "row's own training. Kept epoch: of the row's own training, by the validation ELBO if it says best; median, "
        "and range over the runs. Updates a step: optimiser steps for each batch. Parameters: those that are trained. "
        "What was not recorded is empty."
    )
    rows: list[list[Value]] = [list(words) for _, words in found]
    return Listing("trainings", "How each row was trained", caption, trainings.HEADER, rows,
                   labels=(1,), datasets=[dataset for dataset, _ in found])  # fmt: skip


# ---------------------------------------------------------------------- renderings
_RICH = {"held": "green", "not-above": "bold red", "not-held": "bold red", "too-few": "dim", "not-run": "dim", "": ""}


def to_rich(listing: Listing) -> Group:
    """Title, list and caption, for `rich.console.Console.print`."""
    out = RichTable(box=box.SIMPLE_HEAD)
    for title in listing.header:
        out.add_column(title)
    for row, style in zip(listing.rows, listing.styles or [""] * len(listing.rows), strict=True):
        first, *rest = map(_words, row)
        out.add_row(Text(first, style=_RICH[style]), *map(Text, rest))
    return Group(Text(listing.title, style="bold"), out, Text(listing.caption, style="dim"))


def to_text(listing: Listing, width: int = 160) -> str:
    """Text for a terminal of `width` characters."""
    console = Console(file=io.StringIO(), width=width)
    with console.capture() as capture:
        console.print(to_rich(listing))
    return capture.get()


def to_markdown(listing: Listing) -> str:
    """A pipe table with its title and caption."""
    rows = ["| " + " | ".join(escape_markdown(_words(value)) for value in row) + " |" for row in listing.rows]
    head = ["| " + " | ".join(map(escape_markdown, listing.header)) + " |", "|" + "---|" * len(listing.header)]
    title, caption = escape_markdown(listing.title), escape_markdown(listing.caption)
    return "\n".join([f"**{title}**", "", *head, *rows, "", caption]) + "\n"


def to_csv(listing: Listing) -> str:
    """The same columns, numbers at full precision."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(listing.header)
    for row in listing.rows:
        writer.writerow([value if isinstance(value, str) else "" if np.isnan(value) else repr(value) for value in row])
    return out.getvalue()


def to_latex(listing: Listing) -> str:
    """A table in booktabs' style; columns of sentences are set as paragraphs, and a long list breaks over pages."""
    wide = [max(len(_words(row[i])) for row in listing.rows) > _PARAGRAPH for i in range(len(listing.header))]
    share = 0.6 / max(1, sum(wide))
    shape = "".join(
        rf"p{{{share:.2f}\linewidth}}" if is_wide else "l" if isinstance(listing.rows[0][i], str) else "r"
        for i, is_wide in enumerate(wide)
    )
    caption = rf"\caption{{{escape_latex(listing.caption)}}}\label{{tab:{listing.name}}}"
    head = [r"\toprule", " & ".join(map(escape_latex, listing.header)) + r" \\", r"\midrule"]
    rows = []
    for row in listing.rows:
        cells = [label_latex(str(v)) if i in listing.labels else escape_latex(_words(v)) for i, v in enumerate(row)]
        rows.append(" & ".join(cells) + r" \\")
    if len(rows) > _PAGE:
        needs, begin = r"% needs \usepackage{booktabs,longtable}", rf"\begin{{longtable}}{{{shape}}}"
        lines = [needs, r"{\footnotesize", begin, caption + r" \\", *head, r"\endhead", *rows]
        lines += [r"\bottomrule", r"\end{longtable}", "}"]
    else:
        needs, begin = r"% needs \usepackage{booktabs}", rf"\begin{{tabular}}{{{shape}}}"
        lines = [needs, r"\begin{table}", r"\centering", r"\footnotesize", caption, begin, *head, *rows]
        lines += [r"\bottomrule", r"\end{tabular}", r"\end{table}"]
    return "\n".join(lines) + "\n"


_PAGE = 45  # rows, beyond which a table breaks over pages
_PARAGRAPH = 24  # characters, from which a column is set as paragraphs


def to_html(listing: Listing) -> str:
    """A `<figure>` with the list, its caption and colours, for a notebook: it needs no page around it."""
    return f"<style>\n{source('table.css')}</style>\n{_html(listing, alone=True)}"


def to_page_html(listing: Listing) -> Markup:
    """As `to_html`, for the report's page, which has the colours and the files itself."""
    return Markup(_html(listing, alone=False))


def _html(listing: Listing, alone: bool) -> str:
    macro = templates.get_template("listing.html.j2").module.listing  # type: ignore[attr-defined]
    return str(macro(listing, _words, _sort_key, alone))


def _sort_key(value: Value) -> str:
    """What the page sorts a number by; words are sorted as words."""
    return "" if isinstance(value, str) or np.isnan(value) else repr(value)


def _words(value: Value) -> str:
    return value if isinstance(value, str) else "" if np.isnan(value) else f"{value:.2f}"
