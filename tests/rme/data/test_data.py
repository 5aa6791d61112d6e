"""The data sets: their registry, their pixels, their splits, and the errors for faulty files."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import struct
import sys
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch

from rme import data
from rme.data.base import HOLD_OUT, permutation
from tests import ROOT

REAL_MNIST = ROOT.parent / "shared" / "data" / "mnist"
MNIST_FILES = {"train-images-idx3-ubyte": 60_000, "t10k-images-idx3-ubyte": 10_000}


# ---------------------------------------------------------------------- the registry
def test_the_registry_holds_the_files_of_the_folder() -> None:
    ours = {"celeba", "cifar10", "digits", "mnist", "omniglot", "omniglot-lake", "svhn"}
    assert ours <= set(data.names())
    assert data.names() == sorted(data.registry())


@pytest.mark.parametrize("name", data.names())
def test_every_data_set_fulfils_the_contract(name: str, tmp_path: Path) -> None:
    dataset = data.get(name)
    assert isinstance(dataset, data.Dataset)
    assert dataset.name == name == name.lower() == data.canonical_name(name.upper())
    assert dataset.label and data.label(name) == dataset.label
    assert isinstance(dataset.version, int) and dataset.version >= 1
    assert data.identity(name) == f"{name}-{dataset.version}"
    assert dataset.shape in {(1, 28, 28), (3, 32, 32), (3, 64, 64)}
    assert len(dataset.counts) == 2 and min(dataset.counts) > 0
    assert dataset.source.endswith(".")
    try:
        images = dataset.load(tmp_path)  # from an empty folder: needs no files, or names a missing one
    except data.DataError as error:
        assert str(tmp_path) in str(error) and dataset.source in str(error)
    else:
        assert (len(images.train), len(images.test)) == dataset.counts
        assert images.shape == dataset.shape
    assert list(tmp_path.iterdir()) == [], "load must not write or download"


@pytest.mark.parametrize("name", data.names())
def test_every_data_sets_split_has_its_split_sizes(name: str) -> None:
    dataset = data.get(name)
    images = data.Images(*(torch.zeros(count, 1, 1, 1, dtype=torch.uint8) for count in dataset.counts))
    split = dataset.split(images, seed=1)
    assert (len(split.train), len(split.validation), len(split.test)) == dataset.split_sizes
    assert len(torch.cat([split.train, split.validation]).unique()) == len(split.train) + len(split.validation)
    assert split.train.max() < dataset.counts[0] and split.test.max() < dataset.counts[1]


def test_an_unknown_name_raises_with_the_valid_ones() -> None:
    valid = r"valid values are celeba, .*digits, mnist, .*path of an \.npz file.* folder"
    message = r"unknown data set 'mnsit'; did you mean mnist\? " + valid
    for function in (data.get, data.canonical_name, data.identity, data.label):
        with pytest.raises(ValueError, match=message):
            function("mnsit")


_GOOD = """
from rme.data.base import Dataset
class Blobs(Dataset):
    name, label, version, shape, counts, source = "blobs", "Blobs", 1, (1, 28, 28), (20, 5), "Made up."
    def load(self, data_dir):
        raise NotImplementedError
