"""A method that is in no file of `rme/methods/`: `rme.methods.register`."""

from __future__ import annotations

import doctest
from collections.abc import Callable

import pytest

import rme
from rme import methods
from rme.methods._template import Template
from rme.methods.base import Method
from rme.methods.vae import VAE


@pytest.fixture(autouse=True)
def registry(monkeypatch) -> dict[str, type[Method]]:
    """A copy, so that no other test meets these methods."""
    found = dict(methods.registry())
    monkeypatch.setattr(methods, "_registry", found)
    return found


def define(name: str = "mine") -> type[Method]:
    """A class with the same qualified name each time, as when a cell is run again."""

    class Mine(VAE):
        label = "Mine"

    Mine.name = name
    return Mine


def test_a_registered_class_is_found_by_name_and_can_be_trained(tiny) -> None:
    assert methods.register(Template) is Template, "usable as a decorator"
    assert methods.get("TEMPLATE") is Template
    assert methods.names() == sorted(methods.names()) and {"template", "vae", "rme"} <= set(methods.names())
    result = rme.fit(tiny.spec("template", dataset="images", epochs=1), images=tiny.images.train, device="cpu")
    assert isinstance(result.method, Template) and rme.load(result).encode(tiny.images.test).mean.shape == (12, 3)


def test_the_same_class_defined_again_replaces_the_former() -> None:
    first, second = methods.register(define()), methods.register(define())
    assert first is not second and methods.get("mine") is second


def test_one_class_body_may_define_several_methods() -> None:
    first, second = methods.register(define("one")), methods.register(define("two"))
    assert (methods.get("one"), methods.get("two")) == (first, second)


class Nameless(Method):
    def posterior(self, x, noise):
        raise NotImplementedError

    def updates(self):
        raise NotImplementedError


class NoLabel(Nameless):
    name = "no-label"


class Half(Method):
    name, label = "half", "Half"

    def posterior(self, x, noise):
        raise NotImplementedError


@pytest.mark.parametrize(("make", "message"), [
    (lambda: define("vae"), r"tests\.rme\.methods\.test_register: name='vae' is already used by rme\.methods\.vae"),
    (lambda: define("Mine"), "name='Mine' must be lower case"),
    (lambda: type("Again", (VAE,), {}), "name='vae' is already used by"),
    (lambda: Nameless, "Nameless does not declare name, label$"),
    (lambda: NoLabel, "NoLabel does not declare label$"),
    (lambda: Half, "Half does not declare updates"),
])  # fmt: skip
def test_a_refused_class_leaves_the_registry_as_it_was(make: Callable[[], type], message: str) -> None:
    before = dict(methods.registry())
    with pytest.raises(ValueError, match=message):
        methods.register(make())
    assert methods.registry() == before


@pytest.mark.parametrize("thing", ["vae", VAE.posterior, int, None])
def test_something_else_is_refused(thing: object) -> None:
    with pytest.raises(TypeError, match=r"expected a subclass of rme\.methods\.Method"):
        methods.register(thing)  # type: ignore[type-var]


def test_the_example_runs() -> None:
    (example,) = doctest.DocTestFinder(recurse=False).find(methods.register, globs={"rme": rme})
    assert doctest.DocTestRunner(verbose=False).run(example).failed == 0
