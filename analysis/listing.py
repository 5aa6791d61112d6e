"""The report's lists (average ranks, claims, gains, trainings), and their formats: text, Markdown, CSV, LaTeX, HTML."""

from __future__ import annotations

import csv
import io
import re
import string
import textwrap
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
from analysis.duration import SECONDS
from analysis.gains import Gain, gains, levels_text
from analysis.names import CELL, CONTROL
from analysis.ranks import RankComparison
from analysis.render import escape_latex, escape_markdown, label_latex, p_text, source, templates
from analysis.tables import DECODERS, SCORES, slug, sort_rows, sorted_columns

Value = str | float

STYLES = {HELD: "held", NOT_ABOVE: "not-above", NOT_HELD: "not-held", TOO_FEW: "too-few", NOT_RUN: "not-run"}
"""CSS class of a claim's row, by status."""


@dataclass(frozen=True)
class Listing:
    """A list: a header and rows of texts and numbers.

    Attributes:
        name: stem of its file names; title: one line; caption: how to read it.
        header: name of each column; rows: as many values each; NaN is shown as an empty cell.
        styles: CSS class of each row; empty for no classes.
        labels: indices of the columns of method labels, which LaTeX sets as the paper does.
        datasets: data set of each row, for the page's filter; empty for no filter.
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
    """Average ranks; indistinguishable rows share a letter. None with fewer than two rows or complete columns.

    Args:
        ranks: of `analysis.ranks.compare_ranks`.
        decoder: the decoder of the ranked runs.
    """
    if np.isnan(ranks.critical_difference):
        return None
    letters = [
        "".join(letter for letter, (first, last) in zip(_LETTERS, ranks.groups, strict=False) if first <= i <= last)
        for i in range(len(ranks.rows))
    ]
    test = ranks.friedman
    if test.note:
        friedman = f"Friedman's test: {test.note}."
    else:
        friedman = (
            f"Friedman's test that all rows are equal: chi-squared {test.statistic:.2f}, p = {p_text(test.p)}; Iman "
            f"and Davenport's F {test.f:.2f}, p = {p_text(test.f_p)}."
        )
    left_out = [*ranks.left_out_rows, *ranks.left_out_columns]
    caption = (
        f"Rank of each row's mean within a column, averaged over the {len(ranks.columns)} complete columns; 1 is the "
        f"best. {friedman} Rows that share a letter are indistinguishable: their average ranks differ by less than "
        f"Nemenyi's critical difference of {ranks.critical_difference:.2f} (level {ranks.level:g}). Columns of one "
        "data set are not independent of one another."
    )
    if left_out:
        caption += f" Left out as incomplete: {', '.join(left_out)}."
    rows: list[list[Value]] = [
        [row["method_label"], float(row["average_rank"]), letter]
        for row, letter in zip(ranks.rows.to_dict("records"), letters, strict=True)
    ]
    title = f"Average rank over all columns: {DECODERS.get(decoder, decoder)}"
    header = ["Row", "Average rank", "Indistinguishable"]
    return Listing(f"average-ranks-{slug(decoder)}", title, caption, header, rows, labels=(0,))


_LETTERS = string.ascii_letters


def claim_summary(claims: list[Claim]) -> Listing | None:
    """In how many columns each statement has each status, and holds by the paper's numbers; None without claims."""
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
    """The claims with their status by our runs and by the paper's numbers; None without claims.

    If the paper has none of the columns, the list has no column for its numbers.
    """
    if not claims:
        return None
    of_paper = any(claim.in_paper for claim in claims)
    caption = (
        "Not enough runs: a cell of the claim lacks runs, or the pairs are too few for the claim's p (.05 if it states "
        "none). Held, but not above its control: by the same p, the row is not significantly above the VAE that was "
        "trained at the same rate for as long."
    )
    if of_paper:
        caption += " The last column says whether the claim holds by the paper's own means or times, without a test."
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
    """Gain of each row over the VAE, the gain of its equal control, and their difference; None without a VAE.

    Args:
        runs: trainings, one row for each run, as `analysis.collect.collect` returns them.
        score: a key of `analysis.tables.SCORES`, nats.
    """
    rows: list[list[Value]] = []
    datasets, shown = [], []
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
                shown.append(gain)
    if not rows:
        return None
    header = ["Where", "Row", "Above the VAE (mean)", "Its control", "The control above the VAE (mean)",
              "Above its control (Hodges-Lehmann)", "Its interval", "p", "Pairs"]  # fmt: skip
    levels = levels_text(shown)
    interval = f"its confidence interval ({levels})" if levels else "its confidence interval"
    caption = (
        f"{SCORES[score]}, nats per image, paired by seed. Above the VAE: mean difference from the VAE that the row "
        "starts from, over the seeds that its control has too. Its control: the VAE trained for as many epochs at the "
        "same rate, from the same start, so its gain is that of training longer; also a mean difference. Above its "
        f"control: Hodges-Lehmann estimate of the row's own gain, {interval}, and p of the one-sided Wilcoxon test; "
        "empty if the pairs are too few."
    )
    return Listing(
        "gains", "What each gain over the VAE is worth", caption, header, rows, datasets=datasets, labels=(1, 3)
    )


