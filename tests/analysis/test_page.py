"""The report's page in a real browser: it loads nothing, sorts, filters, shows details and seeds, and is accessible."""

from __future__ import annotations

import base64
import gzip
import io
import json
import os
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from analysis import listing, render, style
from analysis.claims import score_claims
from analysis.figure import Figure
from analysis.listing import claim_listing, claim_summary, gain_listing, rank_listing, training_listing
from analysis.methods_text import Paragraph
from analysis.page import render_page
from analysis.paper import paper_tables
from analysis.ranks import compare_ranks
from analysis.tables import decoder_table, difference_tables, score_tables
from tests.analysis.test_tables import HOSTILE, runs_of

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = [
    "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
SCORES = "test_iwae-mnist-conv"
DIFFERENCES = "test_iwae-minus-vae-mnist-conv"
AXE = Path(__file__).parent.parent / "browser/node_modules/axe-core/axe.min.js"

sync_api = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        flags = QUIET + (["--no-sandbox"] if os.getuid() == 0 else [])
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)  # with a fresh profile
        yield started
        started.close()


def scores():
    """Two data sets and decoders; ties, missing cells, and means whose order as text differs from that as numbers."""
    rng = np.random.default_rng(5)
    spread = rng.normal(size=10)
    cells = {
        ("vae", None, "VAE", 10): 99.5 + spread,
        ("vae", None, "VAE", 20): 1000 + spread,
        ("sa", 1, "SA(1)", 10): 1003 + rng.normal(size=10),
        ("sa", 2, "SA(2)", 10): 1002.5 + 4 * rng.normal(size=10),
        ("sa", 2, "SA(2)", 20): 99.5 + spread,
        ("me", 2, "ME(2)", 10): 99.5 + spread,  # ties with the VAE
        ("rme", 2, "RME(2)", 10): 1003.5 + rng.normal(size=10),
        ("rme", 2, "RME(2)", 20): 1003 + rng.normal(size=3),
        ("rme", 10, "RME(10)", 10): -20 + spread,
        ("rme", 10, "RME(10)", 20): 1010 + spread,
        ("vae-more", None, "VAE-more", 10): 1001 + spread,
        ("odd", 1, f"{HOSTILE}(1)", 10): 1000 + spread,
    }
    fully = {cell: values for cell, values in cells.items() if cell[0] in ("vae", "rme")}
    return pd.concat([
        runs_of(cells),
        runs_of({cell: values + 5 for cell, values in cells.items()}, "svhn", "SVHN"),
        runs_of({cell: values - 9 for cell, values in fully.items()}, decoder="fc"),
        runs_of({cell: values - 9 for cell, values in fully.items()}, "svhn", "SVHN", decoder="fc"),
    ])  # fmt: skip


def drawn(dataset):
    drawing = style.drawing()
    drawing.subplots().plot([1, 2, 4])
    data = pd.DataFrame({"x": [0, 1, 2], "y": [1, 2, 4]})
    words = f"What {dataset or 'all'} shows"
    return Figure(
        f"drawing-{dataset or 'all'}", words, f"{words} {HOSTILE}", "a line that rises", drawing, data, dataset
    )


