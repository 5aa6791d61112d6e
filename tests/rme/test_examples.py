"""The examples in the docstrings of the public names: they exist, run, and give what they say."""

from __future__ import annotations

import doctest
import inspect
from typing import Any

import numpy
import pytest
import torch

import rme
from rme import images as images_module


def is_error(name: str) -> bool:
    found = getattr(rme, name)
    return inspect.isclass(found) and issubclass(found, Exception)


NAMES = sorted(name for name in rme.__all__ if not is_error(name))

OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def examples(thing: Any, name: str) -> list[doctest.DocTest]:
    """Those of a function, or of a class and its own methods."""
    found = doctest.DocTestFinder(recurse=True, exclude_empty=True).find(thing, name, module=False)
    return [each for each in found if each.examples]


@pytest.fixture(scope="module")
def model() -> rme.Model:
    spec = rme.RunSpec(method="vae", dataset="digits", dim=10, epochs=1, restarts=1, iwae_samples=2)
    return rme.load(rme.fit(spec, device="cpu"), device="cpu")


def run(test: doctest.DocTest, capsys) -> None:
    runner = doctest.DocTestRunner(optionflags=OPTIONS)
    said: list[str] = []
    runner.run(test, out=said.append)
    assert runner.failures == 0, "".join(said)


@pytest.mark.long(seconds=8)
@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_has_examples_that_run(name: str, model: rme.Model, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    found = examples(getattr(rme, name), name)
    assert found, f"rme.{name} has no example"
    digits = model.shown[:5]
    for test in found:
        test.globs = {
            "rme": rme, "torch": torch, "numpy": numpy, "folder": tmp_path, "model": model, "images": digits,
        }  # fmt: skip
        run(test, capsys)


def test_images_example_runs(capsys) -> None:
    (test,) = examples(images_module.as_images, "as_images")
    test.globs = {"as_images": images_module.as_images, "numpy": numpy}
    run(test, capsys)
