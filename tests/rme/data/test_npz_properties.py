"""Any .npz file gives the images that were written, or a DataError that names the file."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rme.data import DataError, Images
from rme.data._npz import Npz

SIZES = [(side, side, channels) for side in (16, 28, 37, 64, 128) for channels in (1, 3)]

GOOD = {
    "train": np.random.default_rng(0).integers(0, 256, (12, 28, 28), np.uint8),
    "test": np.random.default_rng(1).integers(0, 256, (3, 28, 28), np.uint8),
}


def content(save, arrays: dict[str, np.ndarray]) -> bytes:
    file = io.BytesIO()
    save(file, **arrays)
    return file.getvalue()


STORED, PACKED = content(np.savez, GOOD), content(np.savez_compressed, GOOD)


def loaded(path: Path) -> Images | None:
    """The images, or None if they were refused by a DataError naming the file; anything else fails the test."""
    try:
        return Npz(path).load(path.parent)
    except DataError as error:
        assert str(path) in str(error)
        return None


def is_as_written(images: Images) -> bool:
    parts = ((images.train, GOOD["train"]), (images.test, GOOD["test"]))
    return all(torch.equal(found[:, 0], torch.from_numpy(wanted)) for found, wanted in parts)


# ---------------------------------------------------------------------- arrays
def is_valid(arrays: dict[str, np.ndarray]) -> bool:
    """The documented requirements on the arrays, written out."""
    if not {"train", "test"} <= arrays.keys():
        return False
    train, test = arrays["train"], arrays["test"]
    sizes = [(*a.shape[1:], 1) if a.ndim == 3 else a.shape[1:] for a in (train, test)]
    if train.dtype != np.uint8 or test.dtype != np.uint8 or sizes[0] != sizes[1]:
        return False
    height, width, channels = sizes[0] if len(sizes[0]) == 3 else (0, 0, 0)
    if height != width or not 16 <= height <= 128 or channels not in (1, 3):
        return False
    return len(train) >= 10 and len(test) >= 1


SHAPES = st.one_of(
    st.tuples(st.integers(0, 12), st.sampled_from([28, 32]), st.sampled_from([28, 32])),
    st.builds(
        lambda count, size: (count, *size),
        st.integers(0, 12),
        st.sampled_from([*SIZES, (15, 15, 1), (129, 129, 1), (28, 28, 2), (1, 28, 28)]),
    ),
    st.builds(lambda count: (count, 28, 28), st.integers(9, 11)),
    hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4),
)
DTYPES = st.one_of(
    st.just(np.dtype(np.uint8)), st.just(np.dtype(np.uint8)), hnp.scalar_dtypes(), hnp.unicode_string_dtypes(),
    hnp.array_dtypes(), st.just(np.dtype(object)),
)  # fmt: skip
ARRAYS = st.builds(np.zeros, SHAPES, DTYPES)
NAMES = st.sampled_from(["train", "test", "train", "test", "Train", "images", "train.npy", "test/x"])


@pytest.mark.filterwarnings("ignore:Stored array in format")
@given(arrays=st.dictionaries(NAMES, ARRAYS, max_size=3), save=st.sampled_from([np.savez, np.savez_compressed]))
def test_arrays_of_any_kind_are_images_or_refused(tmp_path, arrays, save):
    path = tmp_path / "any.npz"
    path.write_bytes(content(save, arrays))
    images = loaded(path)
    assert (images is not None) == is_valid(arrays)
    if images is not None:
        assert images.train.shape[::2] == arrays["train"].shape[:2]


@settings(max_examples=30)
@given(size=st.sampled_from(SIZES), extra=st.booleans(), fortran=st.booleans(), seed=st.integers(0, 99))
def test_the_images_read_are_those_written(tmp_path, size, extra, fortran, seed):
    g = np.random.default_rng(seed)
    arrays = {name: g.integers(0, 256, (count, *size), np.uint8) for name, count in (("train", 10), ("test", 2))}
    if fortran:
        arrays = {name: np.asfortranarray(array) for name, array in arrays.items()}
    if extra:
        arrays["labels"] = np.arange(3)
    path = tmp_path / "good.npz"
    path.write_bytes(content(np.savez, arrays))
    images = loaded(path)
    for found, name in ((images.train, "train"), (images.test, "test")):
        np.testing.assert_array_equal(found.permute(0, 2, 3, 1).numpy(), arrays[name])


# ---------------------------------------------------------------------- damage
HEADER = STORED.index(b"'shape': (12, 28")


@pytest.mark.parametrize("whole", [STORED, PACKED], ids=["stored", "packed"])
@settings(max_examples=300)
@given(data=st.data())
def test_a_change_of_any_byte_is_noticed_or_harmless(tmp_path, whole, data):
    # most bytes are pixels, so the headers are targeted as often
    at = data.draw(st.integers(0, len(whole) - 1) | st.integers(0, 200) | st.integers(len(whole) - 250, len(whole) - 1))
    new = data.draw(st.integers(0, 255) | st.sampled_from(b"0123456789(),<>|'"))
    path = tmp_path / "changed.npz"
    path.write_bytes(whole[:at] + bytes([new]) + whole[at + 1 :])
    images = loaded(path)
    assert images is None or is_as_written(images)


@pytest.mark.parametrize("digits", [b"10", b"11", b"13", b"99", b"1_", b"-2", b"0x"])
def test_another_shape_in_the_header_is_noticed(tmp_path, digits):
    """Otherwise fewer images than were written would be read without an error."""
    at = HEADER + len(b"'shape': (")
    path = tmp_path / "changed.npz"
    path.write_bytes(STORED[:at] + digits + STORED[at + 2 :])
    assert loaded(path) is None


@pytest.mark.parametrize("whole", [STORED, PACKED], ids=["stored", "packed"])
@given(data=st.data())
def test_a_file_truncated_anywhere_is_refused(tmp_path, whole, data):
    path = tmp_path / "cut.npz"
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    assert loaded(path) is None


@pytest.mark.parametrize("whole", [STORED, PACKED], ids=["stored", "packed"])
@given(data=st.data())
def test_a_lost_doubled_or_replaced_piece_is_noticed_or_harmless(tmp_path, whole, data):
    a, b = sorted(data.draw(st.tuples(*2 * [st.integers(0, len(whole))])))
    new = data.draw(st.sampled_from([b"", whole[a:b] * 2]) | st.binary(max_size=20))
    path = tmp_path / "changed.npz"
    path.write_bytes(whole[:a] + new + whole[b:])
    images = loaded(path)
    assert images is None or is_as_written(images)


@given(st.binary(max_size=200))
@example(b"")
@example(b"PK\x05\x06" + bytes(18))
def test_other_bytes_are_refused(tmp_path, other):
    path = tmp_path / "other.npz"
    path.write_bytes(other)
    assert loaded(path) is None


@given(
    st.text(max_size=8) | st.sampled_from(["~nobody-at-all/x", "x" * 300, "a\x00b", "\ud800", "..", "/", "/proc/x/y"])
)
def test_any_path_without_a_file_is_refused(name):
    with pytest.raises(DataError):
        Npz(f"{name}.npz").load(Path("/"))