COMPUTE = listing.Listing(
    "compute", "Parameters and compute", "A list of numbers in words.",
    ["Row", "Parameters", "Time", "Interval", "Rate", "Score"],
    [
        ["RME(5), 2e-5", "1,245,242", "2.0 h", "[-1.14, +0.20]", "2e-5", "84.2 ± 3.3 (8)"],
        ["RME(5), 1e-4", "99,000", "8.1 min", "", "1e-4", "713.2 (1)"],
        ["VAE", "", "0.0 s", "[+3.00, +4.00]", "not trained", "–"],
        ["RME(5)", "403,222 to 2,000,000", "14 h", "[-12.00, +1.00]", "0.05", "-91.0 ± 3.0 (8)"],
        ["All", "", "16 h", "", "", ""],
    ],
    labels=(0,),
)  # fmt: skip


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The page, alone in its folder, and its contents."""
    runs = scores()
    tables = [
        *score_tables(runs), *difference_tables(runs), *score_tables(runs, "val_elbo"), decoder_table(runs),
    ]  # fmt: skip
    tables.sort(key=lambda table: (table.heads != "dim", table.columns[0].dataset, table.columns[0].decoder))
    against = paper_tables(runs)
    claims = score_claims(runs)
    ranks = [rank_listing(compare_ranks(runs[runs["decoder"] == "fc"]), "fc")]
    lists = [claim_summary(claims), claim_listing(claims)]
    gains, trainings = gain_listing(runs), training_listing(runs)
    files = {
        f"{table.name}.{suffix}": write(table)
        for table in [*tables, *against]
        for suffix, write in {"csv": render.to_csv, "tex": render.to_latex, "md": render.to_markdown}.items()
    } | {
        f"{item.name}.{suffix}": write(item)
        for item in [*lists, gains, trainings, COMPUTE, *filter(None, ranks)]
        for suffix, write in {"csv": listing.to_csv, "tex": listing.to_latex, "md": listing.to_markdown}.items()
    }
    pictures = [(figure, figure.png()) for figure in (drawn("svhn"), drawn(""))]
    for figure, _ in pictures:
        files |= {f"{figure.name}.csv": figure.data.to_csv(index=False), f"{figure.name}.pdf": figure.pdf()}
    paragraph = Paragraph(f"We trained {HOSTILE}.\n", "We trained.\n", "@article{a}\n")
    files |= {"methods.txt": paragraph.text, "methods.tex": paragraph.latex, "references.bib": paragraph.bibtex}
    text = render_page(
        experiment=f"paper {HOSTILE}",
        answer=["RME has the best mean in 3 of 8 columns.", "On MNIST at dim 10, RME(2) has the best."],
        tables=tables,
        against_paper=against,
        ranks=[item for item in ranks if item is not None],
        gains=gains,
        trainings=trainings,
        claims=claims,
        claim_lists=lists,
        figures=pictures,
        files=files,
        how_it_was_run={
            "where": {}, "n_runs": 1234, "commands": ["python tune/sweep.py --grid paper"], "first": "2026-01-01",
            "last": "2026-01-02", "trained_for": "12 h of training", "compute": None, "untimed": 0, "seeds": "0 to 9",
            "warnings": [HOSTILE], "conditions": [COMPUTE], "model_facts": {"Model": "small"},
            "paragraph": paragraph,
            "made_with": {"Commit": {"abc1234": 1234}}, "settings": {"epochs": ["20"]},
            "failed": [{"dataset": "svhn", "dataset_label": "SVHN", "dim": 10, "decoder": "conv", "seed": 3,
                        "method_label": "VAE", "reason": HOSTILE}],
            "missing": [],
        },
    )  # fmt: skip
    path = tmp_path_factory.mktemp("page") / "index.html"
    path.write_text(text, encoding="utf-8")
    found = {"tables": tables, "claims": claims, "files": files, "pictures": pictures, "runs": runs}
    return SimpleNamespace(url=path.as_uri(), text=text, **found)


class Window:
    """A browser window, its requests, and its console messages and errors."""

    def __init__(self, browser, size=(1280, 900), **options):
        self.context = browser.new_context(viewport={"width": size[0], "height": size[1]}, **options)
        self.requested, self.said = [], []
        self.context.on("request", lambda request: self.requested.append(request.url))
        self.context.on("console", lambda message: self.said.append(message.text))
        self.context.on("weberror", lambda error: self.said.append(str(error.error)))
        self.page = self.context.new_page()


@pytest.fixture(scope="module")
def usual(browser):
    """A window shared by tests that need no options: opening one takes as long as loading the page."""
    return Window(browser)


@pytest.fixture
def visit(browser, report, usual):
    """Loads the page; after the test, only the page may have been requested, and the console must be empty."""
    usual.requested.clear()
    usual.said.clear()
    windows = []

    def opened(fragment="", **options):
        window = Window(browser, **options) if windows or options else usual
        windows.append(window)
        window.page.goto(report.url + fragment)
        return window.page

    yield opened
    for window in windows:
        if window is usual:
            window.page.mouse.move(0, 0)
            window.page.goto("about:blank")  # an address that differs only in its fragment would not reload
        else:
            window.context.close()
        asked = [url for url in window.requested if not url.startswith(("blob:null/", "data:image/png"))]
        assert {url.partition("#")[0] for url in asked} == {report.url} and window.said == []


def table_of(report, name):
    return next(table for table in report.tables if table.name == name)


def labels(page, figure):
    """Labels of the visible rows, from top to bottom."""
    return page.eval_on_selector_all(
        f"#{figure} tbody tr", "rows => rows.filter(r => r.offsetParent).map(r => r.cells[0].textContent)"
    )


def unfold(page):
    page.eval_on_selector_all("details", "parts => parts.forEach(part => part.open = true)")


def hash_of(page):
    return page.evaluate("location.hash")


def test_the_paragraph_is_copied(visit):
    """Without the clipboard's permission it is selected, for the reader to copy."""
    page = visit()
    page.click("button[data-copy=paragraph]")
    page.wait_for_function("document.querySelector('button[data-copy]').textContent !== 'Copy'")
    assert page.locator("button[data-copy]").inner_text() in ("Copied", "Selected: press Ctrl+C")
    assert page.evaluate("getSelection().toString().trim()") == f"We trained {HOSTILE}."


# ---------------------------------------------------------------------- what it loads
def test_page_loads_nothing_and_logs_nothing(visit):
    page = visit()
    assert page.locator("h1").inner_text() == f"paper {HOSTILE}"
    assert page.locator("header .answer").bounding_box()["y"] < 100
    assert (
        page.evaluate("document.querySelector('script[src], link[rel=stylesheet], iframe, img:not([src^=\"data:\"])')")
        is None
    )


def test_policy_forbids_everything_else(browser, report):
    window = Window(browser)
    window.page.goto(report.url)
    for attempt in (
        "fetch('http://127.0.0.1:9/')",
        "new Image().src = 'http://127.0.0.1:9/'",
        "document.head.append(Object.assign(document.createElement('script'), {textContent: 'window.broken = 1'}))",
        "document.body.append(Object.assign(document.createElement('iframe'), {src: 'http://127.0.0.1:9/'}))",
        "document.head.append(Object.assign(document.createElement('link'), {rel: 'stylesheet', href: 'x.css'}))",
    ):
        window.page.evaluate(f"""new Promise(done => {{
            document.addEventListener("securitypolicyviolation", done, {{once: true}});
            Promise.resolve({attempt}).catch(() => 0);
        }}).then(event => event.violatedDirective)""")
    assert window.page.evaluate("window.broken") is None
    assert [url for url in window.requested if "127.0.0.1" not in url and "x.css" not in url] == [report.url]
    window.context.close()


