"""A data set that `save_to_disk` wrote: its splits and pixels, its identity, and the errors."""

from __future__ import annotations

import hashlib
import io
import json
import math
import shutil
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rme import data
from rme.data import _encoded
from rme.data._folder import Folder
from rme.data._hugging_face import HuggingFace

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def always_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_encoded, "LOOKING", math.inf)


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("the network was used"))


def noise(seed: int, *size: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8)


def rows(first: int, count: int, size: tuple[int, ...] = (20, 20, 3)) -> datasets.Dataset:
    """Rows with labels and PNG images of noise, seeds `first`, `first` + 1, ..."""
    columns = {"label": list(range(count)), "image": [Image.fromarray(noise(first + i, *size)) for i in range(count)]}
    features = datasets.Features({"label": datasets.Value("int64"), "image": datasets.Image()})
    return datasets.Dataset.from_dict(columns, features=features)


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def refused(path: Path) -> str:
    with pytest.raises(data.DataError) as error:
        data.get(str(path)).load(path.parent)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A DatasetDict with the splits train, test and validation."""
    path = tmp_path_factory.mktemp("hub") / "spots"
    parts = {"train": rows(0, 12), "test": rows(50, 3), "validation": rows(90, 2)}
    datasets.DatasetDict(parts).save_to_disk(path, num_shards={"train": 2, "test": 1, "validation": 1})
    return path


def test_the_splits_train_and_test(saved: Path, tmp_path: Path) -> None:
    dataset = data.get(str(saved))
    assert isinstance(dataset, HuggingFace) and dataset.users_own
    assert (dataset.name, dataset.label) == (str(saved), "spots")
    dataset.prepare(tmp_path)
    images = dataset.load(tmp_path)
    for found, first in ((images.train, 0), (images.test, 50)):
        wanted = np.stack([noise(first + i, 20, 20, 3) for i in range(len(found))])
        np.testing.assert_array_equal(found.permute(0, 2, 3, 1).numpy(), wanted)
    assert dataset.counts == (12, 3) and dataset.shape == (3, 20, 20)


def test_the_side_in_the_name(saved: Path, tmp_path: Path) -> None:
    found = data.get(f"{saved}@40").load(tmp_path).train[5].permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(found, noise(5, 20, 20, 3).repeat(2, 0).repeat(2, 1))


def test_a_single_dataset_has_the_share_by_hash(tmp_path: Path) -> None:
    given = rows(0, 60, (16, 16))
    given.save_to_disk(tmp_path / "one")
    encoded = [row["image"]["bytes"] for row in given.cast_column("image", datasets.Image(decode=False))]
    tests = [int(hashlib.sha256(content).hexdigest(), 16) % 10 == 0 for content in encoded]
    images = data.get(str(tmp_path / "one")).load(tmp_path)
    for found, part in ((images.train, False), (images.test, True)):
        wanted = [noise(i, 16, 16) for i in range(60) if tests[i] == part]
        assert wanted
        np.testing.assert_array_equal(found[:, 0].numpy(), np.stack(wanted))


def test_images_from_files_and_rows_in_another_order(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(13)]
    for i, path in enumerate(paths):
        path.write_bytes(png(noise(i, 30, 30)))
    given = datasets.Dataset.from_dict({"picture": list(map(str, paths))}).cast_column("picture", datasets.Image())
    order = [12, *range(12)]
    parts = {"train": given.select(order[:11]), "test": given.select(order[11:])}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "a")
    for path in paths:
        path.unlink()
    images = data.get(str(tmp_path / "a")).load(tmp_path)
    found = [*images.train[:, 0].numpy(), *images.test[:, 0].numpy()]
    np.testing.assert_array_equal(np.stack(found), np.stack([noise(i, 30, 30) for i in order]))


# ---------------------------------------------------------------------- identity
def test_identity_is_of_the_used_files_and_needs_no_package(saved: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    names = [f"test/{path.name}" for path in sorted((saved / "test").glob("*.arrow"))]
    names += [f"train/{path.name}" for path in sorted((saved / "train").glob("*.arrow"))]
    files = [[name, hashlib.sha256((saved / name).read_bytes()).hexdigest()] for name in names]
    assert len(files) == 3
    wanted = hashlib.sha256(json.dumps([None, files]).encode()).hexdigest()[:16]
    first = data.identity(str(saved))
    assert first == f"hugging-face-1-{wanted}"
    shutil.copytree(saved, tmp_path / "copy")
    (tmp_path / "copy" / "train" / "cache-0123.arrow").write_text("of a map that someone computed")
    (tmp_path / "copy" / "validation" / "data-00000-of-00001.arrow").write_text("not used")
    assert data.identity(str(tmp_path / "copy")) == first
    assert data.identity(f"{saved}@20") != first
    shutil.copyfile(saved / "test" / "data-00000-of-00001.arrow", tmp_path / "copy" / names[1])
    assert data.identity(str(tmp_path / "copy")) != first


# ---------------------------------------------------------------------- errors
def test_without_the_package(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.setattr(_encoded, "_layouts", {})
    shutil.copytree(saved, tmp_path / "spots")
    assert "pip install 'rme[datasets]'" in refused(tmp_path / "spots")


def test_a_missing_split_is_named(tmp_path: Path) -> None:
    datasets.DatasetDict({"train": rows(0, 12), "valid": rows(0, 2)}).save_to_disk(tmp_path / "a")
    assert "it has the splits train, valid, expected train and test" in refused(tmp_path / "a")


def test_no_or_several_image_columns(tmp_path: Path) -> None:
    without = rows(0, 12).remove_columns("image")
    datasets.DatasetDict({"train": without, "test": without}).save_to_disk(tmp_path / "a")
    assert "train has no column of images; expected exactly one Image among label (Value)" in refused(tmp_path / "a")
    mask = rows(20, 12).remove_columns("label").rename_column("image", "mask")
    two = datasets.concatenate_datasets([rows(0, 12), mask], axis=1)
    two.save_to_disk(tmp_path / "b")
    assert "it has several columns of images: image, mask" in refused(tmp_path / "b")


def test_a_row_without_an_image_or_with_a_damaged_one(tmp_path: Path) -> None:
    contents = [{"bytes": png(noise(i, 20, 20)), "path": None} for i in range(12)]
    for name, content, complaint in (
        ("a", None, "train row 7 has no image"),
        ("b", {"bytes": b"no image", "path": None}, "train row 7 cannot be read as an image"),
    ):
        given = {"image": [*contents[:7], content, *contents[8:]]}
        train = datasets.Dataset.from_dict(given, features=datasets.Features({"image": datasets.Image()}))
        datasets.DatasetDict({"train": train, "test": rows(50, 3)}).save_to_disk(tmp_path / name)
        assert complaint in refused(tmp_path / name)


def test_damaged_files_are_named(saved: Path, tmp_path: Path) -> None:
    for name, text, complaint in (
        ("dataset_dict.json", "{", "dataset_dict.json cannot be read"),
        ("dataset_dict.json", "[1]", "it has the splits none"),
        ("train/state.json", "{}", "state.json lists no data files"),
        ("test/state.json", "no json", "state.json cannot be read"),
        ("train/data-00000-of-00002.arrow", "no arrow", "cannot be read by datasets"),
    ):
        path = Path(shutil.copytree(saved, tmp_path / "a"))
        (path / name).write_text(text)
        assert complaint in refused(path)
        shutil.rmtree(path)
    path = Path(shutil.copytree(saved, tmp_path / "a"))
    (path / "train" / "data-00001-of-00002.arrow").unlink()
    assert "data-00001-of-00002.arrow cannot be read" in refused(path)


def test_too_few_images(tmp_path: Path) -> None:
    rows(0, 9).save_to_disk(tmp_path / "a")
    assert "images" in (message := refused(tmp_path / "a")) and "expected at least" in message


def test_a_folder_that_only_looks_like_it_is_a_folder_of_images(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "dataset_info.json").write_text("{}")
    assert isinstance(data.get(str(tmp_path / "a")), Folder)
