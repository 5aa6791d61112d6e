"""A damaged result, or one of another run, is never read as the run's own."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rme.checkpoint import CorruptFile
from rme.config import RunSpec
from rme.result import MARKER, Result, load_models
from rme.timing import Timing, TimingSpec


def made(seed: int, restarts: int = 2, epochs: int = 3) -> Result:
    """A small result with numbers that depend on the seed."""
    g = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (2, 1, 4, 4), generator=g, dtype=torch.uint8)
    return Result(
        spec=RunSpec(method="vae", dataset="digits", dim=3, seed=seed, restarts=restarts, epochs=epochs),
        chosen=seed % restarts,
        models=[{"pixel_mean": torch.rand(1, 4, 4, generator=g)} for _ in range(restarts)],
        val_iwae=torch.rand(restarts, generator=g),
        val_elbo=torch.rand(restarts, generator=g),
        kept_epochs=torch.arange(restarts),
        test_iwae=torch.rand(4, generator=g),
        test_elbo=torch.rand(4, generator=g),
        inference_ms=1.5,
        train_s=2.5,
        updates=["elbo"],
        losses=torch.rand(epochs, 1, restarts, generator=g),
        history_elbo=torch.rand(epochs, restarts, generator=g),
        diagnostics={"kl": torch.rand(epochs, restarts, generator=g)},
        finished_at=torch.arange(epochs, dtype=torch.float64),
        reconstructions=images.expand(2, 2, 1, 4, 4).contiguous(),
        samples=images.clone(),
        test_images=images.clone(),
        environment={"device": "cpu", "torch": "2"},
    )


def plain(value: Any) -> Any:
    """The value with tensors replaced by (type, shape, bytes), which can be compared."""
    if isinstance(value, Tensor):
        return str(value.dtype), tuple(value.shape), value.reshape(-1).view(torch.uint8).tolist()
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


def same(a: Result, b: Result) -> bool:
    return all(plain(getattr(a, field.name)) == plain(getattr(b, field.name)) for field in fields(Result))


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> bytes:
    folder = tmp_path_factory.mktemp("whole")
    made(0).save(folder)
    return (folder / MARKER).read_bytes()


def is_noticed(folder: Path, content: bytes) -> None:
    """The file is refused by name, or read correctly because the changed bytes have no meaning."""
    (folder / MARKER).write_bytes(content)
    key = made(0).spec.key
    try:
        found, models = Result.load(folder, key), load_models(folder, key)
    except CorruptFile as error:
        assert str(folder / MARKER) in str(error)
    else:
        assert same(found, made(0)) and plain(models) == plain(made(0).models)


@settings(max_examples=300)
@given(st.data())
def test_a_changed_byte_is_noticed(tmp_path, whole, data):
    at = data.draw(st.integers(0, len(whole) - 1))
    new = data.draw(st.integers(0, 255))
    is_noticed(tmp_path, whole[:at] + bytes([new]) + whole[at + 1 :])


@given(st.data())
def test_a_truncated_file_is_noticed(tmp_path, whole, data):
    (tmp_path / MARKER).write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    for load in (Result.load, load_models, Timing.load):
        with pytest.raises(CorruptFile, match=str(tmp_path)):
            load(tmp_path)


@settings(max_examples=30)
@given(seed=st.integers(0, 9), restarts=st.integers(1, 3), epochs=st.integers(1, 4))
def test_a_result_is_read_as_it_was_written(tmp_path, seed, restarts, epochs):
    made(seed, restarts, epochs).save(tmp_path)
    found = Result.load(tmp_path, made(seed, restarts, epochs).spec.key)
    assert same(found, made(seed, restarts, epochs))
    assert found.metrics == made(seed, restarts, epochs).metrics


CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "seed": st.integers(0, 3), "dim": st.sampled_from([3, 4]), "epochs": st.sampled_from([3, 4]),
        "learning_rate": st.sampled_from([5e-4, 1e-3]), "variant": st.sampled_from(["a", None]),
    },
)  # fmt: skip


@given(ours=CHANGES, theirs=CHANGES)
def test_another_runs_file_is_refused(tmp_path, ours, theirs):
    """Such as a file copied from another run's folder, which is undamaged."""
    spec, other = (made(0).spec.model_copy(update=changes) for changes in (ours, theirs))
    replace(made(0), spec=other).save(tmp_path)
    for load in (Result.load, load_models):
        if spec.key == other.key:
            load(tmp_path, spec.key)
        else:
            with pytest.raises(CorruptFile, match=f"{other.key}.*{spec.key}"):
                load(tmp_path, spec.key)


@given(ours=st.integers(0, 3), theirs=st.integers(0, 3))
def test_another_timings_file_is_refused(tmp_path, ours, theirs):
    spec, other = (TimingSpec(method="vae", dataset="digits", dim=3, seed=seed) for seed in (ours, theirs))
    Timing(other, torch.ones(5), torch.ones(5), {"device": "cpu"}).save(tmp_path)
    if ours == theirs:
        assert Timing.load(tmp_path, spec.key).spec == spec
    else:
        with pytest.raises(CorruptFile, match=f"{other.key}.*{spec.key}"):
            Timing.load(tmp_path, spec.key)