def _gain_row(gain: Gain) -> list[Value]:
    if gain.is_control:
        kind = "(a control)" if gain.key[0] == CONTROL else "(a VAE)"
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
    """How each row was trained: start, epochs, rate, finish, kept epoch, updates, parameters.

    Args:
        runs: trainings, one row for each run, as `analysis.collect.collect` returns them.
    """
    found = trainings.described(sort_rows(runs))
    caption = (
        "Epochs: of the training from scratch + of the stage that starts from a finished VAE. Rate: Adam's learning "
        "rate in the row's own training. Kept epoch: of the row's own training, the best by validation ELBO or the "
        "last; median and range over the runs. Updates a step: optimiser steps for each batch. Parameters: how many "
        "are trained. Empty: not recorded."
    )
    rows: list[list[Value]] = [list(words) for _, words in found]
    return Listing("trainings", "How each row was trained", caption, trainings.HEADER, rows,
                   labels=(1,), datasets=[dataset for dataset, _ in found])  # fmt: skip


# ---------------------------------------------------------------------- renderings
_RICH = {"held": "green", "not-above": "bold red", "not-held": "bold red", "too-few": "dim", "not-run": "dim", "": ""}


def to_rich(listing: Listing) -> Group:
    """Title, list and caption, as a renderable of `rich`."""
    out = RichTable(box=box.SIMPLE_HEAD)
    for title in listing.header:
        out.add_column(title)
    for row, style in zip(listing.rows, listing.styles or [""] * len(listing.rows), strict=True):
        first, *rest = map(_words, row)
        out.add_row(Text(first, style=_RICH[style]), *map(Text, rest))
    return Group(Text(listing.title, style="bold"), out, Text(listing.caption, style="dim"))


def to_text(listing: Listing, width: int = 160) -> str:
    """Plain text for a terminal of `width` characters."""
    console = Console(file=io.StringIO(), width=width)
    with console.capture() as capture:
        console.print(to_rich(listing))
    return capture.get()


def to_markdown(listing: Listing) -> str:
    """Markdown pipe table with title and caption."""
    rows = ["| " + " | ".join(escape_markdown(_words(value)) for value in row) + " |" for row in listing.rows]
    head = ["| " + " | ".join(map(escape_markdown, listing.header)) + " |", "|" + "---|" * len(listing.header)]
    title, caption = escape_markdown(listing.title), escape_markdown(listing.caption)
    return "\n".join([f"**{title}**", "", *head, *rows, "", caption]) + "\n"


