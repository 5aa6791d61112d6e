"""RME_ON_EPOCH: a user's function is called after each epoch."""

from __future__ import annotations

import importlib

import pytest

from rme import hooks
from rme.checkpoint import Checkpoints
from rme.training import train


@pytest.fixture
def module(tmp_path, monkeypatch) -> None:
    (tmp_path / "my_own.py").write_text(
        "seen, number, folder = [], 3, None\n"
        "def note(engine):\n    seen.append((engine.epoch, len(list(folder.iterdir()))))\n"
    )
    (tmp_path / "my_broken.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)


def test_it_is_called_after_each_epoch_and_its_checkpoint(small, module, monkeypatch, tmp_path):
    monkeypatch.setenv(hooks.ON_EPOCH, "my_own:note")
    my_own = importlib.import_module("my_own")
    my_own.folder = tmp_path / "checkpoints"
    called = []
    train(small.engine(small.spec(epochs=2)), Checkpoints(my_own.folder), lambda engine: called.append(engine.epoch))
    assert my_own.seen == [(1, 1), (2, 2)] and called == [1, 2]


def test_without_the_variable_there_is_none(monkeypatch):
    monkeypatch.delenv(hooks.ON_EPOCH, raising=False)
    assert hooks.on_epoch() is None


@pytest.mark.parametrize(("name", "message"), [
    ("my_own", "expected module:function"), (":note", "expected module:function"),
    ("my_own:", "expected module:function"), ("no_such:note", "ModuleNotFoundError"), ("my_own:no_such", "no_such"),
    ("my_broken:note", "ZeroDivisionError"), ("my_own:number", "number is a int, which is not callable"),
    (".:note", "relative"),
])  # fmt: skip
def test_an_error_names_the_value_and_what_is_wrong(module, monkeypatch, name, message):
    monkeypatch.setenv(hooks.ON_EPOCH, name)
    with pytest.raises(hooks.HookError, match=f"RME_ON_EPOCH={name}: .*{message}"):
        hooks.on_epoch()