"""


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (_GOOD, None),
        (_GOOD.replace('"blobs"', '"Blobs"'), r"rme/data/blobs\.py: name='Blobs' must be lower case"),
        (_GOOD.replace("label, ", "").replace('"Blobs", ', ""), r"rme/data/blobs\.py: Blobs does not declare label"),
        (_GOOD.replace("def load", "def read"), r"rme/data/blobs\.py: no Dataset subclass with a load"),
        (_GOOD + _GOOD.replace("class Blobs", "class Again"), r"name='blobs' is already used by rme\.data\.blobs"),
        ("import no_such_module", r"rme/data/blobs\.py: ModuleNotFoundError"),
    ],
)
def test_a_file_in_the_folder_is_registered_or_named(
    text: str, complaint: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "blobs.py").write_text(text)
    (tmp_path / "_helper.py").write_text("raise RuntimeError('not a data set')")
    monkeypatch.setattr(data, "__path__", [*data.__path__, str(tmp_path)])
    monkeypatch.setattr(data, "_registry", None)
    try:
        if complaint is None:
            assert data.get("BLOBS").label == "Blobs"
            assert data.identity("blobs") == "blobs-1"
        else:
            with pytest.raises(ImportError, match=complaint):
                data.registry()
    finally:
        sys.modules.pop("rme.data.blobs", None)
        vars(data).pop("blobs", None)


# ---------------------------------------------------------------------- images and splits
def _images(count: int, test: int = 5) -> data.Images:
    return data.Images(torch.zeros(count, 1, 28, 28, dtype=torch.uint8), torch.zeros(test, 1, 28, 28).byte())


def test_images_are_uint8_contiguous_and_of_one_shape() -> None:
    good = torch.zeros(4, 3, 32, 32, dtype=torch.uint8)
    assert data.Images(good, good).shape == (3, 32, 32)
    for bad in (good.float(), good[0], good.transpose(2, 3)[:, :, ::2], good[:, :1].contiguous()):
        for pair in ((good, bad), (bad, good)):
            with pytest.raises(data.DataError, match=r"expected contiguous torch\.uint8|differ in shape"):
                data.Images(*pair)


def test_images_that_differ_from_the_declaration_are_refused() -> None:
    digits = data.get("digits")
    zeros = torch.zeros(1797, 1, 28, 28, dtype=torch.uint8)
    assert digits.images(zeros[:1297], zeros[1297:]).shape == (1, 28, 28)
    for bad in ((zeros[:1296], zeros[1297:]), (zeros[:1297], zeros[1298:]), (zeros[:1297, :, 1:], zeros[1297:, :, 1:])):
        with pytest.raises(data.DataError, match=r"digits: found .* expected 1297 and 500 of shape \(1, 28, 28\)"):
            digits.images(*bad)


@pytest.mark.parametrize("count", [10, 25, 1297, 60_000])
def test_split_covers_everything_once(count: int) -> None:
    split = data.get("digits").split(_images(count), seed=3)
    assert len(split.validation) == round(0.1 * count)
    for part in (split.train, split.validation, split.test):
        assert part.dtype == torch.int64
        assert torch.equal(part, part.sort().values)
    assert sorted([*split.train.tolist(), *split.validation.tolist()]) == list(range(count))
    assert split.test.tolist() == list(range(5))


def test_split_is_fixed_by_the_seed() -> None:
    digits, images = data.get("digits"), _images(1297)
    first, again = digits.split(images, 7), digits.split(images, 7)
    assert torch.equal(first.train, again.train) and torch.equal(first.validation, again.validation)
    parts = {tuple(digits.split(images, seed).validation.tolist()) for seed in range(20)}
    assert len(parts) == 20


def test_split_is_numpys_raw_stream() -> None:
    raw = np.random.PCG64(np.random.SeedSequence([5, 1])).random_raw(200)
    in_order = sorted(range(200), key=lambda i: (int(raw[i]), i))
    split = data.get("digits").split(_images(200), seed=5)
    assert split.validation.tolist() == sorted(in_order[:20])
    assert split.train.tolist() == sorted(in_order[20:])


def test_split_never_changes() -> None:
    """If these numbers change, stored results are not comparable and interrupted sweeps cannot be resumed."""
    assert HOLD_OUT == 1
    assert permutation(10, 0, 1).tolist() == [7, 4, 5, 1, 9, 8, 6, 2, 0, 3]
    assert data.get("digits").split(_images(60), seed=0).validation.tolist() == [4, 7, 10, 18, 35, 41]


def test_permutations_differ_by_seed_and_purpose() -> None:
    orders = {tuple(permutation(50, seed, purpose).tolist()) for seed in range(4) for purpose in range(4)}
    assert len(orders) == 16
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert permutation(50, 0, 0).dtype == torch.int64


def test_too_few_images_to_hold_one_out() -> None:
    with pytest.raises(data.DataError, match=r"10% of 4 training images is none"):
        data.get("digits").split(_images(4), seed=0)


# ---------------------------------------------------------------------- digits
def test_digits_load(tmp_path: Path) -> None:
    images = data.get("digits").load(tmp_path)
    assert images.train.shape == (1297, 1, 28, 28) and images.test.shape == (500, 1, 28, 28)
    assert images.train.dtype == images.test.dtype == torch.uint8
    data.get("digits").prepare(tmp_path)


def test_digits_are_bilinear_interpolation_rounded(tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    small = torch.from_numpy(load_digits().images).unsqueeze(1).double() * 255 / 16
    expected = torch.nn.functional.interpolate(small, size=(28, 28), mode="bilinear", align_corners=False)
    images = data.get("digits").load(tmp_path)
    found = torch.cat([images.train, images.test]).double()
    assert (found - expected).abs().max() <= 0.5 + 1e-9
    assert found.min() == 0 and found.max() == 255


def test_digits_pixels_never_change(tmp_path: Path) -> None:
    """If they are changed on purpose, raise Digits.version too."""
    images = data.get("digits").load(tmp_path)
    pixels = hashlib.sha256(images.train.numpy().tobytes() + images.test.numpy().tobytes()).hexdigest()
    assert (data.get("digits").version, pixels[:16]) == (1, "28e94d53a2698536")


def test_digits_without_scikit_learn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(data.DataError, match=r"scikit-learn cannot be imported.*pip install scikit-learn"):
        data.get("digits").load(tmp_path)


# ---------------------------------------------------------------------- mnist
def _write_idx(path: Path, count: int, *, height: int = 28, size: int | None = None) -> None:
    """Write a full-size IDX file of zeros, except image 1 with pixels 0, 1, 2, ...; `size` truncates it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(struct.pack(">IIII", 0x803, count, height, 784 // height))
        file.seek(16 + 784)
        file.write((np.arange(784) % 251).astype(np.uint8).tobytes())
        file.truncate(16 + count * 784 if size is None else size)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Make torchvision's download fail as without a network. Returns the list of attempts."""
    from torchvision.datasets import MNIST

    attempts = []

    def fail(self: MNIST) -> None:
        attempts.append(self.root)
        raise URLError("Temporary failure in name resolution")

    monkeypatch.setattr(MNIST, "download", fail)
    return attempts


@pytest.fixture
def mnist_dir(tmp_path: Path) -> Path:
    for name, count in MNIST_FILES.items():
        _write_idx(tmp_path / "MNIST" / "raw" / name, count)
    return tmp_path


def test_mnist_needs_only_the_image_files(mnist_dir: Path, offline: list[str]) -> None:
    mnist = data.get("mnist")
    mnist.prepare(mnist_dir)
    images = mnist.load(mnist_dir)
    assert images.train.shape == (60_000, 1, 28, 28) and images.test.shape == (10_000, 1, 28, 28)
    expected = torch.arange(784) % 251
    for part in (images.train, images.test):
        assert torch.equal(part[1].flatten().long(), expected)
        assert part.sum(dtype=torch.int64) == expected.sum()
    assert offline == []


@pytest.mark.parametrize("name", MNIST_FILES)
def test_mnist_packed_files_are_unpacked_without_a_network(name: str, mnist_dir: Path, offline: list[str]) -> None:
    file = mnist_dir / "MNIST" / "raw" / name
    content = file.read_bytes()
    file.with_name(f"{name}.gz").write_bytes(gzip.compress(content, compresslevel=1))
    file.unlink()
    with pytest.raises(data.DataError, match="missing"):
        data.get("mnist").load(mnist_dir)
    assert not file.exists(), "load must not unpack, because many workers call it at once"
    data.get("mnist").prepare(mnist_dir)
    assert file.read_bytes() == content
    assert not list(file.parent.glob("*.part")) and offline == []


def test_mnist_error_says_where_to_get_the_files_if_the_download_fails(tmp_path: Path, offline: list[str]) -> None:
    with pytest.raises(data.DataError) as caught:
        data.get("mnist").prepare(tmp_path)
    message = str(caught.value)
    assert offline == [tmp_path]
    for part in (
        str(tmp_path / "MNIST" / "raw"), "train-images-idx3-ubyte.gz", "t10k-images-idx3-ubyte.gz",
        "https://ossci-datasets.s3.amazonaws.com/mnist/", "https://yann.lecun.com/exdb/mnist/",
        "unpacked", "train-labels-idx1-ubyte", "t10k-labels-idx1-ubyte", "Temporary failure in name resolution",
    ):  # fmt: skip
        assert part in message


def test_mnist_damaged_packed_file_is_named_and_downloaded_again(mnist_dir: Path, offline: list[str]) -> None:
    file = mnist_dir / "MNIST" / "raw" / "t10k-images-idx3-ubyte"
    packed = gzip.compress(file.read_bytes(), compresslevel=1)
    file.unlink()
    for damaged in (
        packed[:1000], b"<html>log in first</html>", b"", gzip.compress(b"something else"),
        packed[:500] + b"\xff" * 100 + packed[600:],
    ):  # fmt: skip
        file.with_name(f"{file.name}.gz").write_bytes(damaged)
        with pytest.raises(data.DataError) as caught:
            data.get("mnist").prepare(mnist_dir)
        message = str(caught.value)
        assert f"MNIST: {file.name} missing in {file.parent}; {file}.gz cannot be unpacked (" in message
        assert "the download failed" in message
        assert not file.exists() and not list(file.parent.glob("*.part"))
    assert len(offline) == 5


def test_mnist_is_downloaded_by_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import MNIST

    def download(self: MNIST) -> None:
        for name, count in MNIST_FILES.items():
            _write_idx(Path(self.raw_folder) / name, count)
            labels = Path(self.raw_folder) / name.replace("images-idx3", "labels-idx1")
            labels.write_bytes(struct.pack(">II", 0x801, count) + bytes(count))

    monkeypatch.setattr(MNIST, "download", download)
    data.get("mnist").prepare(tmp_path)
    assert len(data.get("mnist").load(tmp_path).test) == 10_000


@pytest.mark.parametrize("name", MNIST_FILES)
def test_mnist_missing_file(name: str, mnist_dir: Path) -> None:
    file = mnist_dir / "MNIST" / "raw" / name
    file.unlink()
    with pytest.raises(data.DataError, match=rf"{file} is missing; expected .*Put train-images"):
        data.get("mnist").load(mnist_dir)


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        ("train-images-idx3-ubyte", 16 + 59_999 * 784, "47,040,016"),
        ("train-images-idx3-ubyte", 0, "47,040,016"),
        ("t10k-images-idx3-ubyte", 7_840_015, "7,840,016"),
        ("t10k-images-idx3-ubyte", 7_840_017, "7,840,016"),
    ],
)
def test_mnist_file_of_another_size(name: str, size: int, expected: str, mnist_dir: Path) -> None:
    file = mnist_dir / "MNIST" / "raw" / name
    _write_idx(file, MNIST_FILES[name], size=size)
    for attempt in (data.get("mnist").load, data.get("mnist").prepare):
        with pytest.raises(data.DataError, match=rf"{file} has {size:,} bytes, expected {expected} bytes"):
            attempt(mnist_dir)