def to_csv(listing: Listing) -> str:
    """CSV with the list's columns, numbers in full precision."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(listing.header)
    for row in listing.rows:
        writer.writerow([value if isinstance(value, str) else "" if np.isnan(value) else repr(value) for value in row])
    return out.getvalue()


def to_latex(listing: Listing) -> str:
    """LaTeX table (booktabs). Columns of long texts are paragraphs; a list of many rows is a longtable."""
    longest = [max(len(_words(row[i])) for row in listing.rows) for i in range(len(listing.header))]
    share = 0.6 / max(1, sum(letters > _PARAGRAPH for letters in longest))
    shape = "".join(
        rf"p{{{min(share, letters * _LETTER):.2f}\linewidth}}"
        if letters > _PARAGRAPH
        else "l"
        if isinstance(listing.rows[0][i], str)
        else "r"
        for i, letters in enumerate(longest)
    )
    caption = rf"\caption{{{escape_latex(listing.caption)}}}\label{{tab:{listing.name}}}"
    titles = [_latex_header(title, letters) for title, letters in zip(listing.header, longest, strict=True)]
    head = [r"\toprule", " & ".join(titles) + r" \\", r"\midrule"]
    rows = []
    for row in listing.rows:
        cells = [label_latex(str(v)) if i in listing.labels else _latex_words(_words(v)) for i, v in enumerate(row)]
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


_PAGE = 45  # most rows of a table on one page
_PARAGRAPH = 24  # most characters of a column that is not set as paragraphs
_LETTER = 0.0135  # width of a letter of footnote size, in line widths of an article


def _latex_header(title: str, letters: int) -> str:
    """A column's title, in lines about as wide as the column, whose longest cell has so many letters."""
    lines = textwrap.wrap(title, max(letters, 8), break_long_words=False) or [""]
    if len(lines) == 1 or letters > _PARAGRAPH:
        return escape_latex(title)
    return r"\shortstack{" + r"\\".join(map(escape_latex, lines)) + "}"


def _latex_words(text: str) -> str:
    """`text` with LaTeX's special characters escaped, and the minus of each negative number."""
    return escape_latex(re.sub(r"(?<![\w.-])-(?=\d)", "−", text))


def to_html(listing: Listing) -> str:
    """A `<figure>` with its own style sheet, for a notebook."""
    return f"<style>\n{source('table.css')}</style>\n{_html(listing, alone=True)}"


def to_page_html(listing: Listing) -> Markup:
    """A `<figure>` for the report's page, which has the style sheet and links the files."""
    return Markup(_html(listing, alone=False))


def _html(listing: Listing, alone: bool) -> str:
    macro = templates.get_template("listing.html.j2").module.listing  # type: ignore[attr-defined]
    return str(macro(listing, _words, _sort_keys(listing), alone))


def _sort_keys(listing: Listing) -> list[list[str]]:
    """The number by which the page sorts each cell; empty where there is none, and in a column of texts.

    A column is one of numbers if it has a number, and its other cells have no digits: they are empty or say why.
    """
    columns = []
    for column in zip(*listing.rows, strict=True):
        keys = [_sort_key(value) for value in column]
        of_texts = any(not key and re.search(r"\d", str(value)) for key, value in zip(keys, column, strict=True))
        columns.append([""] * len(keys) if of_texts else keys)
    return [list(row) for row in zip(*columns, strict=True)]


_DIGITS = r"[+-]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:e[+-]?\d+)?"
_NUMBER = re.compile(
    rf"({_DIGITS})(?: ({'|'.join(SECONDS)}))?(?: (?:to|or|of|±) .+| \(\d+\))?|\[({_DIGITS}), {_DIGITS}\]"
)


def _sort_key(value: Value) -> str:
    """A number in full precision; the first one of `1,245`, `8.1 min` (in seconds), `7 ± 1 (8)`, `[-1.1, +0.2]`."""
    if not isinstance(value, str):
        return "" if np.isnan(value) else repr(value)
    found = _NUMBER.fullmatch(value.strip())
    if found is None:
        return ""
    number, unit, low = found.groups()
    return repr(float((number or low).replace(",", "")) * SECONDS.get(unit, 1))


def _words(value: Value) -> str:
    return value if isinstance(value, str) else "" if np.isnan(value) else f"{value:.2f}"
