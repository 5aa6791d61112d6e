"""Tables of scores, and their formats: text, Markdown, CSV, LaTeX and HTML."""

from __future__ import annotations

import csv
import io
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from analysis import render
from analysis.claims import score_claims
from analysis.listing import claim_listing, rank_listing, to_latex
from analysis.paper import paper_tables
from analysis.ranks import compare_ranks
from analysis.tables import decoder_table, difference_tables, score_tables, sort_rows


def runs_of(cells, dataset="mnist", label="MNIST", decoder="conv"):
    """{(method, order, label, dim): scores by seed} -> one row for each run."""
    rows = [
        {
            "method": method, "order": order, "method_label": name, "dataset": dataset, "dataset_label": label,
            "dim": dim, "decoder": decoder, "seed": seed, "test_iwae": value, "val_elbo": value - 5,
        }
        for (method, order, name, dim), scores in cells.items()
        for seed, value in enumerate(scores)
    ]  # fmt: skip
    return pd.DataFrame(rows).assign(variant=None).astype({"order": "Int64"})


SPREAD = np.linspace(-1, 1, 10)
# the differences from RME(5), whose scores are 700 + SPREAD, give each p by hand
CELLS = {
    ("vae-more", None, "VAE-more", 10): 690 + 2 * SPREAD,
    ("rme", 5, "RME(5)", 10): 700 + SPREAD,
    ("rme", 2, "RME(2)", 10): 700 + SPREAD - np.array([1, 2, 3, 4, 5, 6, 7, 8, -9, -10]),  # W+ = 36 of 55: p = 0.216
    ("vae", None, "VAE", 10): 685 + SPREAD,  # W+ = 55: p = 1/1024
    ("vae", None, "VAE", 20): 930 + SPREAD[:3],
    ("sa", 8, "SA(8)", 10): 700 + SPREAD - np.array([1, 2, -3, -4, -5, 6, 7, 8, 9, 10]),  # 43: p = 0.065
    ("sa", 1, "SA(1)", 10): 700 + SPREAD - np.array([-1, -2, -3, -4, 5, 6, 7, 8, 9, 10]),  # 45: p = 0.042
}


@pytest.fixture(scope="module")
def table():
    (table,) = score_tables(runs_of(CELLS))
    return table


def entry(table, label, dim=10):
    return next(e for (row, column), e in table.entries.items() if (row.label, column.dim) == (label, dim))