def test_mnist_file_of_another_shape(mnist_dir: Path) -> None:
    file = mnist_dir / "MNIST" / "raw" / "train-images-idx3-ubyte"
    _write_idx(file, 60_000, height=14)
    with pytest.raises(data.DataError, match=rf"{file} starts with 000008030000ea600000000e00000038, expected 0000"):
        data.get("mnist").load(mnist_dir)


@pytest.mark.skipif(not REAL_MNIST.is_dir(), reason=f"the real MNIST files are not in {REAL_MNIST}")
def test_real_mnist(tmp_path: Path, offline: list[str]) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for archive in REAL_MNIST.glob("*-ubyte.gz"):
        shutil.copyfile(archive, raw / archive.name)
    mnist = data.get("mnist")
    mnist.prepare(tmp_path)
    images = mnist.load(tmp_path)
    assert (len(images.train), len(images.test)) == mnist.counts == (60_000, 10_000)
    for part, name in ((images.train, "train"), (images.test, "t10k")):
        with gzip.open(REAL_MNIST / f"{name}-images-idx3-ubyte.gz") as file:
            assert part.numpy().tobytes() == file.read()[16:]
    # the well-known mean and standard deviation for normalising MNIST
    values, counts = np.arange(256) / 255, np.bincount(images.train.numpy().ravel(), minlength=256)
    mean = np.average(values, weights=counts)
    deviation = np.sqrt(np.average((values - mean) ** 2, weights=counts))
    assert (round(mean, 4), round(deviation, 4)) == (0.1307, 0.3081)
    assert offline == []


