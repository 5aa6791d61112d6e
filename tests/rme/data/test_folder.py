"""A folder of images: which files are used for what, their pixels, the identity, the cache, and the errors."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

import rme
from rme import RunSpec, data
from rme.data import _encoded, _folder
from rme.data._encoded import is_test, without_side
from rme.data._folder import Folder


@pytest.fixture(autouse=True)
def always_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise `identity` need not notice a change within some milliseconds."""
    monkeypatch.setattr(_encoded, "LOOKING", math.inf)


def noise(seed: int, *size: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8)


def write(path: Path, pixels: np.ndarray, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def fill(folder: Path, train: int = 10, test: int = 2, size: tuple[int, ...] = (20, 20)) -> dict[str, np.ndarray]:
    """Write PNG files into train and test; their pixels by relative name."""
    names = [f"train/{i:02}.png" for i in range(train)] + [f"test/{i:02}.png" for i in range(test)]
    found = {name: noise(seed, *size) for seed, name in enumerate(names)}
    for name, pixels in found.items():
        write(folder / name, pixels)
    return found


def loaded(folder: Path | str, data_dir: Path) -> data.Images:
    return data.get(str(folder)).load(data_dir)


def refused(folder: Path | str, data_dir: Path) -> str:
    with pytest.raises(data.DataError) as error:
        loaded(folder, data_dir)
    assert "\n" not in str(error.value)
    return str(error.value)


# ---------------------------------------------------------------------- which files
def test_train_and_test_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    pixels = fill(tmp_path / "a")
    dataset = data.get(str(tmp_path / "a"))
    assert isinstance(dataset, Folder) and dataset.users_own
    images = dataset.load(tmp_path / "cache")
    train = [pixels[name] for name in sorted(pixels) if name.startswith("train")]
    test = [pixels[name] for name in sorted(pixels) if name.startswith("test")]
    np.testing.assert_array_equal(images.train[:, 0].numpy(), np.stack(train))
    np.testing.assert_array_equal(images.test[:, 0].numpy(), np.stack(test))
    assert dataset.shape == images.shape == (1, 20, 20) and dataset.counts == (10, 2)
    assert dataset.split_sizes == (9, 1, 2)


def test_all_folders_below_are_searched_and_links_followed(tmp_path: Path) -> None:
    fill(tmp_path / "a")
    for i, name in enumerate(("train/cats/1/x.PNG", "train/dogs/y.bmp", "test/cats/z.webp")):
        write(tmp_path / "a" / name, noise(100 + i, 20, 20, 3), **({"lossless": True} if name.endswith("webp") else {}))
    write(tmp_path / "elsewhere" / "w.png", noise(200, 20, 20))
    (tmp_path / "a" / "train" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "a" / "train" / "round").symlink_to(tmp_path / "a" / "train")
    for name in ("notes.txt", "train/.hidden.png", "train/.cache/b.png", "more/c.png"):
        write(tmp_path / "a" / Path(name).with_suffix(".png"), noise(0, 5, 5))
        (tmp_path / "a" / Path(name).with_suffix(".png")).rename(tmp_path / "a" / name)
    assert data.get(str(tmp_path / "a")).counts == (13, 3)


def test_without_train_and_test_the_hash_of_a_file_decides(tmp_path: Path) -> None:
    for i in range(60):
        write(tmp_path / "a" / str(i % 3) / f"{i}.png", noise(i, 16, 16))
    files = sorted((tmp_path / "a").rglob("*.png"), key=lambda path: path.relative_to(tmp_path / "a").as_posix())
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
    wanted = [[p for p, d in zip(files, digests, strict=True) if (int(d, 16) % 10 == 0) == part] for part in (0, 1)]
    images = loaded(tmp_path / "a", tmp_path)
    for found, paths in zip((images.train, images.test), wanted, strict=True):
        assert paths
        np.testing.assert_array_equal(found[:, 0].numpy(), np.stack([np.asarray(Image.open(p)) for p in paths]))


@given(seed=st.integers(0, 2**32), kept=st.floats(0, 1))
def test_an_image_s_side_does_not_depend_on_the_others(seed: int, kept: float) -> None:
    g = np.random.default_rng(seed)
    digests = [g.bytes(32).hex() for _ in range(50)]

    def sides(chosen: list[str]) -> dict[str, bool]:
        files = [_encoded.File(f"{i}.png", Path(f"{i}.png"), digest) for i, digest in enumerate(chosen)]
        pictures = Folder("/nowhere/at/all").pictures(files)
        return {digest: picture.test for digest, picture in zip(chosen, pictures, strict=True)}

    everything = sides(digests)
    fewer = sides([digest for digest in reversed(digests) if g.random() < kept])
    assert fewer.items() <= everything.items()


def test_the_share_is_a_tenth() -> None:
    count = sum(is_test(hashlib.sha256(str(i).encode()).hexdigest()) for i in range(20_000))
    assert abs(count - 2000) < 4 * math.sqrt(20_000 * 0.1 * 0.9)


def test_equal_files_are_on_one_side(tmp_path: Path) -> None:
    for i in range(40):
        first = write(tmp_path / "a" / f"{i}.png", noise(i, 16, 16))
        shutil.copyfile(first, tmp_path / "a" / f"copy of {i}.png")
    images = loaded(tmp_path / "a", tmp_path)
    sides = [{image.numpy().tobytes() for image in part} for part in (images.train, images.test)]
    assert not sides[0] & sides[1] and len(sides[0] | sides[1]) == 40


# ---------------------------------------------------------------------- pixels
@pytest.mark.parametrize("size", [(16, 16), (37, 37, 3), (128, 128)])
def test_equal_squares_are_used_as_they_are(size: tuple[int, ...], tmp_path: Path) -> None:
    pixels = fill(tmp_path / "a", size=size)
    images = loaded(tmp_path / "a", tmp_path)
    found = images.train.permute(0, 2, 3, 1).numpy().reshape(10, *size)
    np.testing.assert_array_equal(found, np.stack([pixels[name] for name in sorted(pixels) if "train" in name]))


def means(pixels: np.ndarray, side: int) -> np.ndarray:
    """The central square's means over the pixels whose centres each of side x side areas covers, (side, side, C)."""
    height, width = pixels.shape[:2]
    square = min(height, width)
    top, left = (height - square) // 2, (width - square) // 2
    whole = pixels[top : top + square, left : left + square].reshape(square, square, -1).astype(float)
    centres, edges = (np.arange(square) + 0.5) * side, np.arange(side + 1) * square
    covers = (edges[:-1, None] < centres) & (centres < edges[1:, None])
    weights = covers / covers.sum(1, keepdims=True)
    return np.stack([weights @ channel @ weights.T for channel in whole.transpose(2, 0, 1)], -1)


@pytest.mark.parametrize(
    ("sizes", "side"),
    [
        ([(28, 31), (90, 44)], 28), ([(64, 70), (128, 128)], 64), ([(192, 192)], 64), ([(32, 33), (97, 96)], 32),
        ([(16, 99), (48, 48)], 16),
    ],
)  # fmt: skip
def test_images_of_other_sizes_are_the_central_square_s_means_over_areas(sizes, side: int, tmp_path: Path) -> None:
    pixels = [noise(i, *sizes[i % len(sizes)], 3) for i in range(12)]
    for i, each in enumerate(pixels):
        write(tmp_path / "a" / ("test" if i > 9 else "train") / f"{i:02}.png", each)
    images = loaded(tmp_path / "a", tmp_path)
    assert images.shape == (3, side, side)
    # with these sizes no pixel's centre is on the border of two areas
    for found, each in zip([*images.train, *images.test], pixels, strict=True):
        # Pillow rounds twice, after the columns and after the rows
        np.testing.assert_allclose(found.permute(1, 2, 0).numpy(), means(each, side), atol=1.01)


def test_resizing_is_pillow_s_box(tmp_path: Path) -> None:
    fill(tmp_path / "a", size=(50, 41, 3))
    images = loaded(f"{tmp_path / 'a'}@23", tmp_path)
    for found, path in zip(images.train, sorted((tmp_path / "a" / "train").iterdir()), strict=True):
        whole = Image.open(path)
        wanted = whole.crop((0, 4, 41, 45)).resize((23, 23), Image.Resampling.BOX)
        np.testing.assert_array_equal(found.permute(1, 2, 0).numpy(), np.asarray(wanted))


def test_the_side_in_the_name_also_changes_images_of_one_size(tmp_path: Path) -> None:
    pixels = fill(tmp_path / "a", size=(40, 40))
    half, same, double = (loaded(f"{tmp_path / 'a'}@{side}", tmp_path) for side in (20, 40, 80))
    first = pixels["train/00.png"]
    np.testing.assert_allclose(half.train[0, 0].numpy(), means(first, 20)[..., 0], atol=1.01)
    np.testing.assert_array_equal(same.train[0, 0].numpy(), first)
    np.testing.assert_array_equal(double.train[0, 0].numpy(), first.repeat(2, 0).repeat(2, 1))


def one(tmp_path: Path, name: str, save, size: tuple[int, ...] = (20, 20)) -> data.Images:
    """The images of a folder of grey noise and one more, which `save` writes at a path; it is the last in train."""
    fill(tmp_path / "a", size=size)
    save(tmp_path / "a" / "train" / f"z{name}")
    return loaded(tmp_path / "a", tmp_path)


def test_grey_in_three_channels_is_grey_and_one_coloured_pixel_is_colour(tmp_path: Path) -> None:
    grey = noise(0, 20, 20, 1).repeat(3, 2)
    images = one(tmp_path, ".png", lambda path: write(path, grey))
    assert images.shape == (1, 20, 20)
    np.testing.assert_array_equal(images.train[-1, 0].numpy(), grey[..., 0])
    grey[3, 4, 1] ^= 1
    images = one(tmp_path, ".png", lambda path: write(path, grey))
    assert images.shape == (3, 20, 20)
    np.testing.assert_array_equal(images.train[-1].permute(1, 2, 0).numpy(), grey)
    assert torch.equal(images.train[0, 0], images.train[0, 2]), "a grey image has three equal channels"


def test_transparency_is_on_white(tmp_path: Path) -> None:
    pixels = noise(0, 20, 20, 4)
    pixels[..., 3] = np.arange(400).reshape(20, 20) % 256
    images = one(tmp_path, ".png", lambda path: write(path, pixels))
    alpha = pixels[..., 3:] / 255
    wanted = alpha * pixels[..., :3] + (1 - alpha) * 255
    np.testing.assert_allclose(images.train[-1].permute(1, 2, 0).numpy(), wanted, atol=1.01)
    assert (images.train[-1][:, pixels[..., 3] == 0] == 255).all()


def test_palettes_bilevel_images_and_a_transparent_colour_are_decoded(tmp_path: Path) -> None:
    pixels = noise(0, 20, 20, 3) // 128 * 255  # at most 8 colours
    palette = Image.fromarray(pixels).quantize(8)
    images = one(tmp_path, ".gif", palette.save)
    np.testing.assert_array_equal(images.train[-1].permute(1, 2, 0).numpy(), np.asarray(palette.convert("RGB")))
    two = noise(1, 20, 20) > 127
    images = one(tmp_path / "b", ".png", lambda path: Image.fromarray(two).save(path))
    np.testing.assert_array_equal(images.train[-1, 0].numpy(), two * 255)
    grey = noise(2, 20, 20)
    images = one(tmp_path / "c", ".png", lambda path: Image.fromarray(grey).save(path, transparency=int(grey[0, 0])))
    np.testing.assert_array_equal(images.train[-1, 0].numpy(), np.where(grey == grey[0, 0], 255, grey))


def test_an_image_is_turned_as_its_exif_tells(tmp_path: Path) -> None:
    pixels = noise(0, 20, 20)
    exif = Image.Exif()
    exif[0x0112] = 6  # the first row is the right-hand side
    images = one(tmp_path, ".png", lambda path: Image.fromarray(pixels).save(path, exif=exif))
    np.testing.assert_array_equal(images.train[-1, 0].numpy(), np.rot90(pixels, -1))
    with Image.open(tmp_path / "a" / "train" / "z.png") as image:
        np.testing.assert_array_equal(images.train[-1, 0].numpy(), np.asarray(ImageOps.exif_transpose(image)))


# ---------------------------------------------------------------------- names
def test_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    absolute = str(tmp_path.resolve() / "sub" / "My photos")  # does not exist yet
    for name in ("sub/My photos", "./sub/../sub/My photos/", absolute, Path(absolute).as_posix()):
        assert data.canonical_name(name) == absolute
        assert data.label(name) == "My photos"
    assert data.canonical_name("sub/My photos@48") == f"{absolute}@48" == data.canonical_name(f"{absolute}@48")
    assert data.label(f"{absolute}@48") == "My photos@48"
    with pytest.raises(ValueError, match=r"unknown data set 'sub'; valid values are .*\.npz file.*folder"):
        data.get("sub")
    (tmp_path / "sub").mkdir()
    assert data.canonical_name("sub@32") == f"{tmp_path.resolve() / 'sub'}@32"
    (tmp_path / "mnist").mkdir()
    assert data.canonical_name("mnist") == "mnist"
    assert data.canonical_name("./mnist") == str(tmp_path.resolve() / "mnist")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data.canonical_name("~/sub/My photos") == absolute


@pytest.mark.parametrize("side", [0, 15, 129, 10**30])
def test_a_side_that_no_network_has_is_refused(side: int) -> None:
    with pytest.raises(data.DataError, match=rf"/photos@{side}: .*valid values are 16\.\.128"):
        data.get(f"/photos@{side}")


@given(st.text(max_size=12))
def test_any_name_is_a_data_set_or_refused(name: str) -> None:
    try:
        found = data.get(f"/no such folder/{name}")
    except ValueError as error:
        assert "/no such folder" in str(error)
        return
    assert data.get(found.name).name == found.name and found.label
    if isinstance(found, Folder):
        with pytest.raises(data.DataError):
            _ = found.identity


def test_without_side() -> None:
    assert without_side("a@48") == ("a", 48)
    assert without_side("a@b") == ("a@b", None)
    assert without_side("@48") == ("@48", None)
    assert without_side("a@16@128") == ("a@16", 128)


def test_a_run_needs_the_folder_only_for_its_key(tmp_path: Path) -> None:
    spec = RunSpec(method="vae", dataset=str(tmp_path / "photos"), dim=2)
    assert spec.dataset == str(tmp_path / "photos") and spec.run_name.startswith("photos d2 VAE")
    with pytest.raises(data.DataError, match=r"photos: folder not found\. .*\.npz file"):
        _ = spec.key
    fill(tmp_path / "photos")
    assert spec.canonical["dataset"] == data.identity(spec.dataset)


# ---------------------------------------------------------------------- identity
def test_identity_depends_on_names_content_and_side_only(tmp_path: Path) -> None:
    pixels = fill(tmp_path / "a")
    first = data.identity(str(tmp_path / "a"))
    files = [[name, hashlib.sha256((tmp_path / "a" / name).read_bytes()).hexdigest()] for name in sorted(pixels)]
    wanted = hashlib.sha256(json.dumps([None, files]).encode()).hexdigest()[:16]
    assert first == f"folder-1-{wanted}"
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    os.utime(tmp_path / "b" / "train" / "00.png", ns=(1, 1))
    (tmp_path / "b" / "notes.txt").write_text("not an image")
    assert data.identity(str(tmp_path / "b")) == first
    found = {first, data.identity(f"{tmp_path / 'a'}@20"), data.identity(f"{tmp_path / 'a'}@28")}
    (tmp_path / "b" / "train" / "00.png").rename(tmp_path / "b" / "train" / "zz.png")
    found.add(data.identity(str(tmp_path / "b")))
    write(tmp_path / "b" / "train" / "00.png", pixels["train/00.png"])
    found.add(data.identity(str(tmp_path / "b")))
    (tmp_path / "b" / "test" / "00.png").unlink()
    found.add(data.identity(str(tmp_path / "b")))
    assert len(found) == 6


def test_a_file_is_read_again_only_if_it_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "a")
    first = data.identity(str(tmp_path / "a"))
    hashed: list[Path] = []
    real = _encoded._digest
    monkeypatch.setattr(_encoded, "_digest", lambda path: hashed.append(path) or real(path))
    assert data.identity(str(tmp_path / "a")) == first and hashed == []
    write(tmp_path / "a" / "train" / "00.png", noise(77, 20, 20))
    assert data.identity(str(tmp_path / "a")) != first
    assert hashed == [tmp_path / "a" / "train" / "00.png"]