# ---------------------------------------------------------------------- sorting
@pytest.mark.parametrize("name", [SCORES, "test_iwae-minus-vae-mnist-conv"])
def test_sorting_agrees_with_pandas(visit, report, name):
    table = table_of(report, name)
    page = visit()
    rows = [row.label for row in table.rows]
    assert labels(page, name) == rows
    numbers = pd.read_csv(io.StringIO(render.to_csv(table)))
    for place, dim in enumerate((10, 20), start=1):
        mean = "mean" if name == SCORES else "mean_difference"
        means = numbers[numbers["dim"] == dim].set_index("label")[mean].reindex(rows)
        assert place == 1 or means.isna().any()  # missing cells are sorted too
        head = page.locator(f"#{name} thead th").nth(place)
        for direction in ("descending", "ascending"):
            head.locator("button").click()
            ordered = means.sort_values(ascending=direction == "ascending", kind="stable", na_position="last")
            assert labels(page, name) == ordered.index.tolist()
            assert head.get_attribute("aria-sort") == direction
            assert page.locator(f"#{name} [aria-sort]").count() == 1
        head.locator("button").click()
        assert labels(page, name) == rows and page.locator(f"#{name} [aria-sort]").count() == 0


def test_sorting_by_method_and_in_lists(visit, report):
    page = visit()
    head = page.locator(f"#{SCORES} thead th").first
    head.locator("button").click()
    order = labels(page, SCORES)
    assert order.index("RME(2)") < order.index("RME(10)") < order.index("VAE")
    statuses = page.locator("#claims thead th").first
    page.locator("details:has(> #claims)").evaluate("part => part.open = true")
    statuses.locator("button").click()
    assert labels(page, "claims") == sorted(claim.status for claim in report.claims)


def test_numbers_in_words_are_sorted_as_numbers(visit):
    """Missing values come last in both directions, and the row of totals after them."""
    page = visit()
    ascending = {
        "Parameters": ["RME(5), 1e-4", "RME(5)", "RME(5), 2e-5", "VAE"],  # of the VAE there is none
        "Time": ["VAE", "RME(5), 1e-4", "RME(5), 2e-5", "RME(5)"],
        "Interval": ["RME(5)", "RME(5), 2e-5", "VAE", "RME(5), 1e-4"],
        "Rate": ["RME(5), 2e-5", "RME(5), 1e-4", "RME(5)", "VAE"],
        "Score": ["RME(5)", "RME(5), 2e-5", "RME(5), 1e-4", "VAE"],
    }
    for title, rows in ascending.items():
        known = rows if title == "Time" else rows[:-1]
        button = page.locator("#compute thead button", has_text=title)
        button.click()
        assert labels(page, "compute") == [*rows, "All"]
        button.click()
        assert labels(page, "compute") == [*known[::-1], *rows[len(known) :], "All"]


def test_times_are_sorted_from_the_shortest():
    frame = runs_of({("vae", None, "VAE", 50): [2.0], ("sa", 8, "SA(8)", 50): [30.0], ("rme", 2, "RME(2)", 50): [2.5]})
    (table,) = score_tables(frame)
    assert "more-is-better" in render.to_page_html(table)
    assert "more-is-better" not in render.to_page_html(table.__class__(**{**vars(table), "score": "inference_ms"}))


# ---------------------------------------------------------------------- filters
def test_filter_by_data_set(visit, report):
    page = visit()
    page.select_option("select[name=dataset]", "svhn")
    shown = page.eval_on_selector_all("figure.table", "all => all.filter(f => !f.hidden).map(f => f.id)")
    assert shown and all("svhn" in name or name == "test_iwae-fc-against-conv" for name in shown)
    heads = page.locator("#test_iwae-fc-against-conv thead th[scope=colgroup]")
    assert [heads.nth(i).is_visible() for i in range(2)] == [False, True]
    row = page.locator("#test_iwae-fc-against-conv tbody tr").first
    assert row.locator("td:visible").count() == 2 and row.locator("td").count() == 4
    claims = [claim.status for claim in report.claims if claim.dataset == "svhn"]
    page.locator("details:has(> #claims)").evaluate("part => part.open = true")
    assert labels(page, "claims") == claims
    assert page.locator("#statuses label").first.inner_text().split() == ["all", str(len(claims))]
    assert page.locator("#drawing-svhn").is_visible() and page.locator("#drawing-all").is_visible()
    assert f"{len(shown)} of" in page.locator("#state").inner_text()
    page.select_option("select[name=dataset]", "mnist")
    assert page.locator("#drawing-svhn").is_hidden() and page.locator("#drawing-all").is_visible()
    assert page.locator("#missing tr[data-dataset=svhn]").is_hidden()
    page.click("button[name=clear]")
    assert page.eval_on_selector_all("figure.table[hidden]", "all => all.length") == 0 and hash_of(page) == ""