# ---------------------------------------------------------------------- .npz files
def _arrays(size: tuple[int, ...] = (28, 28), train: int = 20, test: int = 5) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        name: rng.integers(0, 256, (count, *size), dtype=np.uint8) for name, count in (("train", train), ("test", test))
    }


@pytest.mark.parametrize(
    "size", [(28, 28), (28, 28, 1), (32, 32, 3), (64, 64, 3), (16, 16), (128, 128, 3), (37, 37, 1)]
)
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_loads(size: tuple[int, ...], save, tmp_path: Path) -> None:
    path, arrays = tmp_path / "blobs.npz", _arrays(size)
    save(path, **arrays)
    dataset = data.get(str(path))
    dataset.prepare(tmp_path / "elsewhere")
    images = dataset.load(tmp_path / "elsewhere")
    channels = size[2] if len(size) == 3 else 1
    assert images.shape == dataset.shape == (channels, size[0], size[1])
    assert dataset.counts == (20, 5)
    for name, part in (("train", images.train), ("test", images.test)):
        assert part.is_contiguous() and part.dtype == torch.uint8
        last = arrays[name][..., -1] if len(size) == 3 else arrays[name]
        assert np.array_equal(part[:, -1].numpy(), last)
    split = dataset.split(images, seed=0)
    assert (len(split.train), len(split.validation), len(split.test)) == dataset.split_sizes == (18, 2, 5)


