"""`rme.fit` with images at hand, with parents, and with callbacks that look on and stop."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import rme
from analysis.stored import stored
from rme import data
from rme.data import DataError
from rme.images import ImagesError
from rme.result import Result
from rme.training import is_measured
from tests.tiny import blobs, write_npz
from tune.store.storage import Storage

TRAIN, TEST = blobs(60, (1, 28, 28), 1), blobs(10, (1, 28, 28), 2)


def spec(method: str = "vae", order: int | None = None, **fields) -> rme.RunSpec:
    settings = {
        "dataset": "images", "dim": 3, "epochs": 2, "restarts": 1, "batch_size": 16, "iwae_samples": 3,
        "learning_rate": 1e-3, "stage_learning_rate": 1e-3, "kl_max": 5.0, "seed": 4,
    }  # fmt: skip
    return rme.RunSpec(method=method, order=order, **{**settings, **fields})


@pytest.fixture(scope="module")
def vae() -> Result:
    return rme.fit(spec(restarts=2), images=(TRAIN, TEST), device="cpu")


# ---------------------------------------------------------------------- images at hand
def test_images_at_hand_train_the_model_that_the_same_images_in_a_file_do(vae: Result, tmp_path) -> None:
    path = tmp_path / "spots.npz"
    np.savez(path, train=TRAIN[:, 0].numpy(), test=TEST[:, 0].numpy())
    filed = rme.fit(spec(dataset=str(path), restarts=2), device="cpu")
    assert torch.equal(vae.test_iwae, filed.test_iwae) and torch.equal(vae.losses, filed.losses)
    floats = rme.fit(spec(restarts=2), images=(TRAIN[:, 0].numpy() / 255, TEST / 255), device="cpu")
    assert floats.spec.key == vae.spec.key and torch.equal(floats.test_iwae, vae.test_iwae)


def test_the_spec_names_the_images_by_their_content(vae: Result) -> None:
    changed = TRAIN.clone()
    changed[0, 0, 0, 0] += 1
    names = {data.name_in_memory(data.Images(train, TEST)) for train in (TRAIN, TRAIN.clone(), changed)}
    assert len(names) == 2 and vae.spec.dataset in names
    assert rme.RunSpec(**vae.spec.model_dump()).key == vae.spec.key  # also where the images are not


def test_without_test_images_there_are_no_test_scores(tmp_path) -> None:
    result = rme.fit(spec(), images=TRAIN, device="cpu")
    assert len(result.test_iwae) == 0 and not any(name.startswith("test/") for name in result.metrics)
    held_out = data.get(result.spec.dataset).split(data.Images(TRAIN, TRAIN[:0]), 4).validation
    assert torch.equal(result.test_images, TRAIN[held_out])
    result.save(tmp_path)
    model = rme.load(tmp_path, device="cpu")
    assert "test" not in repr(model) and "test" not in repr(result) and model.elbo(TEST).shape == (10,)


@pytest.mark.parametrize(("fields", "images", "error", "said"), [
    ({}, None, DataError, "pass images="),
    ({"dataset": "digits"}, TRAIN, DataError, "dataset='digits': give one of them"),
    ({}, (TRAIN, TEST, TEST), DataError, "3 parts"),
    ({}, (TRAIN, torch.zeros(3, 1, 32, 32)), ImagesError, r"test images: shape \(3, 1, 32, 32\).*\(1, 28, 28\)"),
    ({}, torch.full((20, 28, 28), math.nan), ImagesError, "20 of 20 images"),
    ({}, TRAIN[:5], DataError, "at least 10"),
    ({}, torch.rand(60, 28, 30), DataError, r"\(1, 28, 30\); expected square"),
    ({}, torch.rand(60, 8, 8), DataError, "16x16 to 128x128"),
    ({"batch_size": 64}, TRAIN, DataError, "batch_size=64"),
    ({}, torch.full((60, 28, 28), 7, dtype=torch.uint8), DataError, "equal"),
])  # fmt: skip
def test_images_that_cannot_be_trained_on_are_refused(fields, images, error, said) -> None:
    with pytest.raises(error, match=said):
        rme.fit(spec(**fields), images=images, device="cpu")


def test_test_images_among_the_training_images_are_counted() -> None:
    with pytest.warns(UserWarning, match="2 test images are training images"):
        rme.fit(spec(epochs=1), images=(TRAIN, torch.cat([TRAIN[:2], TEST])), device="cpu")


# ---------------------------------------------------------------------- parents
def test_a_parent_is_taken_if_it_is_the_right_run_and_else_trained(vae: Result) -> None:
    child = spec("rme", 2, stage_epochs=1, restarts=2)
    given = rme.fit(child, images=(TRAIN, TEST), parent=vae, device="cpu")
    trained = rme.fit(child, images=(TRAIN, TEST), device="cpu")
    assert given.spec.key == trained.spec.key and torch.equal(given.test_iwae, trained.test_iwae)


def test_a_wrong_parent_s_fields_are_named(vae: Result) -> None:
    other = spec("rme", 2, dim=4, epochs=3, restarts=2)
    with pytest.raises(ValueError, match=r"dim is 3, not 4.*epochs is 2, not 3"):
        rme.fit(other, images=(TRAIN, TEST), parent=vae, device="cpu")
    with pytest.raises(ValueError, match=f"dataset is {vae.spec.dataset}, not images-"):
        rme.fit(spec("rme", 2, restarts=2), images=(TRAIN[:50], TEST), parent=vae, device="cpu")
    with pytest.raises(ValueError, match="VAE starts from scratch"):
        rme.fit(spec(), images=(TRAIN, TEST), parent=vae, device="cpu")
    with pytest.raises(ValueError, match="2 restarts, each of which starts from its own"):
        rme.fit(spec("rme", 2, restarts=2), images=(TRAIN, TEST), parent=vae.model, device="cpu")
    with pytest.raises(TypeError, match="parent='vae' is a str"):
        rme.fit(spec("rme", 2), images=(TRAIN, TEST), parent="vae", device="cpu")


def test_fine_tuning_starts_from_another_s_weights_on_new_images(vae: Result) -> None:
    new = blobs(40, (1, 28, 28), 9)
    child = spec("vae-more", stage_epochs=1, stage_learning_rate=1e-6)
    tuned = rme.fit(child, images=new, parent=vae.model, fine_tune=True, device="cpu")
    start, end = vae.models[vae.chosen], tuned.models[0]
    for name in ("encoder.head.0.weight", "decoder.mean.0.weight"):
        # Adam moves a weight by at most about the rate in each of three steps
        assert 0 < (end[name] - start[name]).abs().max() < 1e-5, name
    split = data.get(tuned.spec.dataset).split(data.Images(new, new[:0]), 4)
    torch.testing.assert_close(end["pixel_mean"], new[split.train].float().mean(0) / 255)
    # it is not the run of these images, whose parent is trained on them
    assert tuned.spec.dataset != data.name_in_memory(data.Images(new, new[:0]))


def test_impossible_fine_tuning_is_refused(vae: Result) -> None:
    for child, images, parent, said in [
        (spec("vae-more"), None, vae, "pass images="),
        (spec("vae-more"), TRAIN, None, "needs images= and parent="),
        (spec(), TRAIN, vae, "VAE starts from scratch"),
        (spec("rme", 2, dim=5), TRAIN, vae, "dim is 3, not 5"),
        (spec("rme", 2), blobs(40, (1, 32, 32), 1), vae, r"image shape is \(1, 28, 28\), not \(1, 32, 32\)"),
    ]:
        with pytest.raises(ValueError, match=said):
            rme.fit(child, images=images, parent=parent, fine_tune=True, device="cpu")


# ---------------------------------------------------------------------- callbacks
def test_callbacks_learn_of_each_epoch_and_change_nothing(vae: Result) -> None:
    seen: list[rme.Epoch] = []
    scores = []

    def look(epoch: rme.Epoch) -> None:
        seen.append(epoch)
        scores.append(epoch.model.elbo(TEST, k=1).mean().item())

    result = rme.fit(spec(restarts=2), images=(TRAIN, TEST), callbacks=[look], device="cpu")
    assert torch.equal(result.test_iwae, vae.test_iwae)
    assert [epoch.number for epoch in seen] == [1, 2] and all(map(math.isfinite, scores))
    for i, epoch in enumerate(seen):
        assert epoch.spec.key == vae.spec.key
        assert epoch.metrics["val_elbo"] == vae.history_elbo[i].max().item()
        assert epoch.restart == int(vae.history_elbo[i].argmax())
        assert epoch.metrics["loss_vae"] == vae.losses[i, 0, epoch.restart].item()
    # the copy of the last epoch is the restart's final model, whatever came after
    last = seen[-1]
    wanted = vae.models[last.restart]
    if int(vae.kept_epochs[last.restart]) == 2:
        assert all(torch.equal(value, wanted[name]) for name, value in last.model.parameters.items())


def test_a_callback_ends_the_training_after_its_epoch() -> None:
    wanted = spec(epochs=200, keep="last")  # long enough for the ELBO not to be measured after each epoch
    assert not is_measured(wanted, 3)
    result = rme.fit(
        wanted, images=(TRAIN, TEST), callbacks=[lambda epoch: epoch.stop() if epoch.number == 3 else None],
        device="cpu",
    )  # fmt: skip
    assert result.losses.isfinite().all(1).flatten().tolist() == [True] * 3 + [False] * 197
    assert result.history_elbo[2].isfinite().all() and result.kept_epochs.tolist() == [3]
    assert result.environment["stopped_after_epoch"] == "3" and "after epoch 3" in repr(result)


def test_an_error_of_a_callback_and_no_function_are_reported() -> None:
    def fail(epoch: rme.Epoch) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        rme.fit(spec(), images=TRAIN, callbacks=[fail], device="cpu")
    with pytest.raises(TypeError, match=r"callbacks\[0\] is 3"):
        rme.fit(spec(), images=TRAIN, callbacks=[3], device="cpu")


def test_a_file_s_images_are_checked_too(tmp_path) -> None:
    path = write_npz(tmp_path / "few.npz", train=12)
    with pytest.raises(DataError, match=r"few.npz.*batch_size=128"):
        rme.fit(spec(dataset=str(path), batch_size=128), device="cpu")


# ---------------------------------------------------------------------- what is not the run that its spec describes
def stop(epoch: rme.Epoch) -> None:
    epoch.stop()


def test_a_stopped_training_is_known_as_such_wherever_it_goes(vae: Result, tmp_path) -> None:
    stopped = rme.fit(spec(restarts=2), images=(TRAIN, TEST), callbacks=stop, device="cpu")
    assert stopped.spec.key == vae.spec.key == vae.key != stopped.key and stopped.stopped == 1
    stopped.save(str(tmp_path / "run"))
    stopped.model.save(tmp_path / "model.safetensors")
    assert Result.load(str(tmp_path / "run")).stopped == 1
    for source in (stopped, tmp_path / "run", tmp_path / "model.safetensors"):
        model = rme.load(source, device="cpu")
        assert model.stopped == 1 and model.key == stopped.key and "after epoch 1" in repr(model)
    child = spec("rme", 2, restarts=2, stage_epochs=1)
    for parent in (stopped, stopped.model):
        with pytest.raises(ValueError, match="stopped by a callback after epoch 1"):
            rme.fit(child, images=(TRAIN, TEST), parent=parent, device="cpu")


def test_a_stopped_training_is_no_run_of_a_sweep(tmp_path) -> None:
    path = write_npz(tmp_path / "spots.npz", train=20)
    settings = spec(dataset=str(path), epochs=2)
    rme.fit(settings, callbacks=stop, device="cpu").save(tmp_path / "storage" / "runs" / settings.key)
    storage = Storage(tmp_path / "storage")
    assert storage.result(settings) is None
    assert len(stored(tmp_path / "storage")[0]) == 0


def test_a_spec_that_names_its_images_takes_no_others(vae: Result) -> None:
    assert rme.fit(vae.spec, images=(TRAIN, TEST), device="cpu").spec == vae.spec
    with pytest.raises(DataError, match=f"{vae.spec.dataset}.*but images= are images-"):
        rme.fit(vae.spec, images=(255 - TRAIN, TEST), device="cpu")


def test_gradients_that_are_off_change_nothing(vae: Result) -> None:
    with torch.inference_mode():
        again = rme.fit(spec(restarts=2), images=(TRAIN, TEST), device="cpu")
    assert torch.equal(again.test_iwae, vae.test_iwae)


@pytest.mark.parametrize("given", ["vae", {"method": "vae"}, None])
def test_what_is_no_spec_is_refused(given) -> None:
    with pytest.raises(TypeError, match=r"spec=.*expected an rme.RunSpec"):
        rme.fit(given)
