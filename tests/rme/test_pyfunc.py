"""Scores of images as MLflow's users get them, by the loader alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import rme
from rme import RunSpec
from rme.model_file import ModelFile
from rme.pyfunc import _load_pyfunc
from tests.tiny import write_npz

K = 4


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    path = write_npz(tmp_path_factory.mktemp("data") / "spots.npz")
    settings = {"dim": 3, "restarts": 2, "epochs": 1, "batch_size": 8, "iwae_samples": K, "seed": 3}
    return rme.fit(RunSpec.of({"method": "vae", "dataset": str(path), **settings}))


@pytest.fixture(scope="module")
def scorer(result, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    ModelFile.of(result).write(path)
    return _load_pyfunc(str(path))


def test_the_run_s_own_seed_gives_its_recorded_scores(scorer, result):
    images = result.test_images.numpy()
    scores = scorer.predict(images, {"k": K})
    assert isinstance(scores, np.ndarray) and scores.dtype == np.float64
    np.testing.assert_array_equal(scores, result.test_iwae.numpy())
    for own in (-1, 3):
        np.testing.assert_array_equal(scorer.predict(images, {"k": K, "seed": own}), scores)


def test_another_seed_draws_others(scorer, result):
    images = result.test_images.numpy()
    assert (scorer.predict(images, {"k": K, "seed": 4}) != result.test_iwae.numpy()).all()


def test_without_params_there_are_100_draws(scorer, result):
    """More draws tighten the bound: log p(x) is estimated higher than by one draw."""
    images = result.test_images.numpy()
    np.testing.assert_array_equal(scorer.predict(images), scorer.predict(images, {"k": 100}))
    assert scorer.predict(images).mean() > scorer.predict(images, {"k": 1}).mean()


@pytest.mark.parametrize("params", [{"draws": 5}, {"seed": -2}, {"k": 0}])
def test_impossible_params_are_refused_by_name(scorer, result, params):
    (name,) = params
    with pytest.raises(ValueError, match=name):
        scorer.predict(result.test_images.numpy(), params)


def test_images_of_another_shape_are_refused(scorer):
    with pytest.raises(ValueError, match="28"):
        scorer.predict(torch.zeros(2, 1, 14, 14, dtype=torch.uint8).numpy())


def test_the_model_itself_is_within_reach_of_mlflow_s_users(scorer, result):
    assert scorer.get_raw_model().model.spec == result.spec