def test_npz_in_fortran_order(tmp_path: Path) -> None:
    arrays = _arrays((32, 32, 3))
    np.savez(tmp_path / "f.npz", **{name: np.asfortranarray(array) for name, array in arrays.items()})
    images = data.get(str(tmp_path / "f.npz")).load(tmp_path)
    assert images.train[3, 2, 1, 7] == arrays["train"][3, 1, 7, 2]


def test_npz_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    absolute = str(tmp_path.resolve() / "sub" / "My Blobs.npz")  # does not exist yet
    assert data.canonical_name("sub/../sub/My Blobs.npz") == data.canonical_name(absolute) == absolute
    assert data.label("sub/My Blobs.npz") == "My Blobs"
    assert data.get(absolute).name == absolute
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data.canonical_name("~/sub/My Blobs.npz") == absolute


def test_npz_identity_depends_on_the_content_not_the_path(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, **_arrays())
    first = data.identity(str(path))
    assert first == f"npz-1-{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"
    (tmp_path / "sub").mkdir()
    moved = path.rename(tmp_path / "sub" / "b.npz")
    assert data.identity(str(moved)) == first
    os.utime(moved, ns=(1, 1))
    assert data.identity(str(moved)) == first
    changed = _arrays()
    changed["test"][0, 0, 0] ^= 1
    np.savez(moved, **changed)
    assert data.identity(str(moved)) != first


def test_npz_identity_is_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, **_arrays())
    first = data.identity(str(path))
    monkeypatch.setattr(hashlib, "file_digest", lambda *_: pytest.fail("hashed again"))
    assert data.identity(str(path)) == first


def test_npz_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "no.npz"
    dataset = data.get(str(path))
    for attempt in (
        lambda: data.identity(str(path)), lambda: dataset.load(tmp_path), lambda: dataset.prepare(tmp_path),
        lambda: dataset.shape, lambda: dataset.counts,
    ):  # fmt: skip
        with pytest.raises(data.DataError, match=r"no\.npz: file not found.*numpy\.savez"):
            attempt()


def _with(**changed: np.ndarray) -> dict[str, np.ndarray]:
    return {**_arrays(), **changed}


