"""The file formats of OMNIGLOT, CIFAR10, SVHN and CelebA: small files in their real layout, intact and damaged."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from rme import data
from rme.data import _cache, celeba
from rme.data.cifar10 import Cifar10
from rme.data.omniglot import Omniglot
from rme.data.omniglot_lake import OmniglotLake, area_weights, shrink
from rme.data.svhn import Svhn
from tests import ROOT

REAL_LAKE = ROOT.parent / "shared" / "data" / "omniglot"
RNG = np.random.default_rng(0)


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


Downloads = dict[str, Callable[..., None]]


@pytest.fixture(autouse=True)
def downloads(monkeypatch: pytest.MonkeyPatch) -> Downloads:
    """Make torchvision's downloads fail as without a network, except those that a test adds to this dict."""
    instead: Downloads = {}

    def stand_in(function: str) -> Callable[..., None]:
        def run(*args, **options) -> None:
            if function not in instead:
                raise URLError("Temporary failure in name resolution")
            instead[function](*args, **options)

        return run

    for function in ("download_url", "download_and_extract_archive", "download_file_from_google_drive"):
        monkeypatch.setattr(f"torchvision.datasets.utils.{function}", stand_in(function))
    return instead


def refusal(call: Callable[[Path], object], data_dir: Path) -> str:
    """The message of the DataError that the call raises."""
    with pytest.raises(data.DataError) as caught:
        call(data_dir)
    return str(caught.value)


def damaged_copies(content: bytes) -> dict[str, bytes]:
    half = len(content) // 2
    return {
        "empty": b"", "cut": content[:half], "longer": content + b"x",
        "flipped": content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :], "page": b"<html>log in</html>",
    }  # fmt: skip


