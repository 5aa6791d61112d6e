"""Checkpoints are read as they were written; damaged ones are detected, named and ignored."""

from __future__ import annotations

import logging
import os
import stat
import threading
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from rme import checkpoint, noise, training
from rme.checkpoint import Checkpoints, CorruptFile, write_atomically


def tensors() -> dict[str, Tensor]:
    """Tensors of every type in a training's state, and of a few more."""
    g = torch.Generator().manual_seed(0)
    return {
        "float32": torch.randn(3, 4, generator=g),
        "float64": torch.randn(2, 3, generator=g, dtype=torch.float64),
        "bfloat16": torch.randn(5, generator=g).bfloat16(),
        "int64": torch.tensor([-(2**62), 0, 7]),
        "bool": torch.tensor([True, False]),
        "stream": noise.generator(1, 2, noise.TRAIN).get_state(),
        "step": torch.tensor(12.0),
        "count": torch.tensor(5),
        "empty": torch.empty(0, 3),
        "transposed": torch.randn(4, 6, generator=g).T,
        "odd numbers": torch.tensor([torch.nan, torch.inf, -torch.inf, -0.0]),
    }


META = {"runs": ["a", "b"], "epoch": 3, "text": "é β"}


def bits(value: Tensor) -> bytes:
    return value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b""


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.safetensors"
    checkpoint.save(path, tensors(), META)
    found, meta = checkpoint.load(path)
    assert meta == META
    assert found.keys() == tensors().keys()
    for name, value in tensors().items():
        assert found[name].dtype == value.dtype and found[name].shape == value.shape, name
        assert bits(found[name]) == bits(value), name
    stream = torch.Generator()
    stream.set_state(found["stream"])
    assert torch.equal(torch.rand(3, generator=stream), torch.rand(3, generator=noise.generator(1, 2, noise.TRAIN)))


def test_later_changes_of_the_tensors_do_not_change_the_file(tmp_path: Path) -> None:
    value = torch.zeros(3)
    checkpoint.save(tmp_path / "a", {"x": value}, {})
    value.add_(1)
    assert checkpoint.load(tmp_path / "a")[0]["x"].tolist() == [0, 0, 0]


def test_the_hash_does_not_depend_on_the_order_of_the_content(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "a", {"x": torch.zeros(3), "y": torch.ones(2)}, {"b": 1, "a": 2})
    checkpoint.save(tmp_path / "b", {"y": torch.ones(2), "x": torch.zeros(3)}, {"a": 2, "b": 1})
    headers = []
    for name in ("a", "b"):
        with safe_open(tmp_path / name, framework="pt") as file:
            headers.append(file.metadata())  # not the bytes: the library writes entries in any order
    assert headers[0] == headers[1]


def test_files_can_be_read_by_other_users(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "a", {"x": torch.zeros(3)}, {})
    assert stat.S_IMODE(os.stat(tmp_path / "a").st_mode) == 0o644


# ---------------------------------------------------------------------- damage
@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, {name: tensors()[name] for name in ("float32", "int64", "step")}, META)
    return path


def test_a_file_truncated_anywhere_is_noticed(written: Path) -> None:
    whole = written.read_bytes()
    for length in [0, 1, 7, 8, 9, 100, len(whole) // 2, len(whole) - 8, len(whole) - 1]:
        written.write_bytes(whole[:length])
        with pytest.raises(CorruptFile, match=r"a\.safetensors"):
            checkpoint.load(written)


def test_a_bit_flipped_anywhere_is_noticed(written: Path) -> None:
    """Also in the header: names, types, offsets, metadata. Only padding, which has no meaning, may change unnoticed."""
    whole = written.read_bytes()
    header = int.from_bytes(whole[:8], "little")
    padding = {8 + i for i in range(len(whole[8 : 8 + header].rstrip()), header)}
    for position in range(len(whole)):
        if position in padding:
            continue
        for bit in (0, 5):
            damaged = bytearray(whole)
            damaged[position] ^= 1 << bit
            written.write_bytes(bytes(damaged))
            try:
                found, meta = checkpoint.load(written)
            except CorruptFile:
                continue
            pytest.fail(f"bit {bit} of byte {position} ({whole[position : position + 1]!r}): read as {found, meta}")


def test_a_safetensors_file_of_another_program_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(2)}, tmp_path / "a")
    with pytest.raises(CorruptFile):
        checkpoint.load(tmp_path / "a")