def test_identity_looks_at_the_files_for_a_small_part_of_the_time(tmp_path: Path, monkeypatch) -> None:
    """Here, once in a million seconds; but who loads the images gets what the folder has, and then so does identity."""
    fill(tmp_path / "a")
    monkeypatch.setattr(_encoded, "LOOKING", 1e-12)
    name = str(tmp_path / "a")
    first = data.identity(name)
    looks: list[object] = []
    real = _folder.Folder.paths
    monkeypatch.setattr(_folder.Folder, "paths", lambda self: looks.append(self) or real(self))
    assert {data.identity(name) for _ in range(1000)} == {first} and looks == []
    write(tmp_path / "a" / "train" / "more.png", noise(77, 20, 20))
    assert data.identity(name) == first
    assert len(loaded(name, tmp_path).train) == 11
    assert data.identity(name) != first


# ---------------------------------------------------------------------- the cache
def test_prepared_images_are_only_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "a", size=(33, 40))
    dataset = data.get(str(tmp_path / "a"))
    dataset.prepare(tmp_path / "cache")
    monkeypatch.setattr(Image, "open", lambda *_: pytest.fail("an image was opened"))
    images = dataset.load(tmp_path / "cache")
    pixels = (tmp_path / "cache" / "own" / dataset.identity / "images.u8").read_bytes()
    assert pixels == images.train.numpy().tobytes() + images.test.numpy().tobytes()
    monkeypatch.setattr(_encoded, "_layouts", {})  # as in another process
    again = data.get(dataset.name).load(tmp_path / "cache")
    assert torch.equal(again.train, images.train) and again.train.is_contiguous() and again.test.is_contiguous()