def test_filter_by_method(visit):
    page = visit()
    for text, kept in (
        ("rme", ["RME(2)", "RME(10)"]),
        ("me", ["ME(2)"]),  # at the beginning of a word
        ("VAE", ["VAE", "VAE-more"]),
        ("more, sa(2)", ["SA(2)", "VAE-more"]),
        ("(2)", ["SA(2)", "ME(2)", "RME(2)"]),
        ("nothing", []),
    ):
        page.fill("input[name=method]", text)
        assert labels(page, SCORES) == kept
        assert page.locator(f"#{SCORES} .empty").is_visible() == (not kept)


def test_filter_by_a_label_with_a_comma(visit):
    page = visit()
    for text, kept in (
        ("RME(5), 2e-5", ["RME(5), 2e-5"]),
        ("rme(5), 1e", ["RME(5), 1e-4"]),  # the beginning of a label
        ("rme(5), ", ["RME(5), 2e-5", "RME(5), 1e-4", "RME(5)"]),
        ("rme(5), vae", ["RME(5), 2e-5", "RME(5), 1e-4", "VAE", "RME(5)"]),
    ):
        page.fill("input[name=method]", text)
        assert labels(page, "compute") == kept


def test_lists_are_filtered_by_their_column_of_labels(visit, report):
    page = visit("#dataset=svhn&method=rme")
    rows = page.locator("#gains tbody tr:visible").all_inner_texts()
    expected = [row for row in gain_listing(report.runs).rows if row[0].startswith("SVHN") and row[1].startswith("RME")]
    assert [text.split("\t")[:2] for text in rows] == [row[:2] for row in expected] and expected


def test_filter_the_claims(visit, report):
    page = visit()
    for status, words in (
        ("held", "held"),
        ("not-above", "held, but not above its control"),
        ("not-held", "not held"),
        ("too-few", "not enough runs"),
        ("not-run", "not run"),
    ):
        page.locator("details:has(> #claims)").evaluate("part => part.open = false")
        page.check(f"#statuses input[value={status}]", force=True)
        wanted = [claim.status for claim in report.claims if claim.status == words]
        assert labels(page, "claims") == wanted  # choosing unfolds the list
        assert hash_of(page) == f"#claims={status}"


def test_the_address_keeps_the_view(visit):
    page = visit()
    page.select_option("select[name=dataset]", "svhn")
    page.fill("input[name=method]", "rme, vae")
    page.click("nav a[href='#run']")
    page.wait_for_function("location.hash.includes('at=run')")
    shared = hash_of(page)
    again = visit(shared)
    for one in (page, again):
        assert labels(one, "test_iwae-svhn-conv") == ["VAE", "RME(2)", "RME(10)", "VAE-more"]
        assert one.input_value("select[name=dataset]") == "svhn" and one.input_value("input[name=method]") == "rme, vae"
        assert (
            one.locator(f"#{SCORES}").is_hidden()
            and one.locator("#run").evaluate("e => e.getBoundingClientRect().y") < 900
        )
    again.evaluate("location.hash = '#method=sa'")
    again.wait_for_function("document.querySelector('select[name=dataset]').value === ''")
    assert labels(again, SCORES) == ["SA(1)", "SA(2)"]


def test_an_invalid_address_is_ignored(visit):
    page = visit("#dataset=none&claims=x&method=&at=nowhere&y=1")
    assert page.eval_on_selector_all("figure.table[hidden]", "all => all.length") == 0 and hash_of(page) in (
        "",
        "#nowhere",
    )


def test_a_link_to_a_folded_table_unfolds_it(visit):
    assert visit("#val_elbo-mnist-conv").locator("#val_elbo-mnist-conv td").first.is_visible()


# ---------------------------------------------------------------------- details of a cell
def details(report, label, column):
    table = table_of(report, SCORES)
    row = next(row for row in table.rows if row.label == label)
    lines = render.detail_list(table, table.entries[row, table.columns[column]])
    return "\n".join([f"{label}, MNIST, dim {table.columns[column].dim}", *lines])


def cell(page, label, column, figure=SCORES):
    return (
        page.locator(f"#{figure} tbody tr", has=page.get_by_role("rowheader", name=label, exact=True))
        .locator("td")
        .nth(column)
    )


def test_hovering(visit, report):
    page = visit()
    page.locator(f"#{SCORES} thead th button").nth(1).click()  # details must follow the sorted rows
    tip = page.locator("#tip")
    for label, column in [("VAE", 0), ("RME(2)", 1), ("RME(10)", 1)]:
        cell(page, label, column).hover()
        assert page.wait_for_function(
            "text => document.getElementById('tip').innerText === text", arg=details(report, label, column)
        )
        assert cell(page, label, column).get_attribute("aria-describedby") == "tip"
    tip.hover()  # stays open while the pointer is on it
    page.wait_for_timeout(250)
    assert tip.is_visible()
    page.mouse.move(5, 5)
    tip.wait_for(state="hidden")
    cell(page, "VAE", 0).hover()
    tip.wait_for()
    page.keyboard.press("Escape")
    assert tip.is_hidden()


