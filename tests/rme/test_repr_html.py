"""What a notebook shows: HTML that parses, with the scores, the curve and the pictures that belong to it."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from rme import pictures, repr_html
from rme.config import RunSpec
from rme.fitting import train_runs
from rme.model import Model
from rme.model_file import ModelFile
from rme.result import Result


class Balanced(HTMLParser):
    """Text and attributes of HTML in which each element is closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.attributes: dict[str, str] = {}
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs) -> None:
        self.attributes |= dict(attrs)
        if tag not in ("br", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs) -> None:
        self.attributes |= dict(attrs)

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data) -> None:
        self.texts.append(data)


def picture(page: Balanced) -> np.ndarray:
    content = base64.b64decode(page.attributes["src"].removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(content)))


@pytest.fixture(scope="module")
def result(small) -> Result:
    spec = small.spec("rme", 2, epochs=3, variant="<kl> & 5")
    parents = [small.models(spec.parent, small.images)]
    found = train_runs([spec], small.images, torch.device("cpu"), parents)[spec.key]
    assert isinstance(found, Result)
    return found


def test_a_result_shows_its_scores_curve_and_reconstructions(result: Result) -> None:
    page = Balanced(result._repr_html_())
    text = " ".join(page.texts)
    assert "RME(2), <kl> & 5" in text  # escaped in the source
    assert f"{result.test_iwae.mean():.2f} nats" in text
    assert len(re.findall(r"[\d.]+,[\d.]+", page.attributes["points"])) == 3
    rows = result.reconstructions[:, : repr_html.PICTURES].flatten(0, 1).numpy()
    assert np.array_equal(picture(page), pictures.grid(rows, repr_html.PICTURES))


def test_a_model_shows_test_images_above_its_own_reconstructions(result: Result) -> None:
    model = result.model
    page = Balanced(model._repr_html_())
    shown = picture(page)
    images, side, step = model.shown[: repr_html.PICTURES], 8, 8 + pictures.GAP
    made = model.reconstruct(images).mul(255).round().to(torch.uint8)
    for i in range(len(images)):
        left = i * step
        assert np.array_equal(shown[:side, left : left + side], images[i, 0].numpy())
        assert np.array_equal(shown[step : step + side, left : left + side], made[i, 0].numpy())


def test_a_model_of_unknown_images_shows_samples_and_no_curve(result: Result) -> None:
    model = Model(ModelFile(result.spec, 0, result.models[0]))
    page = Balanced(model._repr_html_())
    assert "points" not in page.attributes and "samples" in " ".join(page.texts)
    assert np.array_equal(
        picture(page)[:8, :8], model.sample(repr_html.PICTURES)[0, 0].mul(255).round().to(torch.uint8).numpy()
    )


def test_a_spec_shows_the_settings_that_affect_it(result: Result) -> None:
    text = " ".join(Balanced(result.spec._repr_html_()).texts)
    assert "kl_max" in text and "5.0" in text and "svi_step" not in text


def test_reprs_are_short_and_a_spec_s_is_its_code(result: Result) -> None:
    assert len(repr(result).splitlines()) <= 6 and max(map(len, repr(result).splitlines())) < 100
    assert eval(repr(result.spec), {"RunSpec": RunSpec}) == result.spec
    plain = RunSpec(method="vae", dataset="digits", dim=10)
    assert repr(plain) == str(plain) == "RunSpec(method='vae', dataset='digits', dim=10)"
