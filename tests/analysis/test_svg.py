"""Figures as SVG: valid, without styles that the page forbids, right in light and dark, and they say their numbers."""

from __future__ import annotations

import re
from itertools import combinations
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from analysis import style
from analysis.figures import figures
from analysis.figures.curves import curve_figures
from analysis.figures.forest import forest_figures
from analysis.figures.scores import score_figures
from analysis.page import render_page
from analysis.svg import CLOSE, compact, dark_rules, short
from analysis.tables import score_tables
from tests.analysis.figures.test_figures import MACHADO, SMALL, made, made_curves, seen
from tests.analysis.test_page import CHROMIUM, Window, browser  # noqa: F401

DARK_PAGE, HOSTILE = "rgb(21, 23, 27)", '<img src=x onerror="alert(1)">'
real = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")


@pytest.fixture(scope="module")
def whole():
    """All figures that need no model, of runs with one hostile name."""
    runs = made([*SMALL, ("me", 2)], dims=(10, 20))
    runs["method_label"] = runs["method_label"].replace("ME(2)", HOSTILE)
    one = made(SMALL, dims=(10,), dataset="svhn")
    return figures(pd.concat([runs, one], ignore_index=True), made_curves(runs[runs["seed"] < 3]))


def parsed(figure, prefix="f1-"):
    return ElementTree.fromstring(figure.svg(prefix))


def numbers(text):
    return [float(number) for number in re.findall(r"-?(?:\d+\.?\d*|\.\d+)", text)]


# ---------------------------------------------------------------------- the markup
def test_the_policy_of_the_page_allows_all_of_it(whole):
    kinds = {figure.name.split("-mnist")[0] for figure in whole}
    assert {"test_iwae-by-dim", "test_iwae-forest", "test_iwae-by-time", "components-by-epoch"} <= kinds
    ids = []
    for place, figure in enumerate(whole):
        root = parsed(figure, f"f{place}-")
        own = [element.get("id") for element in root.iter() if element.get("id")]
        assert {element.tag.partition("}")[2] for element in root.iter()} <= {
            "svg", "g", "path", "use", "text", "defs", "clipPath", "rect", "desc", "pattern",
        }  # fmt: skip
        values = [value for element in root.iter() for name, value in element.items() if name not in ("d", "xmlns")]
        assert not any(name in element.attrib for element in root.iter() for name in ("style", "class", "onload"))
        referred = {name for value in values for name in re.findall(r"url\(#([^)]+)\)|^#(\S+)$", value)}
        assert {a or b for a, b in referred} <= set(own)
        assert root.find(f".//*[@id='{root.get('aria-labelledby')}']").text == figure.alt and root.get("role") == "img"
        ids += own
    assert len(set(ids)) == len(ids)


def test_the_same_runs_give_the_same_text():
    (one,), (other,) = (score_figures(made(dims=(10,))) for _ in range(2))
    assert one.png() and one.svg("f1-") == other.svg("f1-") and one.places() == other.places()


def test_texts_and_names_are_the_drawings(whole):
    figure = next(figure for figure in whole if figure.name == "test_iwae-by-row-svhn-conv")
    texts = ["".join(text.itertext()) for text in parsed(figure).iter("{http://www.w3.org/2000/svg}text")]
    assert [t for t in texts if t[0] in "VSR"] == ["VAE", "SA(1)", "SA(8)", "RME(2)", "RME(5)", "VAE-MORE"]
    hostile = next(figure for figure in whole if figure.name.startswith("test_iwae-minus-vae"))
    assert "<img" not in hostile.svg("f1-") and HOSTILE in "".join(parsed(hostile).itertext())


def test_paths_are_small_and_exact():
    assert compact("M 10 10 \nL 20.5 10 \nL 20.5 30 \nz\n") == "m10 10l10.5 0 0 20z"
    assert compact("M 0 0 \nQ 1 1 2 0 \nC 2 1 3 1 4 0 \n") == "m0 0q1 1 2 0c0 1 1 1 2 0"
    assert compact("M 1 1 \nL 2 2 \nz\nM 5 5 \nL 6 9 \n") == "m1 1l1 1zm4 4l1 4"
    assert [short(value) for value in (0.5, -0.25, -0.001, 12.0, 0.126)] == [".5", "-.25", "0", "12", ".13"]