_OBJECTS = np.empty(20, dtype=object)
_BYTES = np.zeros((20, 28, 28), dtype=np.uint8)


@pytest.mark.parametrize(
    ("arrays", "complaint"),
    [
        ({"train": _BYTES}, "no array 'test'; expected train and test"),
        ({"test": _BYTES, "x": _BYTES}, "no array 'train'; expected train and test"),
        (_with(train=_BYTES.astype(np.float32)), "train is of dtype float32, expected uint8"),
        (_with(test=_BYTES.astype(np.int8)), "test is of dtype int8, expected uint8"),
        (_with(train=_OBJECTS), r"cannot be read \(Object arrays cannot be loaded"),
        (_with(train=_BYTES.reshape(20, 784)), r"train has 2 axes, shape \(20, 784\); expected N x H x W"),
        (_with(test=np.uint8(3)), r"test has 0 axes, shape \(\); expected N x H x W"),
        (_with(test=_BYTES[..., None, None]), "test has 5 axes"),
        (_with(train=_BYTES[:, 1:]), "train has images of 27x28.*square, 16x16 to 128x128"),
        (_with(test=_BYTES[:, None]), "test has images of 1x28x28.*square, 16x16 to 128x128"),
        (_arrays((15, 15)), "train has images of 15x15.*square, 16x16 to 128x128"),
        (_arrays((129, 129, 3)), "train has images of 129x129x3.*square, 16x16 to 128x128"),
        (_arrays((28, 28, 2)), r"train has images of 28x28x2.*1 channel\) or colour \(3 channels"),
        (_arrays(train=0), "train has 0 images, expected at least 10"),
        (_arrays(train=9), "train has 9 images, expected at least 10, since 10% are held out"),
        (_arrays(test=0), "test has 0 images, expected at least 1"),
        (_with(test=_arrays((32, 32, 3))["test"]), "train has images of 28x28, test of 32x32x3; expected the same"),
    ],
)
def test_npz_of_wrong_content(arrays: dict[str, np.ndarray], complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.npz"
    np.savez(path, **arrays)
    with pytest.raises(data.DataError, match=rf"^{path}: {complaint}"):
        data.get(str(path)).load(tmp_path)


def test_npz_with_the_minimum_of_images(tmp_path: Path) -> None:
    np.savez(tmp_path / "few.npz", **_arrays(train=10, test=1))
    dataset = data.get(str(tmp_path / "few.npz"))
    assert len(dataset.split(dataset.load(tmp_path), seed=0).validation) == 1


def test_npz_damaged(tmp_path: Path) -> None:
    path = tmp_path / "bad.npz"
    np.savez_compressed(path, **_arrays())
    good = path.read_bytes()
    half = len(good) // 2
    magic = good.replace(b"PK\x03\x04", b"PK\x00\x00")
    flipped = good[:half] + bytes(byte ^ 255 for byte in good[half : half + 64]) + good[half + 64 :]
    for damaged in (b"", b"PK", b"not a zip", good[:half], good[:-10], good[half:], magic, flipped):
        path.write_bytes(damaged)
        with pytest.raises(data.DataError, match=rf"^{path}: (not an \.npz file|cannot be read)"):
            data.get(str(path)).load(tmp_path)


def test_npz_that_is_something_else(tmp_path: Path) -> None:
    with (tmp_path / "array.npz").open("wb") as file:
        np.save(file, _BYTES)
    (tmp_path / "folder.npz").mkdir()
    shutil.make_archive(str(tmp_path / "plain"), "zip", _folder_with(tmp_path / "plain", "train.npy", "test.npy"))
    (tmp_path / "plain.zip").rename(tmp_path / "plain.npz")
    for name, complaint in (
        ("array.npz", "not an .npz file"), ("folder.npz", "file not found"), ("plain.npz", "cannot be read"),
    ):  # fmt: skip
        with pytest.raises(data.DataError, match=rf"{name}: {complaint}"):
            data.get(str(tmp_path / name)).load(tmp_path)


def _folder_with(folder: Path, *names: str) -> Path:
    folder.mkdir()
    for name in names:
        (folder / name).write_text("no array")
    return folder