# ---------------------------------------------------------------------- published files, for three data sets
@pytest.fixture
def omniglot_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Seven and three images, stored as by MATLAB: each array column is an image, its pixels column by column."""
    path = tmp_path / "omniglot" / "chardata.mat"
    path.parent.mkdir()
    images = RNG.random((10, 28, 28))
    images[0] = 0
    images[0, 2, 5] = 1  # row 2, column 5
    stored = np.stack([image.ravel(order="F") for image in images], axis=1)
    savemat(path, {"data": stored[:, :7], "testdata": stored[:, 7:], "target": np.zeros((50, 7))})
    np.save(tmp_path / "expected.npy", images)
    monkeypatch.setattr(Omniglot, "counts", (7, 3))
    monkeypatch.setattr(Omniglot, "md5", md5(path))
    return tmp_path


class _Python2Pickler(pickle._Pickler):
    """Writes str and bytes as Python 2 did, as the same type."""

    dispatch = dict(pickle._Pickler.dispatch)  # noqa: RUF012

    def save_string(self, value: str | bytes) -> None:
        raw = value.encode() if isinstance(value, str) else value
        self.write(pickle.BINSTRING + struct.pack("<i", len(raw)) + raw)
        self.memoize(value)

    dispatch[str] = dispatch[bytes] = save_string


def python2_pickle(value: object) -> bytes:
    buffer = io.BytesIO()
    _Python2Pickler(buffer, protocol=2).dump(value)
    return buffer.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


CIFAR_FILES = ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch")


@pytest.fixture
def cifar10_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two images in each file."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    images = RNG.integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
    for i, name in enumerate(CIFAR_FILES):
        rows = images[2 * i : 2 * i + 2].transpose(0, 3, 1, 2).reshape(2, 3072)
        batch = {"batch_label": f"batch {i}", "labels": [3, 9], "data": rows, "filenames": ["a.png", "b.png"]}
        (folder / name).write_bytes(python2_pickle(batch))
    np.save(tmp_path / "expected.npy", images)
    monkeypatch.setattr(Cifar10, "counts", (10, 2))
    monkeypatch.setattr(Cifar10, "md5s", {name: md5(folder / name) for name in CIFAR_FILES})
    return tmp_path


@pytest.fixture
def svhn_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    images = RNG.integers(0, 256, (9, 32, 32, 3), dtype=np.uint8)
    for name, part in (("train_32x32.mat", images[:6]), ("test_32x32.mat", images[6:])):
        arrays = {"X": part.transpose(1, 2, 3, 0), "y": np.full((len(part), 1), 10, dtype=np.uint8)}
        savemat(tmp_path / name, arrays, do_compression=True)
    np.save(tmp_path / "expected.npy", images)
    monkeypatch.setattr(Svhn, "counts", (6, 3))
    monkeypatch.setattr(Svhn, "md5s", {name: md5(tmp_path / name) for name in ("train_32x32.mat", "test_32x32.mat")})
    return tmp_path


PUBLISHED = [
    ("omniglot", "omniglot/chardata.mat"),
    *(("cifar10", f"cifar-10-batches-py/{name}") for name in (CIFAR_FILES[0], CIFAR_FILES[-1])),
    *(("svhn", name) for name in ("train_32x32.mat", "test_32x32.mat")),
]


@pytest.fixture
def published(request: pytest.FixtureRequest) -> tuple[data.Dataset, Path, Path]:
    """A data set, the data directory with its files, and one of these files."""
    name, file = request.param
    data_dir = request.getfixturevalue(f"{name}_dir")
    return data.get(name), data_dir, data_dir / file


@pytest.mark.parametrize("published", PUBLISHED, indirect=True)
def test_published_files_load_without_a_network(published: tuple[data.Dataset, Path, Path]) -> None:
    dataset, data_dir, _ = published
    before = sorted(data_dir.rglob("*"))
    dataset.prepare(data_dir)
    images = dataset.load(data_dir)
    assert (len(images.train), len(images.test)) == dataset.counts
    assert images.shape == dataset.shape
    assert sorted(data_dir.rglob("*")) == before


@pytest.mark.parametrize("published", PUBLISHED, indirect=True)
def test_published_file_missing(published: tuple[data.Dataset, Path, Path]) -> None:
    dataset, data_dir, file = published
    file.unlink()
    for call in (dataset.load, dataset.prepare):
        message = refusal(call, data_dir)
        assert f"{dataset.label}: {file} is missing" in message and dataset.source in message
    assert not file.exists()


@pytest.mark.parametrize("published", PUBLISHED, indirect=True)
def test_whether_a_published_file_must_be_written(published: tuple[data.Dataset, Path, Path]) -> None:
    dataset, data_dir, file = published
    assert not dataset.must_write(data_dir)
    file.unlink()
    if dataset.name == "omniglot":  # nothing can download it
        assert f"{file} is missing" in (message := refusal(dataset.must_write, data_dir)) and dataset.source in message
    else:
        assert dataset.must_write(data_dir)


@pytest.mark.parametrize("published", PUBLISHED, indirect=True)
def test_published_file_damaged(published: tuple[data.Dataset, Path, Path]) -> None:
    dataset, data_dir, file = published
    good = md5(file)
    for damaged in damaged_copies(file.read_bytes()).values():
        file.write_bytes(damaged)
        for call in (dataset.load, dataset.prepare):
            message = refusal(call, data_dir)
            assert f"{dataset.label}: {file} has the md5 {md5(file)}, expected {good}" in message
            assert dataset.source in message


@pytest.mark.parametrize("name", ["cifar10", "svhn"])
def test_failed_download_is_reported(name: str, tmp_path: Path) -> None:
    message = refusal(data.get(name).prepare, tmp_path)
    assert "the download failed (URLError: <urlopen error Temporary failure in name resolution>)" in message
    assert str(tmp_path) in message and data.get(name).source in message


@pytest.mark.parametrize("published", PUBLISHED, indirect=True)
def test_another_number_of_images(published: tuple[data.Dataset, Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, data_dir, _ = published
    train, test = dataset.counts
    monkeypatch.setattr(type(dataset), "counts", (train + 1, test))
    assert f"found {train} training and {test} test images" in refusal(dataset.load, data_dir)


def test_drawings_and_faces_must_be_written_until_they_are_prepared(
    faces: Path, drawings: dict[str, np.ndarray]
) -> None:
    celeba, lake = data.get("celeba"), data.get("omniglot-lake")
    assert celeba.must_write(faces) and lake.must_write(faces)
    celeba.prepare(faces)
    write_npz(faces, drawings)
    assert not celeba.must_write(faces) and not lake.must_write(faces)


# ---------------------------------------------------------------------- OMNIGLOT
def test_omniglot_images_are_upright(omniglot_dir: Path) -> None:
    expected = np.load(omniglot_dir / "expected.npy")
    images = data.get("omniglot").load(omniglot_dir)
    assert images.train[0, 0].nonzero().tolist() == [[2, 5]] and images.train[0, 0, 2, 5] == 255
    for part, wanted in ((images.train, expected[:7]), (images.test, expected[7:])):
        assert [[[round(255 * x) for x in row] for row in image] for image in wanted] == part[:, 0].tolist()


@pytest.mark.parametrize(
    ("arrays", "complaint"),
    [
        ({"data": np.zeros((784, 7))}, "testdata is missing, expected floats (784, N)"),
        ({"data": np.zeros((7, 784)), "testdata": np.zeros((784, 3))}, "data is float64 of shape (7, 784), expected"),
        ({"data": np.zeros((784, 7), np.uint8), "testdata": np.zeros((784, 3))}, "data is uint8 of shape (784, 7)"),
        ({"data": np.zeros((784, 7)), "testdata": np.full((784, 3), 255.0)}, "testdata has values 255.0..255.0"),
        ({"data": np.full((784, 7), np.nan), "testdata": np.zeros((784, 3))}, "data has values nan..nan"),
        (None, "cannot be read (ValueError: Unknown mat file type"),
    ],
)
def test_omniglot_of_wrong_content(
    arrays: dict | None, complaint: str, omniglot_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = omniglot_dir / "omniglot" / "chardata.mat"
    if arrays is None:
        path.write_bytes(b"anything else" * 100)
    else:
        savemat(path, arrays)
    monkeypatch.setattr(Omniglot, "md5", md5(path))
    message = refusal(data.get("omniglot").load, omniglot_dir)
    assert str(path) in message and complaint in message and Omniglot.source in message


def test_omniglot_md5_is_the_published_one() -> None:
    assert Omniglot.md5 == "21ecaf34373511aa7691cf2e0802aa3d"


# ---------------------------------------------------------------------- CIFAR10
def test_cifar10_pixels(cifar10_dir: Path) -> None:
    expected = np.load(cifar10_dir / "expected.npy").transpose(0, 3, 1, 2)
    images = data.get("cifar10").load(cifar10_dir)
    assert np.array_equal(images.train.numpy(), expected[:10])
    assert np.array_equal(images.test.numpy(), expected[10:])


class _Harm:
    def __reduce__(self) -> tuple:
        return (open, ("harmed", "w"))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (python2_pickle({"data": _Harm()}), r"cannot be read (UnpicklingError: io.open is not allowed in"),
        (pickle.dumps({b"data": eval}), "cannot be read (UnpicklingError: builtins.eval is not allowed in"),
        (python2_pickle({"labels": [1]}), "cannot be read (KeyError: b'data')"),
        (python2_pickle({"data": [1, 2]}), "data is no array, expected uint8 (N, 3072)"),
        (python2_pickle({"data": np.zeros((2, 3072))}), "data is float64 of shape (2, 3072), expected uint8"),
        (python2_pickle({"data": np.zeros((2, 784), np.uint8)}), "data is uint8 of shape (2, 784), expected uint8"),
        (b"no pickle", "cannot be read ("),
    ],
    ids=["harm", "function", "no data", "list", "floats", "784", "no pickle"],
)
def test_cifar10_of_wrong_content(
    content: bytes, complaint: str, cifar10_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(cifar10_dir)
    path = cifar10_dir / "cifar-10-batches-py" / "data_batch_3"
    path.write_bytes(content)
    monkeypatch.setitem(Cifar10.md5s, "data_batch_3", md5(path))
    message = refusal(data.get("cifar10").load, cifar10_dir)
    assert str(path) in message and complaint in message and Cifar10.source in message
    assert not Path("harmed").exists()


def test_cifar10_damaged_file_is_unpacked_again(cifar10_dir: Path, downloads: Downloads) -> None:
    from torchvision.datasets import CIFAR10

    path = cifar10_dir / "cifar-10-batches-py" / "data_batch_2"
    good, calls = path.read_bytes(), []

    def unpack(url: str, root: str, filename: str, md5: str) -> None:
        calls.append((url, root, filename, md5))
        path.write_bytes(good)

    downloads["download_and_extract_archive"] = unpack
    path.write_bytes(good[:100])
    data.get("cifar10").prepare(cifar10_dir)
    data.get("cifar10").prepare(cifar10_dir)
    assert calls == [(CIFAR10.url, str(cifar10_dir), CIFAR10.filename, CIFAR10.tgz_md5)]


def test_published_md5s_are_torchvisions() -> None:
    from torchvision.datasets import CIFAR10, SVHN, CelebA

    assert list(Cifar10.md5s.items()) == [tuple(entry) for entry in CIFAR10.train_list + CIFAR10.test_list]
    assert {SVHN.split_list[part][1]: SVHN.split_list[part][2] for part in ("train", "test")} == Svhn.md5s
    assert {name: known for _, known, name in CelebA.file_list}["list_eval_partition.txt"] == celeba.CelebA.list_md5


# ---------------------------------------------------------------------- SVHN
def test_svhn_pixels(svhn_dir: Path) -> None:
    expected = np.load(svhn_dir / "expected.npy").transpose(0, 3, 1, 2)
    images = data.get("svhn").load(svhn_dir)
    assert np.array_equal(images.train.numpy(), expected[:6])
    assert np.array_equal(images.test.numpy(), expected[6:])


def test_svhn_is_downloaded_without_extra(svhn_dir: Path, downloads: Downloads) -> None:
    contents = {name: (svhn_dir / name).read_bytes() for name in Svhn.md5s}
    for name in contents:
        (svhn_dir / name).unlink()
    calls = []

    def download(url: str, root: str, name: str, md5: str) -> None:
        calls.append(url)
        (Path(root) / name).write_bytes(contents[name])

    downloads["download_url"] = download
    data.get("svhn").prepare(svhn_dir)
    assert calls == [f"http://ufldl.stanford.edu/housenumbers/{name}" for name in contents]


@pytest.mark.parametrize(
    ("arrays", "complaint"),
    [
        ({"y": np.zeros((6, 1))}, "X is missing, expected uint8 (32, 32, 3, N)"),
        ({"X": np.zeros((6, 32, 32, 3), np.uint8)}, "X is uint8 of shape (6, 32, 32, 3), expected"),
        ({"X": np.zeros((32, 32, 3, 6))}, "X is float64 of shape (32, 32, 3, 6), expected"),
        (None, "cannot be read (ValueError: Unknown mat file type"),
    ],
)
def test_svhn_of_wrong_content(
    arrays: dict | None, complaint: str, svhn_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = svhn_dir / "train_32x32.mat"
    if arrays is None:
        path.write_bytes(b"anything else" * 100)
    else:
        savemat(path, arrays)
    monkeypatch.setitem(Svhn.md5s, "train_32x32.mat", md5(path))
    message = refusal(data.get("svhn").load, svhn_dir)
    assert str(path) in message and complaint in message and Svhn.source in message


# ---------------------------------------------------------------------- OMNIGLOT-Lake
LAKE_PARTS = {"images_background": 6, "images_evaluation": 4}


@pytest.fixture
def drawings(monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """Bool (characters, 2, 105, 105), True on paper, by part."""
    monkeypatch.setattr(OmniglotLake, "counts", tuple(LAKE_PARTS.values()))
    rng = np.random.default_rng(1)
    return {part: rng.random((count // 2, 2, 105, 105)) > 0.1 for part, count in LAKE_PARTS.items()}


def write_npz(data_dir: Path, drawings: dict[str, np.ndarray]) -> Path:
    (data_dir / "omniglot-lake").mkdir(exist_ok=True)
    for part, paper in drawings.items():
        np.savez_compressed(data_dir / "omniglot-lake" / f"{part}.npz", images=paper, labels=np.zeros(paper.shape[:2]))
    return data_dir


def write_pngs(root: Path, part: str, paper: np.ndarray) -> None:
    """Write drawings as in Lake's archives: alphabet/character/number_drawer.png, one bit per pixel."""
    for character, row in enumerate(paper):
        folder = root / part / f"Alphabet{character % 2}" / f"character{character:02}"
        folder.mkdir(parents=True)
        for drawer, pixels in enumerate(row):
            Image.fromarray(pixels).save(folder / f"{character:04}_{drawer:02}.png")