def test_corners_that_are_left_out_are_near_the_line():
    turn = np.linspace(0, 2 * np.pi, 400)
    points = np.stack([100 + 90 * np.cos(turn) / 3, 50 + 40 * np.sin(3 * turn) / 3], axis=1)
    text = compact("M " + "L ".join(f"{x} {y} \n" for x, y in points))
    kept = np.cumsum(np.reshape(numbers(text), (-1, 2)), axis=0)
    assert 20 < len(kept) < 250
    starts, along = kept[:-1], np.diff(kept, axis=0)
    for point in points:
        part = np.clip(((point - starts) * along).sum(1) / (along**2).sum(1), 0, 1)
        nearest = np.hypot(*(point - starts - part[:, None] * along).T).min()
        assert nearest < CLOSE + 0.01  # rounding moves a corner by at most half a hundredth in each direction


# ---------------------------------------------------------------------- what the marks say
def test_marks_are_where_the_points_are_drawn():
    runs = made(dims=(10,))
    (figure,) = score_figures(runs)
    uses = [
        (float(use.get("x")), float(use.get("y"))) for use in parsed(figure).iter("{http://www.w3.org/2000/svg}use")
    ]
    seeds = [place for place in figure.places() if ", seed " in place[2]]
    assert len(seeds) == len(runs)
    for (x, y), *_ in seeds:
        assert min(max(abs(x - a), abs(y - b)) for a, b in uses) < 0.06
    said = {(name, lines[0]): lines[1] for _, name, *lines in seeds}
    for run in runs.to_dict("records"):
        assert said[run["method_label"], f"dim 10, seed {run['seed']}"] == f"{run['test_iwae']:.2f} nats"


def test_every_row_of_the_data_is_said(whole):
    for figure in whole:
        said = {name.partition(", m =")[0] for _, name, *_ in figure.places()}
        assert said == set(figure.data["method_label"]), figure.name


def test_a_point_outside_its_axes_says_nothing():
    runs = made([("vae", None), ("sa", 1)], dims=(10,))
    (figure,) = curve_figures(made_curves(runs), runs)
    below = [mark for mark in figure.marks if mark.y < mark.axes.get_ylim()[0] - 1]
    assert below and len(figure.places()) <= len(figure.marks) - len(below)


# ---------------------------------------------------------------------- colours
def luminance(colour):
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]


@pytest.mark.parametrize("vision", MACHADO)
def test_dark_colours_are_distinguishable(vision):
    colours = {method: style.dark(colour) for method, colour in style.COLOURS.items()}
    for a, b in combinations(colours, 2):
        assert np.linalg.norm(seen(colours[a], vision) - seen(colours[b], vision)) > 15, (a, b)


def test_every_colour_is_visible_on_the_dark_page(whole):
    rules = dark_rules(figure.svg(f"f{place}-") for place, figure in enumerate(whole))
    dark = dict(re.findall(r"--ink-([0-9a-f]{6}):(#[0-9a-f]{6});", rules))
    assert set(dark) >= {style.colour(method)[1:] for method in ("vae", "sa", "rme", "vae-more", "me")}
    ground = luminance(style.dark("#ffffff")) + 0.05
    ratios = {colour: (luminance(shown) + 0.05) / ground for colour, shown in dark.items() if colour != "ffffff"}
    assert min(ratios.values()) >= 3 and style.dark("#ffffff") == style.DARK_PAGE
    assert dark_rules([]) == ""


# ---------------------------------------------------------------------- in the page
@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """A page with a figure of scores and a forest plot."""
    runs = made([("vae", None), ("sa", 1), ("rme", 2), ("iaf", 2)], dims=(10,), val_iwae=1.0, val_elbo=1.0)
    drawn = [*score_figures(runs), *forest_figures(runs)]
    text = render_page(
        experiment="figures",
        answer=["RME has the best mean."],
        tables=score_tables(runs),
        figures=[(figure, figure.png()) for figure in drawn],
        files={},
        how_it_was_run={
            "where": {}, "n_runs": 32, "commands": [], "first": "2026-01-01", "last": "2026-01-02", "paragraph": None,
            "trained_for": "12 h", "compute": None, "untimed": 0, "seeds": "0 to 7", "warnings": [], "conditions": [],
            "model_facts": {}, "made_with": {}, "settings": {}, "failed": [], "missing": [],
        },
    )  # fmt: skip
    path = tmp_path_factory.mktemp("page") / "index.html"
    path.write_text(text, encoding="utf-8")
    return SimpleNamespace(url=path.as_uri(), figures=drawn)


@pytest.fixture
def opened(browser, shown):  # noqa: F811
    windows = []

    def visit(**options):
        windows.append(Window(browser, **options))
        windows[-1].page.goto(shown.url)
        return windows[-1].page

    yield visit
    for window in windows:
        assert window.said == []  # nor did the policy forbid anything
        window.context.close()


