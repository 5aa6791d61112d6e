"""Which images `--images` names."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest

from rme import data
from rme.command_line import CommandError
from rme.commands import _images

SHAPE = (1, 8, 8)


def load(text: str | Path, shape=SHAPE, data_dir: Path = Path("data")):
    return _images.load(argparse.Namespace(images=str(text), data_dir=data_dir), shape)


def images(value: int, count: int = 3):
    return np.full((count, 8, 8), value, np.uint8)


@pytest.mark.parametrize(
    ("arrays", "part", "value"),
    [
        ({"other": 7}, "", 7),
        ({"images": 7, "labels": 8}, "", 7),
        ({"train": 8, "test": 7}, "", 7),
        ({"train": 7, "test": 8}, ":train", 7),
        ({"images": 8, "mine": 7}, ":mine", 7),
    ],
)
def test_an_npz_file_s_array_is_the_one_named_or_the_obvious_one(tmp_path, arrays, part, value):
    np.savez(tmp_path / "my.npz", **{name: images(each) for name, each in arrays.items()})
    found = load(f"{tmp_path / 'my.npz'}{part}")
    assert found.shape == (3, *SHAPE) and (found == value).all()


def test_an_npy_file_is_its_array_and_a_colon_in_a_path_is_none_of_a_part(tmp_path):
    for name in ("my.npy", "at:noon.npy"):
        np.save(tmp_path / name, images(9))
        assert (load(tmp_path / name) == 9).all()


def test_a_data_set_s_test_images_are_the_default():
    dataset = data.get("digits").load(Path("data"))
    for text, expected in (("digits", dataset.test), ("digits:test", dataset.test), ("DIGITS:train", dataset.train)):
        assert np.array_equal(load(text, (1, 28, 28)), expected)
    assert np.array_equal(load("digits:all", (1, 28, 28)), np.concatenate([dataset.train, dataset.test]))


def test_a_folder_of_images_is_a_data_set(tmp_path):
    from PIL import Image

    for part, count in (("train", 12), ("test", 3)):
        (tmp_path / "photos" / part).mkdir(parents=True)
        for i in range(count):
            pixels = np.full((28, 28), 10 * (part == "test") + 100, np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / part / f"{i}.png")
    assert (load(tmp_path / "photos", (1, 28, 28)) == 110).all()
    assert (load(f"{tmp_path / 'photos'}:train", (1, 28, 28)) == 100).all()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("my.npz", "a, b"),  # no obvious one
        ("my.npz:c", "'c'"),
        ("my.npy:test", ":test"),
        ("text.npz", "cannot be read"),
        ("pickled.npy", "cannot be read"),
        ("nowhere.npy", "nowhere.npy"),
        ("digits:validation", "train, test"),
        ("nothing", "digits"),
    ],
)
def test_what_cannot_be_is_named_with_what_would_be_valid(tmp_path, monkeypatch, text, named):
    monkeypatch.chdir(tmp_path)
    np.savez("my.npz", a=images(1), b=images(2))
    np.save("my.npy", images(1))
    Path("text.npz").write_text("not an archive")
    np.save("pickled.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(CommandError, match=r"^--images ") as error:
        load(text)
    assert named in str(error.value) and "\n" not in str(error.value)