class Cells(HTMLParser):
    """Parses table cells as rows of (class, title, text); `open` lists tags that are not closed."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.open, self.text = [], [], ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        if tag not in ("meta", "br"):
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append([dict(attributes).get("class"), dict(attributes).get("title"), ""])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1][2] += " ".join(data.split()) and f" {' '.join(data.split())}"


def test_rows_are_in_the_papers_order(table):
    assert [row.label for row in table.rows] == ["VAE", "SA(1)", "SA(8)", "RME(2)", "RME(5)", "VAE-more"]
    assert [column.dim for column in table.columns] == [10, 20] and table.headers == ["10", "20"]


def test_tables_are_in_the_papers_order():
    cell = {("vae", None, "VAE", 10): [1.0]}
    runs = [("zoo", "Zoo", "conv"), ("svhn", "SVHN", "conv"), ("art", "Art", "conv"), ("mnist", "MNIST", "fc")]
    runs.append(("mnist", "MNIST", "conv"))
    names = [t.name for t in score_tables(pd.concat([runs_of(cell, *which) for which in runs]))]
    assert names == [f"test_iwae-{x}" for x in ("mnist-conv", "mnist-fc", "svhn-conv", "art-conv", "zoo-conv")]


def test_two_data_sets_never_share_a_file():
    cell = {("vae", None, "VAE", 10): [1.0]}
    runs = pd.concat([runs_of(cell, "a b", "My set"), runs_of(cell, "a-b", "my/set")])
    assert [t.name for t in score_tables(runs)] == ["test_iwae-my-set-conv", "test_iwae-my-set-conv-2"]


def test_numbers_and_colours(table):
    assert (entry(table, "RME(5)").rank, entry(table, "RME(5)").colour) == (1, "best")
    assert entry(table, "VAE").p == 1 / 1024 and entry(table, "VAE").colour == ""
    assert entry(table, "RME(2)").colour == "red-orange"
    assert entry(table, "SA(8)").colour == "orange"
    assert entry(table, "SA(1)").colour == "yellow-orange"
    assert entry(table, "VAE").mean == pytest.approx(685)
    assert entry(table, "VAE").sd == pytest.approx(np.std(SPREAD, ddof=1))


def test_incomplete_cells(table):
    assert entry(table, "VAE", 20).incomplete == "n=3/10" and entry(table, "VAE").incomplete == ""
    (table,) = score_tables(runs_of(CELLS), expected_seeds=12)
    assert entry(table, "VAE").incomplete == "n=10/12"


def test_other_scores():
    (table,) = score_tables(runs_of(CELLS), "val_elbo")
    assert table.name == "val_elbo-mnist-conv" and table.title.startswith("Validation ELBO: MNIST")
    assert entry(table, "VAE").mean == pytest.approx(680)


def test_differences_are_paired_by_seed():
    (table,) = difference_tables(runs_of(CELLS))
    assert table.name == "test_iwae-minus-vae-mnist-conv"
    assert entry(table, "VAE-more").mean == pytest.approx(5)
    assert entry(table, "VAE-more").sd == pytest.approx(np.std(SPREAD, ddof=1))
    assert entry(table, "RME(5)").sd == pytest.approx(0, abs=1e-9)
    assert not any(row.method == "vae" for row in table.rows)
    assert "+15.0 ± 0.0" in render.to_text(table)
    assert "$+15.0^{0.0}$" in render.to_latex(table)


def test_differences_from_the_control():
    (table,) = difference_tables(runs_of(CELLS), baseline="vae-more")
    assert table.name == "test_iwae-minus-vae-more-mnist-conv" and "difference from VAE-more" in table.title
    assert entry(table, "VAE").mean == pytest.approx(-5)
    assert "Hodges-Lehmann" in render.details(table, entry(table, "VAE"))
    assert "best − this" not in render.details(table, entry(table, "VAE"))
    assert "mean difference -5.0000" in render.details(table, entry(table, "VAE"))


def test_no_difference_table_without_a_vae():
    assert difference_tables(runs_of({("sa", 1, "SA(1)", 10): [1.0]})) == []
    assert difference_tables(runs_of({("vae", None, "VAE", 10): [1.0]})) == []


def test_caption_has_the_smallest_possible_p(table):
    assert "no p can be smaller" not in table.caption
    six = {("vae", None, "VAE", 10): SPREAD[:6], ("sa", 1, "SA(1)", 10): 1 + SPREAD[:6]}
    assert "With 6 pairs, no p can be smaller than 0.016." in score_tables(runs_of(six))[0].caption


def test_sort_rows():
    frame = pd.DataFrame(
        [("svhn", "vae", None, 10), ("mnist", "zzz", None, 10), ("mnist", "rme", 10, 10), ("mnist", "rme", 2, 50),
         ("mnist", "rme", 2, 10), ("mnist", "aaa", 1, 10), ("mnist", "vae", None, 10)],
        columns=["dataset", "method", "order", "dim"],
    ).assign(decoder="conv", variant=None).astype({"order": "Int64"})  # fmt: skip
    ordered = sort_rows(frame)[["dataset", "method", "dim"]].agg(lambda row: " ".join(map(str, row)), axis=1).tolist()
    assert ordered == [
        "mnist vae 10", "mnist rme 10", "mnist rme 50", "mnist rme 10", "mnist aaa 10", "mnist zzz 10", "svhn vae 10",
    ]  # fmt: skip


# ---------------------------------------------------------------------- formats
def test_text(table):
    text = render.to_text(table)
    assert "\x1b" not in text
    rows = {line.split()[0]: " ".join(line.split()) for line in text.splitlines() if line.strip()}
    assert rows["VAE"] == "VAE 685.0 ± 0.7 n=3/10 929.2 ± 0.2 *"
    assert rows["RME(5)"] == "RME(5) 700.0 ± 0.7 * –"
    assert rows["SA(1)"].endswith("† –") and rows["SA(8)"].endswith("‡ –") and rows["RME(2)"].endswith("§ –")
    assert "*  best" not in text and "* best mean" in text


def test_text_in_colour(table):
    for colours, best, tie in (("plain", "1;38;5;32", "38;5;32"), ("paper", "1;31", "38;5;202")):
        lines = render.to_text(table, colour=True, colours=colours).splitlines()
        of = {label: next(line for line in lines if label in line) for label in ("RME(5)", "RME(2)")}
        assert re.search(rf"\x1b\[{best}m\s*700\.0", of["RME(5)"]) and re.search(rf"\x1b\[{tie}m\s*698", of["RME(2)"])


def test_markdown(table):
    lines = render.to_markdown(table).splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == 2 + 6 and len({row.count("|") for row in rows}) == 1
    assert "| RME(5) | **700.0 ± 0.7** | – |" in rows
    assert "| VAE | 685.0 ± 0.7 | n=3/10 **929.2 ± 0.2** |" in rows


def test_csv_holds_every_number(table):
    rows = list(csv.DictReader(io.StringIO(render.to_csv(table))))
    assert len(rows) == len(table.entries) == 7
    for row in rows:
        expected = entry(table, row["label"], int(row["dim"]))
        assert float(row["mean"]) == expected.mean and float(row["sd"]) == expected.sd
        given = next(scores for key, scores in CELLS.items() if key[2:] == (row["label"], int(row["dim"])))
        assert [float(value) for value in row["values"].split()] == list(given)
        assert row["seeds"].split() == [str(seed) for seed in range(len(given))]
        assert row["p_holm"] == ("" if np.isnan(expected.p_holm) else repr(expected.p_holm))
        assert row["hodges_lehmann_low"] == ("" if np.isnan(expected.low) else repr(expected.low))
        assert (int(row["n"]), int(row["expected"]), int(row["rank"])) == (expected.n, 10, expected.rank)
        assert row["p"] == ("" if np.isnan(expected.p) else repr(expected.p)) and row["colour"] == expected.colour
    assert {row["order"] for row in rows if row["method"] == "vae"} == {""}


def test_csv_names_each_difference():
    (table,) = difference_tables(runs_of(CELLS))
    rows = csv.DictReader(io.StringIO(render.to_csv(table)))
    row = next(row for row in rows if row["label"] == "SA(1)")
    differences = CELLS["sa", 1, "SA(1)", 10] - (685 + SPREAD)
    walsh = [(a + b) / 2 for i, a in enumerate(differences) for b in differences[i:]]
    assert "mean" not in row and float(row["mean_difference"]) == pytest.approx(differences.mean())
    assert float(row["sd_of_differences"]) == pytest.approx(differences.std(ddof=1))
    assert float(row["median_difference"]) == pytest.approx(np.median(differences))
    assert float(row["hodges_lehmann"]) == pytest.approx(np.median(walsh))
    assert [float(value) for value in row["values"].split()] == pytest.approx(differences)


def test_the_legend_is_in_words_in_every_format(table):
    meanings = {
        "*": "best mean", "§": "indistinguishable from the best (p > 0.1)",
        "‡": "indistinguishable from the best, narrowly (0.05 < p ≤ 0.1)",
        "†": "significantly below the best (0.01 < p ≤ 0.05)", "": "significantly below the best (p ≤ 0.01)",
    }  # fmt: skip
    text, markdown, html = render.to_text(table), render.to_markdown(table), Cells(render.to_html(table)).text
    for mark, meaning in meanings.items():
        assert f"{mark or 'no mark:'} {meaning}" in text and f"{mark} {meaning}" in html
        assert f"{'**bold**' if mark == '*' else mark or 'no mark:'} {meaning}" in markdown
    for colours, marks in (
        ("plain", [r"\S", r"\ddag", r"\dag", "gray"]),
        ("paper", ["red-orange", "yellow", "no colour"]),
    ):
        caption = render.to_latex(table, colours).partition(r"\caption")[2].partition("\n")[0]
        assert "old " + {"plain": "blue", "paper": "red"}[colours] + ": best mean" in caption
        assert all(mark in caption for mark in marks)
        assert r"indistinguishable from the best (p $>$ 0.1)" in caption
        assert r"significantly below the best (p $\le$ 0.01)" in caption


def test_a_narrow_terminal_does_not_break_a_meaning(table):
    lines = render.to_text(table, width=70).splitlines()
    assert any("§ indistinguishable from the best (p > 0.1)" in line for line in lines)


def test_latex(table):
    text = render.to_latex(table)
    assert r"RME$^{(5)}$ & \textcolor{closest}{$\mathbf{700.0}^{0.7}$} & -- \\" in text
    assert r"VAE & \textcolor{black!60}{$685.0^{0.7}$} & {\scriptsize n=3/10} \textcolor{closest}" in text
    rows = {line.partition(" & ")[0]: line for line in text.splitlines()}
    assert r"^{4.8}$\rlap{\,\dag} & " in rows["SA$^{(1)}$"] and r"$\rlap{\,\ddag} & " in rows["SA$^{(8)}$"]
    assert r"\textcolor{closest}{$" in rows["RME$^{(2)}$"] and r"\rlap{\,\S}" in rows["RME$^{(2)}$"]
    assert text.count("{") == text.count("}") and r"\definecolor{closest}" in text


def test_latex_in_the_papers_colours(table):
    text = render.to_latex(table, "paper")
    assert r"RME$^{(5)}$ & \textcolor{red}{$\mathbf{700.0}^{0.7}$} & -- \\" in text
    assert r"VAE & $685.0^{0.7}$ & {\scriptsize n=3/10} \textcolor{red}{$\mathbf{929.2}^{0.2}$} \\" in text
    assert r"SA$^{(1)}$ & \textcolor{YellowOrange}{$" in text and r"SA$^{(8)}$ & \textcolor{Orange}{$" in text
    assert r"RME$^{(2)}$ & \textcolor{RedOrange}{$" in text
    assert text.index(r"\toprule") < text.index(r"\midrule") < text.index(r"\bottomrule")
    body = text[text.index(r"\midrule") : text.index(r"\bottomrule")]
    assert {line.count("&") for line in body.splitlines()[1:]} == {len(table.columns)}
    assert text.count("{") == text.count("}") and r"\label{tab:test_iwae-mnist-conv}" in text


HOSTILE = r"<script>alert(1)</script> & 50%_$x^2$ \evil{a}~|*b* [red]#"


@pytest.fixture(scope="module")
def hostile():
    (table,) = score_tables(runs_of({("odd", 2, f"{HOSTILE}(2)", 10): [1.0, 2.0]}, "odd", HOSTILE))
    return table


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_latex_compiles(table, hostile, tmp_path):
    (differences,) = difference_tables(runs_of(CELLS))
    both = decoder_table(pd.concat([runs_of(CELLS), runs_of(CELLS, decoder="fc")]))
    runs = runs_of({(*row, dim): scores for (*row, at), scores in CELLS.items() if at == 10 for dim in (10, 50)})
    lists = [claim_listing(score_claims(runs)), rank_listing(compare_ranks(runs, expected_seeds=10), "conv")]
    shown = (table, hostile, differences, both, *paper_tables(runs))
    tables = [render.to_latex(one, colours) for colours in ("plain", "paper") for one in shown]
    body = "\n".join([*tables, *map(to_latex, lists), to_latex(replace(lists[0], rows=4 * lists[0].rows))])
    packages = r"\usepackage{booktabs,longtable}\usepackage[dvipsnames]{xcolor}"
    (tmp_path / "t.tex").write_text(rf"\documentclass{{article}}{packages}\begin{{document}}{body}\end{{document}}")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]


def test_html(table):
    parsed = Cells(render.to_html(table))
    assert parsed.open == [] and {len(row) for row in parsed.rows} == {3}
    rows = {row[0][2].strip(): row[1:] for row in parsed.rows}
    assert list(rows) == ["dim(z)", *(row.label for row in table.rows)]
    kind, title, text = rows["RME(5)"][0]
    assert (kind, text.split()) == ("best", ["700.0", "±", "0.7", "*"])
    assert title == "n = 10 of 10, mean 700.0000, sd 0.6728, rank 1"
    assert "p = 0.00098 (10 pairs), Holm's p = 0.0049" in rows["VAE"][0][1]  # 1/1024, of five tests
    assert (
        "best − this: median difference +15.0000, Hodges-Lehmann estimate +15.0000 [+15.0000, +15.0000] (95.1%)"
        in (rows["VAE"][0][1])
    )
    assert rows["VAE"][1][2].split()[0] == "n=3/10"
    assert [rows[label][0][0] for label in ("VAE", "SA(1)", "SA(8)", "RME(2)")] == [
        "below", "yellow-orange", "orange", "red-orange",
    ]  # fmt: skip


def test_labels_are_escaped(hostile):
    html = render.to_html(hostile)
    assert "<script" not in html and HOSTILE in Cells(html).text
    assert "<script>" not in render.to_markdown(hostile).replace(r"\<script\>", "")
    assert HOSTILE in render.to_text(hostile)
    assert r"\evil" not in render.to_latex(hostile) and r"50\%\_\$x" in render.to_latex(hostile)
    assert next(csv.DictReader(io.StringIO(render.to_csv(hostile))))["label"] == f"{HOSTILE}(2)"


def test_untested_cells_are_marked():
    (table,) = score_tables(runs_of({("vae", None, "VAE", 10): [1.0, 2.0], ("sa", 1, "SA(1)", 10): [2.0, 4.0]}))
    assert "too few pairs" in render.to_text(table) and "1.5 ± 0.7 ?" in render.to_text(table)
    assert r"\textcolor{black!60}{$1.5^{0.7}$}\rlap{\,?}" in render.to_latex(table)
    assert r"\textcolor{gray}{$1.5^{0.7}$}" in render.to_latex(table, "paper")
    assert 'class="untested"' in render.to_html(table)
    assert [colour for colour, _, _ in render.legend(table)] == ["best", "untested"]
    assert "2 pairs cannot give" in render.details(table, entry(table, "VAE"))


def test_a_single_seed_has_no_deviation():
    (table,) = score_tables(runs_of({("vae", None, "VAE", 10): [1.25]}))
    assert "nan" not in "".join(f(table) for f in (render.to_text, render.to_latex, render.to_csv, render.to_html))
    assert r"$\mathbf{1.2}$" in render.to_latex(table)