@real
@pytest.mark.parametrize(("scheme", "ink"), [("light", "rgb(0, 0, 0)"), ("dark", "rgb(230, 232, 236)")])
def test_figures_follow_the_scheme(opened, scheme, ink):
    page = opened(color_scheme=scheme)
    painted = page.evaluate("""() => [...document.querySelectorAll("figure.drawing > svg text")]
        .map((text) => getComputedStyle(text).fill)""")
    assert len(painted) > 10 and set(painted) == {ink}
    strokes = page.evaluate("""() => [...document.querySelectorAll("figure.drawing > svg path")]
        .map((path) => getComputedStyle(path).stroke)""")
    hollow, shade = "rgb(255, 255, 255)", style.colour("rme")
    shade, hollow = (style.dark(shade), DARK_PAGE) if scheme == "dark" else (shade, hollow)
    assert f"rgb({', '.join(str(int(shade[i : i + 2], 16)) for i in (1, 3, 5))})" in strokes and ink in strokes
    ground = page.evaluate("getComputedStyle(document.body.parentElement).backgroundColor")
    assert ground == (hollow if scheme == "dark" else "rgb(255, 255, 255)")
    fonts = page.evaluate("""() => [document.body, document.querySelector("figure.drawing text")]
        .map((element) => getComputedStyle(element).fontFamily)""")
    assert fonts[0] == fonts[1]


POINT = """([name, x, y]) => {
    const svg = document.querySelector(`#${name} > svg`);
    const at = svg.getScreenCTM();
    return [at.e + x * at.a, at.f + y * at.d];
}"""


def pointed(page, figure, place):
    """Where in the window a mark's middle is."""
    middle = np.reshape(place[0], (-1, 2)).mean(axis=0).tolist()
    return page.evaluate(POINT, [figure.name, *middle])


@real
def test_pointing_at_a_mark_says_its_numbers(opened, shown):
    page = opened()
    for figure in shown.figures:
        page.locator(f"#{figure.name} > svg").scroll_into_view_if_needed()
        for place in figure.places():
            page.mouse.move(*pointed(page, figure, place))
            page.wait_for_function("name => document.querySelector('#value').innerText.includes(name)", arg=place[1])
            lines = page.locator("#value").inner_text().split("\n")
            assert set(place[1:]) <= set(lines) and page.locator(f"#{figure.name} .shown").count() == 1
    cell = shown.figures[1].data.iloc[-1]
    assert f"Hodges-Lehmann {cell['estimate']:+.2f} nats" in lines
    assert f"[{cell['low']:+.2f}, {cell['high']:+.2f}], {100 * cell['level']:.1f}% confidence, 8 pairs" in lines
    page.mouse.move(2, 2)
    page.locator("#value").wait_for(state="hidden")
    assert page.locator(".shown").count() == 0


@real
def test_the_arrow_keys_go_from_mark_to_mark(opened, shown):
    page, figure = opened(), shown.figures[1]
    svg = page.locator(f"#{figure.name} > svg")
    svg.focus()
    for place in figure.places():
        page.keyboard.press("ArrowDown")
        page.wait_for_function("name => document.querySelector('#value b')?.textContent === name", arg=place[1])
        assert page.locator("#value").inner_text().split("\n") == place[1:]
    assert svg.get_attribute("aria-describedby") == "value"
    page.keyboard.press("Escape")
    assert page.locator("#value").is_hidden() and svg.get_attribute("aria-describedby") is None


@real
def test_a_finger_in_a_narrow_window(opened, shown):
    page, figure = opened(size=(390, 800), has_touch=True, is_mobile=True), shown.figures[1]
    svg = page.locator(f"#{figure.name} > svg")
    svg.scroll_into_view_if_needed()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for place in figure.places():
        x, y = pointed(page, figure, place)
        page.touchscreen.tap(x, y)
        page.wait_for_function("name => document.querySelector('#value b')?.textContent === name", arg=place[1])
        box = page.locator("#value").bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 390
        assert not (box["x"] < x < box["x"] + box["width"] and box["y"] < y < box["y"] + box["height"])
    page.touchscreen.tap(5, 5)
    page.locator("#value").wait_for(state="hidden")


@real
def test_without_javascript_figures_are_seen(opened, shown):
    page = opened(java_script_enabled=False)
    for figure in shown.figures:
        svg = page.locator(f"#{figure.name} > svg")
        assert svg.bounding_box()["width"] > 300 and "SA(1)" in svg.text_content()