def test_a_damaged_cache_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "a")
    dataset = data.get(str(tmp_path / "a"))
    wanted = dataset.load(tmp_path).train.clone()
    folder = tmp_path / "own" / dataset.identity
    with (folder / "images.u8").open("r+b") as file:
        file.write(b"\0" * 300)
    assert not torch.equal(dataset.load(tmp_path).train, wanted), "load checks the size only"
    dataset.prepare(tmp_path)
    assert torch.equal(dataset.load(tmp_path).train, wanted)
    for text in ("", "[]", "{}", '{"side": 1.5, "channels": 1, "train": 10, "test": 2}'):
        (folder / "layout.json").write_text(text)
        (folder / "manifest.json").unlink()
        monkeypatch.setattr(_encoded, "_layouts", {})
        assert torch.equal(dataset.load(tmp_path).train, wanted)


def test_changed_images_get_another_cache_and_a_loaded_one_stays(tmp_path: Path) -> None:
    fill(tmp_path / "a")
    before = loaded(tmp_path / "a", tmp_path)
    pixels = before.train.clone()
    write(tmp_path / "a" / "train" / "00.png", noise(99, 20, 20))
    after = loaded(tmp_path / "a", tmp_path)
    assert torch.equal(before.train, pixels)
    assert torch.equal(after.train[1:], pixels[1:]) and not torch.equal(after.train[0], pixels[0])


