"""A damaged file of tensors is never read as if it were intact, wherever the damage is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rme import checkpoint, training
from rme.checkpoint import Checkpoints, CorruptFile
from tests.rme.test_checkpoint import META, bits, tensors

KEPT = ("float32", "int64", "bool", "empty", "step")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "a.safetensors"
    checkpoint.save(path, {name: tensors()[name] for name in KEPT}, META)
    return path.read_bytes()


def same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    return found.keys() == wanted.keys() and all(
        (found[name].dtype, found[name].shape, bits(found[name])) == (value.dtype, value.shape, bits(value))
        for name, value in wanted.items()
    )


def is_noticed(path: Path, content: bytes) -> None:
    """The file is refused by name, or read correctly because the changed bytes have no meaning."""
    path.write_bytes(content)
    try:
        found, meta = checkpoint.load(path)
    except CorruptFile as error:
        assert str(path) in str(error)
    else:
        assert meta == META and same(found, {name: tensors()[name] for name in KEPT})


@settings(max_examples=300)
@given(st.data())
def test_a_changed_byte_is_noticed(tmp_path, whole, data):
    at = data.draw(st.integers(0, len(whole) - 1))
    new = data.draw(st.integers(0, 255).filter(lambda value: value != whole[at]))
    is_noticed(tmp_path / "a.safetensors", whole[:at] + bytes([new]) + whole[at + 1 :])


@given(st.data())
def test_a_truncated_file_is_noticed(tmp_path, whole, data):
    path = tmp_path / "a.safetensors"
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(CorruptFile, match=r"a\.safetensors"):
        checkpoint.load(path)


@given(st.data())
def test_lost_doubled_or_exchanged_pieces_are_noticed(tmp_path, whole, data):
    a, b, c = sorted(data.draw(st.tuples(*3 * [st.integers(0, len(whole))])))
    changed = data.draw(
        st.sampled_from([whole[:a] + whole[b:], whole[:b] + whole[a:], whole[:a] + whole[b:c] + whole[a:b] + whole[c:]])
    )
    is_noticed(tmp_path / "a.safetensors", changed)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused(tmp_path, content):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(CorruptFile, match=r"a\.safetensors"):
        checkpoint.load(path)


NUMBERS = st.integers(-(2**63), 2**63 - 1) | st.floats(width=32)


@given(
    values=st.dictionaries(st.text("abc._", min_size=1, max_size=6), st.lists(NUMBERS, max_size=4), max_size=4),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool]),
    meta=st.dictionaries(
        st.text(max_size=5), st.none() | st.integers() | st.text(max_size=5) | st.floats(allow_nan=False)
    ),
)
def test_a_file_is_read_as_it_was_written(tmp_path, values, dtype, meta):
    wanted = {name: torch.tensor(row, dtype=torch.float64).to(dtype) for name, row in values.items()}
    checkpoint.save(tmp_path / "a", wanted, meta)
    found, about = checkpoint.load(tmp_path / "a")
    assert about == meta and same(found, wanted)


@settings(max_examples=50)
@given(damage=st.lists(st.tuples(st.booleans(), st.floats(0, 1, exclude_max=True)), min_size=3, max_size=3))
def test_the_newest_undamaged_checkpoint_is_used(tmp_path_factory, damage):
    folder = tmp_path_factory.mktemp("c")
    checkpoints = Checkpoints(folder, keep=3)
    for epoch, (damaged, where) in enumerate(damage):
        checkpoints.save(epoch, {"epoch": torch.tensor(epoch), "much": torch.zeros(20)}, {"of": epoch})
        if damaged:
            path = folder / f"epoch-{epoch:06d}.safetensors"
            content = path.read_bytes()
            path.write_bytes(content[: int(where * len(content))])
    good = [epoch for epoch, (damaged, _) in enumerate(damage) if not damaged]
    newest = checkpoints.newest()
    assert (None if newest is None else newest[1]["of"]) == (max(good) if good else None)


@settings(max_examples=3)
@given(other=st.fixed_dictionaries({}, optional={"seed": st.integers(1, 9), "epochs": st.just(3), "dim": st.just(2)}))
def test_a_checkpoint_of_another_training_is_not_resumed(tiny, tmp_path_factory, other):
    """Such as a file copied from another folder, which is undamaged."""
    folder = tmp_path_factory.mktemp("c")
    ours, theirs = tiny.engine(tiny.spec()), tiny.engine(tiny.spec(**other))
    theirs.train_epoch()
    theirs.validate()
    Checkpoints(folder).save(1, theirs.state(), training.identity(theirs))
    epochs: list[int] = []
    training.train(ours, Checkpoints(folder), on_epoch=lambda engine: epochs.append(engine.epoch))
    assert epochs == ([1, 2] if other else [2])
