"""The report's page in a real browser: it loads nothing, sorts, filters, shows details, and is accessible."""

from __future__ import annotations

import base64
import gzip
import io
import json
import os
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from analysis import listing, render, style
from analysis.claims import score_claims
from analysis.figure import Figure
from analysis.listing import claim_listing, claim_summary, gain_listing, rank_listing, training_listing
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
        for item in [*lists, gains, trainings, *filter(None, ranks)]
        for suffix, write in {"csv": listing.to_csv, "tex": listing.to_latex, "md": listing.to_markdown}.items()
    }
    pictures = [(figure, figure.png()) for figure in (drawn("svhn"), drawn(""))]
    for figure, _ in pictures:
        files |= {f"{figure.name}.csv": figure.data.to_csv(index=False), f"{figure.name}.pdf": figure.pdf()}
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
            "last": "2026-01-02", "hours": 12.5, "untimed": 0, "made_with": {"Commit": {"abc1234": 1234}},
            "settings": {"epochs": ["20"]},
            "failed": [{"dataset": "svhn", "dataset_label": "SVHN", "dim": 10, "decoder": "conv", "seed": 3,
                        "method_label": "VAE", "reason": HOSTILE}],
            "missing": [],
        },
    )  # fmt: skip
    path = tmp_path_factory.mktemp("page") / "index.html"
    path.write_text(text, encoding="utf-8")
    return SimpleNamespace(url=path.as_uri(), text=text, tables=tables, claims=claims, files=files, pictures=pictures)


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
        means = numbers[numbers["dim"] == dim].set_index("label")["mean"].reindex(rows)
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
    page.focus("input[name=method]")
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
        tip.wait_for()
        assert tip.inner_text() == details(report, label, 0)
        box = tip.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 360 and box["y"] >= 0 and box["y"] + box["height"] <= 640
        page.locator("h2").first.tap()
        tip.wait_for(state="hidden")


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
        note(element, getComputedStyle(element).color);
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
    card = page.locator("figure.drawing img").first.evaluate("e => getComputedStyle(e).backgroundColor")
    assert card == "rgb(255, 255, 255)"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_table_outside_the_page_has_its_colours(browser, report, scheme):
    page = browser.new_page(color_scheme=scheme)
    table, claims = render.to_html(table_of(report, SCORES)), listing.to_html(claim_listing(report.claims))
    for html in (claims, table):
        page.set_content(f"<!doctype html><body>{html}")
        assert {key: ratio for key, ratio in page.evaluate(CONTRASTS).items() if ratio < 4.5} == {}
        assert page.locator("[data-key], a").count() == 0
    best, other = page.locator("td.best").first, page.locator("td:not([class])").first
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
    assert page.locator("figure.drawing img").first.evaluate("e => e.naturalWidth") > 900


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