def test_every_cell_of_every_table_has_its_own_details(visit, report):
    page = visit()
    for table in report.tables:
        shown = page.evaluate("""async (name) => {
            const found = [];
            for (const part of document.querySelectorAll("details")) part.open = true;
            for (const cell of document.querySelectorAll(`#${CSS.escape(name)} td[data-key]`)) {
                cell.dispatchEvent(new PointerEvent("pointerover", {bubbles: true, pointerType: "mouse"}));
                const tip = document.getElementById("tip");
                for (let i = 0; tip.hidden && i < 1000; i++) await new Promise(done => setTimeout(done));
                found.push([...document.querySelectorAll("#tip span")].map(line => line.textContent));
            }
            return found;
        }""", table.name)  # fmt: skip
        assert shown == [
            render.detail_list(table, table.entries[row, column])
            for row in table.rows
            for column in table.columns
            if (row, column) in table.entries
        ]


def test_the_keyboard(visit, report):
    page = visit()
    tip = page.locator("#tip")
    page.focus("select[name=colours]")
    page.keyboard.press("Tab")
    focused = "document.activeElement.closest('figure')?.id + ': ' + document.activeElement.textContent"
    assert page.evaluate(focused) == f"{SCORES}: Method"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    tip.wait_for()
    assert tip.inner_text() == details(report, "VAE", 0)
    page.keyboard.press("ArrowDown")
    page.wait_for_function("document.querySelector('#tip b').textContent.startsWith('SA(1)')")
    page.keyboard.press("Control+End")
    assert page.evaluate(focused).startswith(f"{SCORES}: –") and tip.is_hidden()  # a cell without a run
    page.keyboard.press("Control+Home")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")  # sorts by the first column of numbers
    assert labels(page, SCORES)[0] == "RME(2)" and page.evaluate(focused) == f"{SCORES}: 10"
    page.keyboard.press("ArrowDown")
    page.wait_for_function("document.querySelector('#tip b').textContent.startsWith('RME(2)')")
    page.keyboard.press("Escape")
    assert tip.is_hidden() and page.evaluate(focused).endswith("*")
    page.keyboard.press("Tab")  # one stop for each table, then its files
    assert page.evaluate(focused) == f"{SCORES}: CSV"


def test_touch(visit, report):
    page = visit(size=(360, 640), has_touch=True, is_mobile=True)
    tip = page.locator("#tip")
    for label in ("VAE", "VAE-more"):
        cell(page, label, 0).tap()
        panel = page.locator("#panel")
        panel.locator("tfoot").wait_for()
        lines = panel.locator(".statistics li").all_inner_texts()
        assert "\n".join([panel.locator("h2").inner_text(), *lines]) == details(report, label, 0) and tip.is_hidden()
        box = panel.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 360 and box["y"] >= 0 and box["y"] + box["height"] <= 640
        assert page.evaluate("document.getElementById('panel').scrollWidth") <= 360
        panel.get_by_role("button", name="Close").tap()
        assert panel.is_hidden() and tip.is_hidden()


# ---------------------------------------------------------------------- seeds of a cell
def scores_of(report, label, dim, score="test_iwae"):
    """MNIST's scores by seed, convolutional decoder."""
    runs = report.runs
    runs = runs[(runs["dataset"] == "mnist") & (runs["decoder"] == "conv") & (runs["dim"] == dim)]
    return runs[runs["method_label"] == label].set_index("seed")[score]


def opened(page, label, column, figure=SCORES):
    cell(page, label, column, figure).click()
    page.locator("#panel tfoot").wait_for()
    return page.locator("#panel")


def places(panel, kind):
    """Horizontal places of the dots, in the order of the seeds; of each strip."""
    return np.array(panel.locator(f"svg .dot.{kind}").evaluate_all("all => all.map(e => Number(e.getAttribute('cx')))"))


def close_to_a_line(places, values):
    """Whether places are a + b * values with b > 0."""
    slope, start = np.polyfit(values, places, 1)
    return slope > 0 and np.abs(start + slope * np.asarray(values) - places).max() < 0.02


def test_the_panel_has_the_seeds_beside_the_best(visit, report):
    page = visit()
    page.locator(f"#{SCORES} thead th button").nth(1).click()  # the seeds must follow the sorted rows
    panel = opened(page, "SA(2)", 0)
    assert panel.locator("h2").inner_text() == "SA(2), MNIST, dim 10"
    ours, best = (scores_of(report, label, 10) for label in ("SA(2)", "RME(2)"))
    difference = best - ours
    shown = [[*map(float, text.split("\t"))] for text in panel.locator("tbody tr").all_inner_texts()]
    assert np.allclose(shown, np.column_stack([ours.index, ours, best, difference]), atol=6e-4)
    foot = [float(text) for text in panel.locator("tfoot td").all_inner_texts()]
    assert np.allclose(foot, [ours.mean(), best.mean(), difference.mean()], atol=6e-4)
    heads = panel.locator("thead th").all_inner_texts()
    assert heads == ["Seed", "SA(2)", "RME(2) (best)", "best − this"]
    # two strips on one axis, which is the column's: the lowest mean of the column is on it too
    own, other = places(panel, "own"), places(panel, "other")
    assert len(own) == 20 and len(other) == 10  # the scores, and the differences
    assert close_to_a_line(np.concatenate([own[:10], other]), [*ours, *best])
    left = scores_of(report, "RME(10)", 10).min()
    slope, start = np.polyfit([*ours, *best], np.concatenate([own[:10], other]), 1)
    assert 0 < start + slope * left < own[:10].min()
    # the differences, their Hodges-Lehmann estimate and its interval on an axis with 0
    walsh = [(a + b) / 2 for i, a in enumerate(difference) for b in difference.iloc[i:]]
    mark = float(re.search(r"M([\d.-]+)", panel.locator("svg .estimate").get_attribute("d")).group(1)) + 5
    zero = float(panel.locator("svg .zero").get_attribute("x1"))
    assert close_to_a_line([*own[10:], mark, zero], [*difference, np.median(walsh), 0])
    pairs = panel.locator("svg .pair").evaluate_all("all => all.map(e => ['x1', 'x2'].map(x => +e.getAttribute(x)))")
    assert np.allclose(pairs, np.column_stack([other, own[:10]]))