def test_area_weights_are_overlaps() -> None:
    weights = area_weights(105, 28)
    assert weights.shape == (28, 105)
    assert weights.sum(1).tolist() == [15] * 28 and weights.sum(0).tolist() == [4] * 105
    assert weights[0].nonzero().flatten().tolist() == [0, 1, 2, 3] and weights[0, :5].tolist() == [4, 4, 4, 3, 0]
    assert weights[27, -5:].tolist() == [0, 3, 4, 4, 4]


def test_shrinking_is_the_exact_average() -> None:
    strokes = RNG.random((3, 105, 105)) < 0.2
    strokes[0], strokes[1] = True, False
    found = shrink(strokes)
    assert found.dtype == torch.uint8 and found.shape == (3, 1, 28, 28)
    fine = strokes.repeat(4, axis=1).repeat(4, axis=2).astype(np.int64)  # side 420 = 28 * 15
    sums = fine.reshape(3, 28, 15, 28, 15).sum((2, 4))
    assert found[:, 0].tolist() == [[[(2 * 255 * s + 225) // 450 for s in row] for row in image] for image in sums]
    assert (found[0] == 255).all() and (found[1] == 0).all()


def test_lake_images_are_bright_on_dark_and_upright(tmp_path: Path, drawings: dict[str, np.ndarray]) -> None:
    drawings["images_background"][:] = True
    drawings["images_background"][0, 0, :15, 30:45] = False  # 4x4 small pixels: rows 0-3, columns 8-11
    images = data.get("omniglot-lake").load(write_npz(tmp_path, drawings))
    assert images.train.flatten(1).any(1).count_nonzero() == 1
    (image,) = images.train[images.train.flatten(1).bool().any(1)]
    assert (image[0, :4, 8:12] == 255).all() and image.sum(dtype=torch.int64) == 16 * 255


def test_lake_order_does_not_depend_on_the_files_order(tmp_path: Path, drawings: dict[str, np.ndarray]) -> None:
    first = data.get("omniglot-lake").load(write_npz(tmp_path, drawings))
    again = data.get("omniglot-lake").load(
        write_npz(tmp_path, {part: paper[::-1, ::-1] for part, paper in drawings.items()})
    )
    assert torch.equal(first.train, again.train) and torch.equal(first.test, again.test)
    whole = {image.numpy().tobytes() for image in first.train}
    assert whole == {
        shrink(~row[None]).numpy().tobytes() for row in drawings["images_background"].reshape(-1, 105, 105)
    }


def test_lake_is_packed_from_torchvisions_folders(
    tmp_path: Path, drawings: dict[str, np.ndarray], downloads: Downloads
) -> None:
    calls = []

    def unpack(url: str, root: str, filename: str, md5: str) -> None:
        calls.append(url)
        shutil.rmtree(Path(root) / "images_evaluation", ignore_errors=True)
        write_pngs(Path(root), "images_evaluation", drawings["images_evaluation"])

    downloads["download_and_extract_archive"] = unpack
    lake, root = data.get("omniglot-lake"), tmp_path / "omniglot-py"
    write_pngs(root, "images_background", drawings["images_background"])
    write_pngs(root, "images_evaluation", drawings["images_evaluation"][:1])  # an interrupted extraction
    lake.prepare(tmp_path)
    lake.prepare(tmp_path)
    assert calls == ["https://raw.githubusercontent.com/brendenlake/omniglot/master/python/images_evaluation.zip"]
    found, expected = lake.load(tmp_path), lake.load(write_npz(tmp_path, drawings))
    assert torch.equal(found.train, expected.train) and torch.equal(found.test, expected.test)


def test_lake_without_files(tmp_path: Path, drawings: dict[str, np.ndarray]) -> None:
    lake = data.get("omniglot-lake")
    assert f"{tmp_path}/omniglot-lake/images_background.npz is missing" in refusal(lake.load, tmp_path)
    message = refusal(lake.prepare, tmp_path)
    assert f"{tmp_path}/omniglot-py/images_background has 0 of 6 drawings; the download failed" in message
    assert "not the paper's OMNIGLOT" in message


def test_lake_damaged_drawing(tmp_path: Path, drawings: dict[str, np.ndarray]) -> None:
    for part, paper in drawings.items():
        write_pngs(tmp_path / "omniglot-py", part, paper)
    path = tmp_path / "omniglot-py" / "images_evaluation" / "Alphabet1" / "character01" / "0001_01.png"
    good = path.read_bytes()
    for damaged in (b"", good[: len(good) // 2], b"no picture"):
        path.write_bytes(damaged)
        assert f"{path} cannot be read (" in refusal(data.get("omniglot-lake").prepare, tmp_path)
    Image.new("1", (105, 104)).save(path)
    assert f"{path} has 104x105 pixels, expected 105x105" in refusal(data.get("omniglot-lake").prepare, tmp_path)
    assert not (tmp_path / "omniglot-lake" / "images_evaluation.npz").exists()
    path.write_bytes(good)
    data.get("omniglot-lake").prepare(tmp_path)


@pytest.mark.parametrize(
    ("images", "complaint"),
    [
        (np.ones((3, 2, 105, 105), np.uint8), "`images` is uint8 of shape (3, 2, 105, 105); expected"),
        (np.ones((6, 28, 28), bool), "`images` is bool of shape (6, 28, 28); expected"),
        (np.ones((5, 105, 105), bool), "found 5 training and 4 test images"),
        (np.zeros((6, 105, 105), bool), "most pixels are False, expected True on paper"),
        (None, "cannot be read ("),
    ],
)
def test_lake_of_wrong_content(
    images: np.ndarray | None, complaint: str, tmp_path: Path, drawings: dict[str, np.ndarray]
) -> None:
    path = write_npz(tmp_path, drawings) / "omniglot-lake" / "images_background.npz"
    contents = damaged_copies(path.read_bytes())
    if images is not None:
        np.savez(path, images=images)
        message = refusal(data.get("omniglot-lake").load, tmp_path)
        assert complaint in message and OmniglotLake.source in message
        return
    for kind in ("empty", "cut", "flipped", "page"):
        path.write_bytes(contents[kind])
        assert f"{path} {complaint}" in refusal(data.get("omniglot-lake").load, tmp_path)
    np.savez(path, pictures=np.zeros(3))
    assert "images" in refusal(data.get("omniglot-lake").load, tmp_path)


@pytest.mark.skipif(not REAL_LAKE.is_dir(), reason=f"Lake's drawings are not in {REAL_LAKE}")
def test_real_lake_pixels_never_change(tmp_path: Path) -> None:
    """If they are changed on purpose, raise OmniglotLake.version too."""
    (tmp_path / "omniglot-lake").symlink_to(REAL_LAKE)
    lake = data.get("omniglot-lake")
    images = lake.load(tmp_path)
    assert (len(images.train), len(images.test)) == lake.counts == (19_280, 13_180)
    pixels = hashlib.sha256(images.train.numpy().tobytes() + images.test.numpy().tobytes()).hexdigest()
    assert (lake.version, pixels[:16]) == (1, "e984ce8d7805970d")
    with np.load(REAL_LAKE / "images_background.npz") as file:
        drawings = file["images"]
    strokes = 1 - np.count_nonzero(drawings) / drawings.size
    assert images.train.numpy().mean() / 255 == pytest.approx(strokes, abs=1e-3)


# ---------------------------------------------------------------------- CelebA
FACES = 37
BLOCKS = 5  # of 8 images


def face(i: int) -> Image.Image:
    """Image i, 178x218: red increases to the right, green downwards, blue encodes i."""
    pixels = np.empty((218, 178, 3), np.uint8)
    pixels[..., 0] = np.arange(178)[None, :]
    pixels[..., 1] = np.arange(218)[:, None]
    pixels[..., 2] = 6 * i
    return Image.fromarray(pixels)


def jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


NAMES = [f"{i + 1:06}.jpg" for i in reversed(range(FACES))]  # the order of the list matters, not of the names
CONTENTS = {name: jpeg(face(i)) for i, name in enumerate(NAMES)}


@pytest.fixture
def faces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "celeba"
    (folder / "img_align_celeba").mkdir(parents=True)
    (folder / "list_eval_partition.txt").write_text("".join(f"{name} {i % 3}\n" for i, name in enumerate(NAMES)))
    for name, content in CONTENTS.items():
        (folder / "img_align_celeba" / name).write_bytes(content)
    monkeypatch.setattr(_cache, "BLOCK", 8)
    monkeypatch.setattr(celeba.CelebA, "counts", (FACES, FACES))
    monkeypatch.setattr(celeba.CelebA, "list_md5", md5(folder / "list_eval_partition.txt"))
    return tmp_path


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A list to which the name of every decoded image is added."""
    names: list[str] = []
    true = celeba.CelebA._decode

    def decode(self: celeba.CelebA, name: str, read: Callable[[str], bytes]) -> np.ndarray:
        names.append(name)
        return true(self, name, read)

    monkeypatch.setattr(celeba.CelebA, "_decode", decode)
    return names


def cache(data_dir: Path) -> Path:
    return data_dir / "celeba" / "cache" / "images.u8"


def reduced(image: Image.Image, box: tuple[int, int, int, int]) -> np.ndarray:
    """The box reduced to (3, 64, 64) by a triangular filter two new pixels wide, as matrix products, unrounded."""
    left, upper, right, lower = box
    pixels = np.asarray(image, np.float64)[upper:lower, left:right]
    scale = (right - left) / 64
    centres, points = (np.arange(64) + 0.5) * scale, np.arange(right - left) + 0.5
    weights = np.maximum(0, 1 - np.abs(points - centres[:, None]) / scale)
    weights /= weights.sum(1, keepdims=True)
    return weights @ pixels.transpose(2, 0, 1) @ weights.T


def test_celeba_pixels(faces: Path, decoded: list[str]) -> None:
    dataset = data.get("celeba")
    dataset.prepare(faces)
    images = dataset.load(faces)
    assert images.train is images.test and images.train.shape == (FACES, 3, 64, 64)
    assert sorted(decoded) == sorted(NAMES)
    for i, name in enumerate(NAMES):
        original = Image.open(io.BytesIO(CONTENTS[name]))
        assert np.abs(images.train[i].numpy() - reduced(original, (35, 67, 143, 175))).max() < 1.5
        red, green, blue = images.train[i].double()
        assert abs(blue.mean() - 6 * i) < 3
        assert abs(red[:, 0].mean() - 35.5) < 3 and abs(red[:, -1].mean() - 141.5) < 3
        assert abs(green[0].mean() - 67.5) < 3 and abs(green[-1].mean() - 173.5) < 3


def test_celeba_is_decoded_once(faces: Path, decoded: list[str]) -> None:
    dataset = data.get("celeba")
    dataset.prepare(faces)
    decoded.clear()
    shutil.rmtree(faces / "celeba" / "img_align_celeba")  # the cache is enough
    (faces / "celeba" / "list_eval_partition.txt").unlink()
    dataset.prepare(faces)
    dataset.load(faces)
    assert decoded == []


def test_celeba_load_never_decodes_nor_writes(faces: Path, decoded: list[str]) -> None:
    before = sorted(faces.rglob("*"))
    message = refusal(data.get("celeba").load, faces)
    assert f"{cache(faces).parent}/manifest.json is missing" in message and "prepare(data_dir)" in message
    assert decoded == [] and sorted(faces.rglob("*")) == before


def test_changing_celebas_tensor_does_not_change_the_file(faces: Path) -> None:
    dataset = data.get("celeba")
    dataset.prepare(faces)
    content = cache(faces).read_bytes()
    images = dataset.load(faces)
    assert images.train.numpy().tobytes() == content
    images.train.fill_(7)
    assert cache(faces).read_bytes() == content


def test_celeba_interrupted_decoding_is_resumed(faces: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, counted, true = data.get("celeba"), [], celeba.CelebA._decode

    def decode(self: celeba.CelebA, name: str, read: Callable[[str], bytes]) -> np.ndarray:
        if name == NAMES[20] and len(counted) < FACES:  # in the third block
            counted.extend([""] * FACES)
            raise KeyboardInterrupt
        counted.append(name)
        return true(self, name, read)

    monkeypatch.setattr(celeba.CelebA, "_decode", decode)
    with pytest.raises(KeyboardInterrupt):
        dataset.prepare(faces)
    assert f"{cache(faces)} is unfinished: 3 of 5 blocks" in refusal(dataset.load, faces)
    counted[:] = [""] * FACES
    dataset.prepare(faces)
    assert sorted(counted[FACES:]) == sorted(NAMES[16:]), "the first two blocks are not decoded again"
    found = dataset.load(faces).train.clone()
    shutil.rmtree(cache(faces).parent)
    dataset.prepare(faces)
    assert torch.equal(found, dataset.load(faces).train)


def test_celeba_partially_written_blocks_are_never_loaded(faces: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = data.get("celeba")
    dataset.prepare(faces)
    good, true = cache(faces).read_bytes(), _cache.ImageCache._write

    def crash(self: _cache.ImageCache, file: io.BufferedRandom, block: int, images: np.ndarray) -> str:
        if block != 2:
            return true(self, file, block, images)
        file.seek(2 * 8 * 3 * 64 * 64)
        file.write(images.tobytes()[:100])
        file.flush()
        raise KeyboardInterrupt

    flip(cache(faces), 2 * 8 * 3 * 64 * 64 + 50_000)  # block 2 is repaired first; in the second pass all is made
    for _ in range(2):
        with monkeypatch.context() as patched:
            patched.setattr(_cache.ImageCache, "_write", crash)
            with pytest.raises(KeyboardInterrupt):
                dataset.prepare(faces)
        assert "is unfinished" in refusal(dataset.load, faces)
        dataset.prepare(faces)
        assert cache(faces).read_bytes() == good
        dataset.load(faces)
        shutil.rmtree(cache(faces).parent)


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("block", range(BLOCKS))
def test_celeba_damaged_block_is_decoded_again(block: int, faces: Path, decoded: list[str]) -> None:
    dataset = data.get("celeba")
    dataset.prepare(faces)
    good = cache(faces).read_bytes()
    decoded.clear()
    flip(cache(faces), min((block + 1) * 8, FACES) * 3 * 64 * 64 - 1)
    dataset.prepare(faces)
    assert sorted(decoded) == sorted(NAMES[block * 8 : block * 8 + 8])
    assert cache(faces).read_bytes() == good


@pytest.mark.parametrize("size", [0, 1000, 3 * 8 * 3 * 64 * 64, FACES * 3 * 64 * 64 - 1, FACES * 3 * 64 * 64 + 1])
def test_celeba_cache_of_another_size(size: int, faces: Path, decoded: list[str]) -> None:
    dataset = data.get("celeba")
    dataset.prepare(faces)
    good = cache(faces).read_bytes()
    decoded.clear()
    cache(faces).write_bytes((good + b"x")[:size])
    assert f"{cache(faces)} has {size:,} bytes, expected {len(good):,}" in refusal(dataset.load, faces)
    dataset.prepare(faces)
    assert sorted(decoded) == sorted(NAMES[size // (8 * 3 * 64 * 64) * 8 :] if size < len(good) else [])
    assert cache(faces).read_bytes() == good


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"recipe": 3}'])
def test_celeba_damaged_manifest(text: str, faces: Path, decoded: list[str]) -> None:
    dataset = data.get("celeba")
    dataset.prepare(faces)
    manifest = cache(faces).with_name("manifest.json")
    manifest.write_text(text)
    complaint = "was made as 3" if "recipe" in text else "manifest.json is damaged"
    assert complaint in refusal(dataset.load, faces)
    decoded.clear()
    dataset.prepare(faces)
    dataset.load(faces)
    assert sorted(decoded) == sorted(NAMES)


def test_celeba_manifest_of_wrong_hashes(faces: Path, decoded: list[str]) -> None:
    dataset = data.get("celeba")
    dataset.prepare(faces)
    manifest = cache(faces).with_name("manifest.json")
    recorded = json.loads(manifest.read_text())
    for hashes in (recorded["sha256"][:-1], [*recorded["sha256"], "00"], {}, [1, *recorded["sha256"][1:]]):
        manifest.write_text(json.dumps({**recorded, "sha256": hashes}))
        assert "is unfinished" in refusal(dataset.load, faces)
        decoded.clear()
        dataset.prepare(faces)
        assert decoded and json.loads(manifest.read_text()) == recorded


@pytest.mark.parametrize("changed", ["version", "crop", "list_md5", "counts", "block"])
def test_celeba_cache_of_another_recipe_is_replaced(
    changed: str, faces: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = data.get("celeba")
    dataset.prepare(faces)
    old = dataset.load(faces)
    pixels = old.train.clone()
    if changed == "version":
        monkeypatch.setattr(celeba.CelebA, "version", 2)
    elif changed == "crop":
        monkeypatch.setattr(celeba, "CROP", (0, 0, 108, 108))
    elif changed == "block":
        monkeypatch.setattr(_cache, "BLOCK", 16)
    else:
        names = faces / "celeba" / "list_eval_partition.txt"
        names.write_text("".join(f"{name} 0\n" for name in NAMES[: FACES - (changed == "counts")]))
        monkeypatch.setattr(celeba.CelebA, "list_md5", md5(names))
        monkeypatch.setattr(celeba.CelebA, "counts", (FACES - (changed == "counts"),) * 2)
    assert f"{cache(faces)} was made as " in refusal(dataset.load, faces)
    decoded.clear()
    dataset.prepare(faces)
    assert len(decoded) == dataset.counts[0]
    new = dataset.load(faces).train
    assert torch.equal(old.train, pixels), "a training that has mapped the old file keeps its pixels"
    assert torch.equal(new, pixels[: len(new)]) == (changed != "crop")


def test_celeba_split_covers_the_pool(faces: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = data.get("celeba")
    dataset.prepare(faces)
    images = dataset.load(faces)
    split, again = dataset.split(images, 3), dataset.split(images, 3)
    parts = (split.train, split.validation, split.test)
    assert tuple(map(len, parts)) == dataset.split_sizes == (29, 4, 4)
    assert sorted(torch.cat(parts).tolist()) == list(range(FACES))
    for part, same in zip(parts, (again.train, again.validation, again.test), strict=True):
        assert part.dtype == torch.int64 and torch.equal(part, part.sort().values) and torch.equal(part, same)
    assert len({tuple(dataset.split(images, seed).test.tolist()) for seed in range(20)}) == 20
    assert len({tuple(dataset.split(images, seed).validation.tolist()) for seed in range(20)}) == 20
    monkeypatch.undo()
    assert dataset.split_sizes == (162_079, 20_260, 20_260)


def test_celeba_split_never_changes() -> None:
    """If these numbers change, stored results are not comparable and interrupted sweeps cannot be resumed."""
    pool = torch.zeros(20, 3, 64, 64, dtype=torch.uint8)
    split = data.get("celeba").split(data.Images(pool, pool), seed=0)
    assert (split.validation.tolist(), split.test.tolist()) == ([7, 10], [4, 18])
    assert split.train.tolist() == [i for i in range(20) if i not in (4, 7, 10, 18)]
    with pytest.raises(data.DataError, match="10% of 4 images is none"):
        data.get("celeba").split(data.Images(pool[:4], pool[:4]), seed=0)


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "other", "small"])
def test_celeba_damaged_original_is_named(damage: str, faces: Path) -> None:
    path = faces / "celeba" / "img_align_celeba" / NAMES[11]
    good = path.read_bytes()
    small = jpeg(face(1).crop((0, 0, 178, 217)))
    wrong = {"empty": b"", "cut": good[: len(good) // 2], "other": b"no picture", "small": small}
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(wrong[damage])
    message = refusal(data.get("celeba").prepare, faces)
    expected = {
        "missing": f"1 of 37 images are missing in {path.parent}, the first is {path.name}",
        "small": f"img_align_celeba/{path.name} has 178x217 pixels, expected 178x218",
    }
    assert expected.get(damage, f"img_align_celeba/{path.name} cannot be decoded (") in message
    assert celeba.CelebA.source in message
    path.write_bytes(good)
    data.get("celeba").prepare(faces)


def pack() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in NAMES:
            archive.writestr(f"img_align_celeba/{name}", CONTENTS[name])
    return buffer.getvalue()


@pytest.mark.parametrize("beside", ["nothing", "half a folder"])
def test_celeba_from_the_archive(beside: str, faces: Path) -> None:
    dataset, folder = data.get("celeba"), faces / "celeba"
    dataset.prepare(faces)
    good = cache(faces).read_bytes()
    shutil.rmtree(cache(faces).parent)
    (folder / "img_align_celeba.zip").write_bytes(pack())
    if beside == "nothing":
        shutil.rmtree(folder / "img_align_celeba")
    else:
        (folder / "img_align_celeba" / NAMES[5]).unlink()
    dataset.prepare(faces)
    assert cache(faces).read_bytes() == good


def test_celeba_damaged_archive(faces: Path) -> None:
    folder = faces / "celeba"
    shutil.rmtree(folder / "img_align_celeba")
    archive, content = folder / "img_align_celeba.zip", bytearray(pack())
    archive.write_bytes(content[:-100])
    message = refusal(data.get("celeba").prepare, faces)
    assert f"{archive} is no zip file, or truncated; the download failed" in message
    content[content.index(CONTENTS[NAMES[3]]) + 700] ^= 1
    archive.write_bytes(content)
    assert f"img_align_celeba/{NAMES[3]} cannot be decoded (BadZipFile" in refusal(data.get("celeba").prepare, faces)


def test_celeba_without_originals(faces: Path) -> None:
    folder = faces / "celeba"
    shutil.rmtree(folder / "img_align_celeba")
    message = refusal(data.get("celeba").prepare, faces)
    assert f"{folder}/img_align_celeba.zip is missing; the download failed (URLError" in message
    assert celeba.CelebA.source in message
    (folder / "list_eval_partition.txt").write_text("000001.jpg 0\n")
    message = refusal(data.get("celeba").prepare, faces)
    assert f"{folder}/list_eval_partition.txt has the md5" in message


def test_celeba_is_downloaded_by_torchvision(faces: Path, downloads: Downloads) -> None:
    folder, calls = faces / "celeba", []
    names = (folder / "list_eval_partition.txt").read_bytes()
    shutil.rmtree(folder)

    def download(file_id: str, root: str, name: str, md5: str) -> None:
        calls.append(name)
        Path(root).mkdir(exist_ok=True)
        (Path(root) / name).write_bytes(names if name.endswith(".txt") else pack())

    downloads["download_file_from_google_drive"] = download
    data.get("celeba").prepare(faces)
    data.get("celeba").prepare(faces)
    assert calls == ["img_align_celeba.zip", "list_eval_partition.txt"]
    data.get("celeba").load(faces)


def test_celeba_list_of_another_length(faces: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(celeba.CelebA, "counts", (FACES + 1, FACES + 1))
    message = refusal(data.get("celeba").prepare, faces)
    assert f"{faces}/celeba/list_eval_partition.txt names 37 images, expected 38" in message


def test_celeba_cache_that_cannot_be_written(faces: Path) -> None:
    (faces / "celeba" / "cache").write_text("in the way")
    message = refusal(data.get("celeba").prepare, faces)
    assert f"{faces}/celeba/cache cannot be written (" in message