# ---------------------------------------------------------------------- a training
@pytest.mark.long(seconds=3)
def test_a_training_on_odd_colour_images_with_the_convolutional_decoder(tmp_path: Path) -> None:
    fill(tmp_path / "photos", train=20, test=3, size=(37, 37, 3))
    spec = RunSpec(
        method="vae", dataset=str(tmp_path / "photos"), dim=2, epochs=1, restarts=1, batch_size=9, iwae_samples=2
    )
    result = rme.fit(spec, data_dir=tmp_path, device="cpu")
    assert result.test_iwae.isfinite().all() and len(result.test_iwae) == 3
    assert result.samples.shape[1:] == (3, 37, 37) and result.spec.key == spec.key
    last = result.models[0]["decoder.mean.9.weight"]
    assert last.shape == (32, 3, 4, 4), "two linear layers, then transposed convolutions"


# ---------------------------------------------------------------------- errors
def test_a_folder_that_is_missing_or_none(tmp_path: Path) -> None:
    assert f"{tmp_path / 'a'}: folder not found" in refused(tmp_path / "a", tmp_path)
    (tmp_path / "b").write_text("x")
    assert f"{tmp_path / 'b'}: not a folder" in refused(tmp_path / "b", tmp_path)
    (tmp_path / "c").mkdir()
    assert f"{tmp_path / 'c'}: no image found" in refused(tmp_path / "c", tmp_path)
    assert "x" * 300 in refused(tmp_path / ("x" * 300), tmp_path)
    fill(tmp_path / "d", test=0)
    assert "a folder train but no folder test" in refused(tmp_path / "d", tmp_path)