def test_the_panel_of_a_cell_that_lacks_seeds(visit, report):
    panel = opened(visit(), "RME(2)", 1)
    best, ours = scores_of(report, "RME(10)", 20), scores_of(report, "RME(2)", 20)
    assert len(ours) == 3 and panel.locator("svg .pair").count() == 3
    last = panel.locator("tbody tr").last.locator("td").all_inner_texts()
    assert last == ["–", f"{best[9]:.3f}", "–"]
    foot = [float(text) for text in panel.locator("tfoot td").all_inner_texts()]
    assert np.allclose(foot, [ours.mean(), best.mean(), (best[:3] - ours).mean()], atol=6e-4)


def test_the_panel_of_the_best_and_of_a_difference(visit, report):
    page = visit()
    panel = opened(page, "RME(2)", 0)
    assert panel.locator("thead th").all_inner_texts() == ["Seed", "RME(2)"]
    assert close_to_a_line(places(panel, "own"), scores_of(report, "RME(2)", 10))
    page.keyboard.press("Escape")
    unfold(page)
    panel = opened(page, "SA(1)", 0, DIFFERENCES)
    difference = scores_of(report, "SA(1)", 10) - scores_of(report, "VAE", 10)
    zero = float(panel.locator("svg .zero").get_attribute("x1"))
    assert close_to_a_line([*places(panel, "own"), zero], [*difference, 0])
    assert float(panel.locator("tfoot td").inner_text()) == pytest.approx(difference.mean(), abs=6e-4)
    assert f"mean difference {difference.mean():+.4f}" in panel.locator(".statistics").inner_text()


def test_the_panel_has_the_papers_mean(visit, report):
    page = visit()
    name = "test_iwae-against-paper-mnist-conv"
    unfold(page)
    panel = opened(page, "VAE", 0, name)
    paper = float(panel.locator("svg text", has_text=re.compile("^paper ")).text_content().split()[1])
    assert paper == 685.1  # Table 7
    mark = float(panel.locator("svg .paper").get_attribute("x1"))
    assert close_to_a_line([*places(panel, "own"), mark], [*scores_of(report, "VAE", 10), paper])


def test_a_cell_of_every_table_opens(visit, report):
    page = visit()
    unfold(page)
    for table in report.tables:
        (row, column), entry = next(iter(table.entries.items()))
        panel = opened(page, row.label, table.columns.index(column), table.name)
        assert panel.locator(".statistics li").all_inner_texts() == render.detail_list(table, entry)
        assert panel.locator("tbody tr").count() >= entry.n
        page.keyboard.press("Escape")


def test_the_panel_opens_and_closes_by_keyboard_and_pointer(visit):
    page = visit()
    for opens, closes in (("Enter", "Escape"), (" ", "button"), ("click", "outside")):
        target = cell(page, "SA(1)", 0)
        if opens == "click":
            target.click()
        else:
            target.evaluate("cell => Object.assign(cell, {tabIndex: 0}).focus()")
            page.keyboard.press(opens)
        dialog = page.get_by_role("dialog", name="SA(1), MNIST, dim 10", exact=True)
        dialog.locator("tfoot").wait_for()
        assert page.evaluate("document.activeElement.textContent") == "Close" and page.locator("#tip").is_hidden()
        page.keyboard.press("Tab")  # stays within
        assert page.evaluate("document.activeElement === document.body || !!document.activeElement.closest('#panel')")
        if closes == "outside":
            page.mouse.click(5, 5)
        elif closes == "button":
            dialog.get_by_role("button", name="Close").click()
        else:
            page.keyboard.press(closes)
        assert dialog.count() == 0 and target.evaluate("e => e === document.activeElement")
        page.keyboard.press("ArrowDown")  # and the arrow keys go on from the cell
        assert page.evaluate("document.activeElement.parentElement.cells[0].textContent") == "SA(2)"


# ---------------------------------------------------------------------- colours
OUTCOMES = ("best", "red-orange", "orange", "yellow-orange", "below")
VISIONS = {  # Machado, Oliveira and Fernandes (2009), severity 1; of linear RGB
    "usual": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}