def test_a_missing_file_is_not_called_damaged(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        checkpoint.load(tmp_path / "a")


# ---------------------------------------------------------------------- atomic
def test_a_failure_while_writing_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "a"
    checkpoint.save(path, {"x": torch.zeros(3)}, {"n": 1})
    old = path.read_bytes()

    def full_disk(tensors, where, metadata) -> None:
        Path(where).write_bytes(b"half of")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(path, {"x": torch.ones(3)}, {"n": 2})
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_an_oserror_even_if_safetensors_raises_its_own_error(tmp_path: Path, monkeypatch) -> None:
    def full_disk(tensors, where, metadata) -> None:
        raise SafetensorError("no space left")

    monkeypatch.setattr(checkpoint, "save_file", full_disk)
    with pytest.raises(OSError, match=r"a\.safetensors.*no space left"):
        checkpoint.save(tmp_path / "a.safetensors", {"x": torch.ones(3)}, {})
    assert list(tmp_path.iterdir()) == []


def test_the_old_file_is_complete_until_the_new_one_is(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old")
    seen = []

    def write(temporary: Path) -> None:
        temporary.write_text("ne")
        seen.append(path.read_text())
        temporary.write_text("new")
        assert temporary.parent == path.parent, "a rename is atomic only within a file system"

    checkpoint.write_atomically(path, write)
    assert seen == ["old"] and path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


# ---------------------------------------------------------------------- the newest checkpoints
def number(saved: tuple[dict[str, Tensor], dict] | None) -> int | None:
    return None if saved is None else int(saved[0]["epoch"])


def filled(folder: Path, epochs: list[int], keep: int = 2) -> Checkpoints:
    checkpoints = Checkpoints(folder, keep)
    for epoch in epochs:
        checkpoints.save(epoch, {"epoch": torch.tensor(epoch), "much": torch.zeros(100)}, {"of": epoch})
    return checkpoints


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    checkpoints = filled(tmp_path / "c", [1, 2, 9, 10])
    assert number(checkpoints.newest()) == 10 and checkpoints.newest()[1] == {"of": 10}
    assert len(list((tmp_path / "c").iterdir())) == 2
    next(iter(sorted((tmp_path / "c").iterdir(), reverse=True))).unlink()
    assert number(checkpoints.newest()) == 9
    filled(tmp_path / "d", [1, 2, 3, 4], keep=3)
    assert len(list((tmp_path / "d").iterdir())) == 3


def test_two_are_kept_by_default(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for epoch in range(1, 6):
        checkpoints.save(epoch, {"epoch": torch.tensor(epoch)}, {})
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("damage", [
    lambda whole: b"",
    lambda whole: whole[:-10],
    lambda whole: whole[:-50] + bytes([whole[-50] ^ 4]) + whole[-49:],
    lambda whole: b"not a checkpoint at all",
], ids=["empty", "cut", "flipped", "other"])  # fmt: skip
def test_a_damaged_newest_checkpoint_is_named_and_ignored(tmp_path: Path, caplog, damage) -> None:
    checkpoints = filled(tmp_path, [1, 2])
    newest = max(tmp_path.iterdir())
    newest.write_bytes(damage(newest.read_bytes()))
    with caplog.at_level(logging.WARNING):
        assert number(checkpoints.newest()) == 1
    assert newest.name in caplog.text
    min(tmp_path.iterdir()).write_bytes(b"")
    assert checkpoints.newest() is None


def test_a_checkpoint_that_another_process_deletes_meanwhile_is_ignored(tmp_path: Path) -> None:
    class Raced(Checkpoints):
        """Lists a file that no longer exists when it is opened."""

        def _saved(self) -> list[tuple[int, Path]]:
            return [*super()._saved(), (0, self.folder / "epoch-000000.safetensors")]

    checkpoints = Raced(tmp_path / "c", keep=1)
    assert checkpoints.newest() is None
    for epoch in (1, 2):
        checkpoints.save(epoch, {"epoch": torch.tensor(epoch)}, {})
    assert number(checkpoints.newest()) == 2 and len(list((tmp_path / "c").iterdir())) == 1


def test_a_missing_folder_has_no_checkpoint(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "none")
    assert checkpoints.newest() is None
    assert not (tmp_path / "none").exists()


# ---------------------------------------------------------------------- in a training
def test_another_trainings_checkpoint_is_not_used(tiny, tmp_path: Path, caplog) -> None:
    """Both have the same shapes, so that only the metadata shows the difference."""
    checkpoints = Checkpoints(tmp_path)
    training.train(tiny.engine(tiny.spec(seed=8, epochs=1)), checkpoints)
    assert checkpoints.newest() is not None
    plain, offered = (tiny.engine(tiny.spec(seed=9, epochs=1)) for _ in range(2))
    training.train(plain)
    with caplog.at_level(logging.WARNING):
        training.train(offered, checkpoints)
    assert "another training" in caplog.text
    assert len(offered.history.losses) == 1
    for a, b in zip(plain.method.parameters(), offered.method.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_training_on_another_type_of_device_starts_from_the_beginning_and_says_so(tiny, tmp_path, caplog) -> None:
    """A CPU's random streams cannot take over the states of a CUDA device's."""
    engine = tiny.engine(tiny.spec(epochs=1))
    state = engine.state() | {"stream.train.0": torch.zeros(16, dtype=torch.uint8)}
    Checkpoints(tmp_path).save(1, state, training.identity(engine) | {"device": "cuda"})
    with caplog.at_level(logging.WARNING):
        training.train(engine, Checkpoints(tmp_path))
    assert "on cuda" in caplog.text and "another training" not in caplog.text
    assert engine.epoch == 1


def test_a_training_resumes_from_the_checkpoint_before_a_damaged_one(tiny, tmp_path: Path) -> None:
    spec = tiny.spec(epochs=3)
    whole, first, second = (tiny.engine(spec) for _ in range(3))
    training.train(whole)
    checkpoints = Checkpoints(tmp_path)
    for _ in range(2):
        first.train_epoch()
        first.validate()
        checkpoints.save(first.epoch, first.state(), {"runs": [spec.key]})
    newest = max(tmp_path.iterdir())
    newest.write_bytes(newest.read_bytes()[:-1000])
    trained = []
    training.train(second, checkpoints, on_epoch=lambda engine: trained.append(engine.epoch))
    assert trained == [2, 3]
    for a, b in zip(whole.method.parameters(), second.method.parameters(), strict=True):
        assert torch.equal(a, b)


# ---------------------------------------------------------------------- what is no ordinary file
def test_a_link_stays_a_link_to_the_new_content(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("old")
    link.symlink_to(target)
    write_atomically(link, lambda path: path.write_text("new"))
    assert link.is_symlink() and target.read_text() == "new"


def test_a_pipe_is_written_into_and_stays_one(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    write_atomically(pipe, lambda path: path.write_text("through"))
    reader.join()
    assert read == ["through"] and pipe.is_fifo()