def test_too_few_images(tmp_path: Path) -> None:
    fill(tmp_path / "a", train=9)
    assert "train has 9 images, expected at least 10" in refused(tmp_path / "a", tmp_path)
    for name, pixels in fill(tmp_path / "b", train=40).items():
        write(tmp_path / "c" / Path(name).name, pixels)
    tests = [path for path in (tmp_path / "c").iterdir() if is_test(hashlib.sha256(path.read_bytes()).hexdigest())]
    for path in tests:
        path.unlink()
    assert (
        "test has 0 images" in (message := refused(tmp_path / "c", tmp_path)) and "by their content's hash" in message
    )


@pytest.mark.parametrize(
    ("name", "save", "complaint"),
    [
        ("deep.png", lambda path: Image.fromarray(np.zeros((20, 20), np.uint16)).save(path), "has 16-bit pixels"),
        ("deep.tif", lambda path: Image.fromarray(np.zeros((20, 20), np.float32)).save(path), "has 32-bit pixels"),
        ("text.png", lambda path: path.write_text("no image"), "cannot be read as an image"),
        ("empty.jpg", lambda path: path.write_bytes(b""), "cannot be read as an image"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(name: str, save, complaint: str, tmp_path: Path) -> None:
    fill(tmp_path / "a")
    save(tmp_path / "a" / "train" / name)
    assert f"{tmp_path / 'a' / 'train' / name} {complaint}" in refused(tmp_path / "a", tmp_path)


def test_a_16_bit_colour_png_is_refused(tmp_path: Path) -> None:
    """Pillow would read 8 bits of it. The file is written out, as Pillow writes none."""
    import struct
    import zlib

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"".join(b"\0" + bytes(20 * 3 * 2) for _ in range(20))
    fill(tmp_path / "a")
    path = tmp_path / "a" / "test" / "deep.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 20, 20, 16, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )  # fmt: skip
    assert Image.open(path).mode == "RGB"
    assert f"{path} has 16-bit pixels, expected 8 bits a channel" in refused(tmp_path / "a", tmp_path)


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    fill(tmp_path / "a", size=(40, 40, 3))
    path = tmp_path / "a" / "train" / "05.png"
    path.write_bytes(path.read_bytes()[:-2000])
    assert str(path) in refused(tmp_path / "a", tmp_path)
    write(path, noise(5, 40, 40, 3))
    assert len(loaded(tmp_path / "a", tmp_path).train) == 10


def test_images_smaller_than_any_network_takes_name_the_smallest(tmp_path: Path) -> None:
    fill(tmp_path / "a")
    write(tmp_path / "a" / "train" / "tiny.png", noise(0, 15, 30))
    message = refused(tmp_path / "a", tmp_path)
    assert "tiny.png has 30x15 pixels" in message and f"{tmp_path / 'a'}@16" in message
    assert loaded(f"{tmp_path / 'a'}@16", tmp_path).shape == (1, 16, 16)


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    fill(tmp_path / "a")
    (tmp_path / "file").write_text("")
    message = refused(tmp_path / "a", tmp_path / "file")
    assert str(tmp_path / "file" / "own") in message and "cannot be written" in message