def lightness(css, vision, below=(255, 255, 255)):
    """CIE L* of a colour of the browser, as seen by a reader with this vision."""
    *rgb, alpha = [*map(float, re.findall(r"[\d.]+", css)), 1.0][:4]
    srgb = (alpha * np.array(rgb) + (1 - alpha) * np.array(below)) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    light = np.clip(np.array(vision) @ linear, 0, 1) @ [0.2126, 0.7152, 0.0722]
    return 116 * np.cbrt(light) - 16 if light > 0.008856 else 903.3 * light


@pytest.mark.parametrize(("scheme", "page_colour"), [("light", (255, 255, 255)), ("dark", (21, 23, 27))])
def test_plain_colours_stand_out_the_more_the_closer_to_the_best(visit, scheme, page_colour):
    page = visit(color_scheme=scheme)
    legend = page.locator("figure.compared .legend").first
    span = "Object.assign(document.createElement('span'), {className: name})"
    legend.evaluate(f"(legend, names) => legend.replaceChildren(...names.map(name => {span}))", OUTCOMES)
    style = "(all, name) => all.map(e => getComputedStyle(e)[name])"
    grounds, inks = (legend.locator("span").evaluate_all(style, name) for name in ("backgroundColor", "color"))
    for vision in VISIONS.values():
        light = [lightness(ground, vision, page_colour) for ground in grounds]
        apart = np.abs(np.array(light) - lightness(f"rgb{page_colour}", vision))
        assert (np.diff(apart[:4]) < -3).all() and apart[3] == apart[4] == 0
        assert abs(lightness(inks[4], vision) - light[4]) < abs(lightness(inks[3], vision) - light[3])  # faded


def test_the_colours_are_chosen_and_kept_in_the_address(visit):
    page = visit()
    tie = page.locator(f"#{SCORES} td.red-orange").first
    ground = "e => getComputedStyle(e).backgroundColor"
    plain = tie.evaluate(ground)
    page.select_option("select[name=colours]", "paper")
    assert hash_of(page) == "#colours=paper" and tie.evaluate(ground) == "rgb(255, 201, 187)" != plain
    assert tie.inner_text().endswith("§")
    page.fill("input[name=method]", "rme")
    shared = hash_of(page)
    page.click("button[name=clear]")
    assert hash_of(page) == "#colours=paper"  # a filter is cleared, the colours are not
    again = visit(shared)
    assert again.input_value("select[name=colours]") == "paper"
    assert again.locator(f"#{SCORES} td.red-orange").first.evaluate(ground) == "rgb(255, 201, 187)"
    again.select_option("select[name=colours]", "plain")
    assert hash_of(again) == "#method=rme"
    assert again.locator(f"#{SCORES} td.red-orange").first.evaluate(ground) == plain


# ---------------------------------------------------------------------- files
def test_the_page_holds_every_file(report):
    packed = json.loads(gzip.decompress(base64.b64decode(re.search(r'id="packed">([^<]+)<', report.text).group(1))))
    binary = {name: base64.b64decode(content) for name, content in packed["binary"].items()}
    assert packed["files"] | binary == report.files
    links = re.findall(r'download="([^"]+)"', report.text)
    pictures = {f"{figure.name}.png" for figure, _ in report.pictures}
    assert len(set(links)) == len(links) and set(links) == set(report.files) | pictures


def test_downloads(visit, report):
    given = report.files | {f"{figure.name}.png": png for figure, png in report.pictures}
    names = [f"{SCORES}.csv", f"{SCORES}.tex", f"{SCORES}.md", "claims.csv", "drawing-all.png", "drawing-all.pdf"]
    for i, name in enumerate(names):
        if i % 3 == 0:
            page = visit(accept_downloads=True)  # Chromium allows ten downloads a page without a user's click
        for _ in range(2):  # twice
            with page.expect_download() as download:
                page.locator(f"a[download='{name}']").evaluate("link => link.click()")
        assert download.value.suggested_filename == name
        content = given[name]
        assert download.value.path().read_bytes() == (content.encode() if isinstance(content, str) else content)


