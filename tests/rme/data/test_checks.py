"""What is refused or warned of before a training on a user's own images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rme import RunSpec, data
from rme.data import checks
from rme.data.checks import check_images, repeated


def noise(count: int, seed: int, side: int = 4, channels: int = 1, high: int = 256) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, high, (count, channels, side, side), generator=g).to(torch.uint8)


def checked(train: Tensor, test: Tensor | None = None, batch_size: int = 4, train_count: int = 18) -> list[str]:
    return check_images(data.Images(train, noise(5, 99) if test is None else test), "here", batch_size, train_count)


def refused(*arguments, **named) -> str:
    with pytest.raises(data.DataError) as error:
        checked(*arguments, **named)
    assert str(error.value).startswith("here: ") and "\n" not in str(error.value)
    return str(error.value)


def test_ordinary_images_have_neither_errors_nor_warnings() -> None:
    assert checked(noise(20, 1)) == []
    assert checked(noise(20, 1), train_count=4) == []


def test_fewer_training_images_than_a_batch() -> None:
    message = refused(noise(20, 1), batch_size=19)
    assert "18 training images" in message and "batch_size=19" in message and "set batch_size=18 or less" in message


def test_images_whose_largest_pixel_is_1_are_nearly_black() -> None:
    assert "largest pixel is 1" in refused(noise(20, 1, high=2))
    assert checked(noise(20, 1, high=3)) == []


@pytest.mark.parametrize("value", [0, 1, 7, 255])
def test_one_value_everywhere(value: int) -> None:
    message = refused(torch.full((20, 1, 4, 4), value, dtype=torch.uint8))
    assert ("largest pixel is 1" if value == 1 else "all 20 training images are equal") in message


def test_equal_images() -> None:
    assert "all 20 training images are equal" in refused(noise(1, 1).expand(20, -1, -1, -1).contiguous())


def test_images_of_a_single_value_each() -> None:
    flat = torch.arange(20, dtype=torch.uint8).view(20, 1, 1, 1).expand(-1, 1, 4, 4).contiguous()
    assert "every training image has a single value throughout" in refused(flat)
    flat[13, 0, 2, 2] ^= 1
    assert checked(flat) == []


def test_what_varies_first_among_the_last_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "CHUNK", 3)
    train = torch.zeros(20, 1, 4, 4, dtype=torch.uint8)
    train[19, 0, 1, 1] = 9
    assert checked(train) == []


def test_test_images_that_are_training_images_are_counted() -> None:
    train, test = noise(20, 1), noise(5, 2)
    test[1] = train[7]
    assert checked(train, test) == [
        "here: 1 test image is a training image too, of 5; the test score is too good by it"
    ]
    test[2] = test[4] = train[0]
    assert checked(train, test)[0].startswith("here: 3 test images are training images too, of 5")
    test[2, 0, 3, 3] ^= 1
    assert checked(train, test)[0].startswith("here: 2 test images")
    assert checked(train, train) == [], "one pool of images, which a split divides"


@given(st.integers(0, 999), st.integers(1, 3), st.integers(1, 30), st.integers(1, 12))
def test_repeated_is_numpy_s_comparison_of_every_pair(seed: int, channels: int, count: int, tests: int) -> None:
    train, test = noise(count, seed, 2, channels, 2), noise(tests, seed + 1, 2, channels, 2)
    pairs = (test.numpy()[:, None] == train.numpy()[None]).reshape(tests, count, -1).all(2)
    assert repeated(train, test) == int(pairs.any(1).sum())


def test_check_counts_the_training_images_of_the_run_s_split(tmp_path) -> None:
    arrays = {"train": noise(25, 1, 16)[:, 0].numpy(), "test": noise(5, 2, 16)[:, 0].numpy()}
    np.savez(tmp_path / "a.npz", **arrays)
    dataset = data.get(str(tmp_path / "a.npz"))
    images = dataset.load(tmp_path)

    def spec(batch_size: int) -> RunSpec:
        return RunSpec(method="vae", dataset=dataset.name, dim=2, batch_size=batch_size)

    assert dataset.users_own
    assert data.check(dataset, images, spec(23)) == []  # 10% of 25 are 2
    with pytest.raises(data.DataError, match=r"a\.npz: 23 training images.*batch_size=24"):
        data.check(dataset, images, spec(24))


def test_only_data_sets_of_a_user_are_a_user_s_own() -> None:
    assert not any(dataset.users_own for dataset in data.registry().values())