# ---------------------------------------------------------------------- how it looks
CONTRASTS = """() => {
    const parse = (text) => { const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number); return [r, g, b, a]; };
    const over = (top, below) => [0, 1, 2].map(i => top[3] * top[i] + (1 - top[3]) * below[i]).concat(1);
    const ground = (element) => {
        if (!element) return parse(getComputedStyle(document.documentElement).backgroundColor);
        const own = parse(getComputedStyle(element).backgroundColor);
        return own[3] === 1 ? own : over(own, ground(element.parentElement));
    };
    const linear = (c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
    const ratio = (a, b) => {
        const [high, low] = [light(a), light(b)].sort((p, q) => q - p);
        return (high + 0.05) / (low + 0.05);
    };
    const found = {};
    const note = (element, colour) => {
        const below = ground(element);
        const key = `${element.tagName}.${element.className} ${colour} on ${below}`;
        found[key] = ratio(over(parse(colour), below), below);
    };
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const element = walker.currentNode.parentElement;
        if (!walker.currentNode.textContent.trim() || !element.checkVisibility()) continue;
        note(element, getComputedStyle(element)[element.ownerSVGElement ? "fill" : "color"]);
    }
    for (const input of document.querySelectorAll("input[type=search]")) {
        note(input, getComputedStyle(input, "::placeholder").color);
        note(input, getComputedStyle(input).color);
    }
    return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(visit, scheme):
    page = visit(color_scheme=scheme)
    unfold(page)
    cell(page, "SA(2)", 0).hover()
    page.locator("#tip").wait_for()
    ratios = page.evaluate(CONTRASTS)
    assert len(ratios) > 25 and all(f"TD.{colour}" in " ".join(ratios) for colour in ("best", "red-orange", "untested"))
    assert {key: ratio for key, ratio in ratios.items() if ratio < 4.5} == {}
    ground = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert ground == {"light": "rgb(255, 255, 255)", "dark": "rgb(21, 23, 27)"}[scheme]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_table_outside_the_page_has_its_colours(browser, report, scheme):
    page = browser.new_page(color_scheme=scheme)
    table, claims = render.to_html(table_of(report, SCORES)), listing.to_html(claim_listing(report.claims))
    for html in (claims, table):
        page.set_content(f"<!doctype html><body>{html}")
        assert {key: ratio for key, ratio in page.evaluate(CONTRASTS).items() if ratio < 4.5} == {}
        assert page.locator("[data-key], a").count() == 0
    best, other = page.locator("td.best").first, page.locator("td.below").first
    assert best.evaluate("e => getComputedStyle(e).fontWeight") == "700"
    assert best.get_attribute("title").startswith("n = ")
    assert best.evaluate("e => getComputedStyle(e).color") != other.evaluate("e => getComputedStyle(e).color")
    page.close()


def test_page_never_scrolls_sideways(visit):
    page = visit(size=(320, 800))
    unfold(page)
    for width in (320, 360, 700, 1120, 1600):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("innerWidth") == width >= page.evaluate("document.documentElement.scrollWidth")
        cut = page.evaluate("""() => [...document.querySelectorAll("h1, h2, h3, p, li, summary, label, img, .bar > *")]
            .filter(e => e.checkVisibility({visibilityProperty: true}))
            .filter(e => e.getBoundingClientRect().right > innerWidth + 1)
            .filter(e => !e.closest(".scroll")).map(e => e.outerHTML.slice(0, 80))""")
        assert cut == []


def test_without_javascript(visit, report):
    page = visit(java_script_enabled=False)
    assert page.locator("noscript").inner_text().startswith("Without JavaScript")
    assert page.locator("#filters").is_hidden() and page.locator("#statuses").is_hidden()
    for table in report.tables:
        figure = page.locator(f"#{table.name}")
        part = page.locator("details", has=figure)
        if part.count():
            part.locator("summary").click()
        text = figure.inner_text()
        for (row, _), entry in table.entries.items():
            assert row.label in text and render.value_text(table, entry) in text
    assert page.locator("figure.drawing > svg").first.bounding_box()["width"] > 300


def test_print(visit):
    page = visit(color_scheme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == 0
    assert page.locator("#filters").is_hidden() and page.locator("nav.contents").is_hidden()
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(27, 30, 35)"
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert page.locator("details:not([open])").count() > 0


def test_headings_and_names(visit):
    page = visit()
    levels = page.eval_on_selector_all("h1, h2, h3", "all => all.map(h => Number(h.tagName[1]))")
    assert levels[0] == 1 and levels.count(1) == 1
    assert (
        page.evaluate("new Set([...document.querySelectorAll('[id]')].map(e => e.id)).size")
        == page.locator("[id]").count()
    )
    unnamed = "all => all.filter(e => !(e.labels?.length || e.textContent.trim() || e.ariaLabel)).length"
    assert page.eval_on_selector_all("input, select, button, a", unnamed) == 0
    assert page.eval_on_selector_all("img", "all => all.filter(i => !i.alt).length") == 0


@pytest.mark.skipif(not AXE.exists(), reason="needs axe-core: npm ci --prefix tests/browser")
@pytest.mark.long(seconds=15)
def test_axe_finds_nothing(visit):
    """axe-core's rules, WCAG 2 and good practice, for the page in all its states."""
    page = visit()
    page.evaluate(AXE.read_text(encoding="utf-8"))

    def found(state, within=("html",), **options):
        answer = page.evaluate(
            "([within, options]) => axe.run({include: within}, {resultTypes: ['violations'], ...options})",
            [[[part] for part in within], options],
        )
        rules = [(rule["id"], rule["impact"], rule["nodes"][0]["html"]) for rule in answer["violations"]]
        return {state: rules} if rules else {}

    # `test_contrast` is of the whole page
    colours = {"within": ["header", "#filters", f"#{SCORES}", ".drawing"], "runOnly": ["color-contrast"]}
    unfold(page)
    violations = found("light")
    page.emulate_media(color_scheme="dark")
    violations |= found("dark", **colours)
    page.select_option("select[name=colours]", "paper")
    violations |= found("dark, the paper's colours", **colours)
    page.emulate_media(color_scheme="light")
    violations |= found("light, the paper's colours", **colours)
    page.set_viewport_size({"width": 390, "height": 844})
    page.fill("input[name=method]", "sa")
    violations |= found("narrow, filtered")
    opened(page, "SA(2)", 0)
    violations |= found("panel", ["#panel"])
    page.set_viewport_size({"width": 1280, "height": 900})
    assert violations == {}
