"""Complete runs: from images to scores, with the choice by validation, interruptions and divergence."""

from __future__ import annotations

import math
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

import rme
from bench.plain import BaseBoundedRegressor, ConvDecoder, ConvEncoder, copy_member
from rme import checkpoint, data, evaluate, fitting, noise, training
from rme.checkpoint import Checkpoints, CorruptFile
from rme.data import Images
from rme.device import is_lost, pick_device
from rme.engine import DivergedError, Engine
from rme.fitting import train_runs
from rme.result import MARKER, Result
from rme.selection import KEPT, best_restart, results
from rme.training import StopTraining
from tests.tiny import blobs

TEST_IMAGES = 20


# ---------------------------------------------------------------------- choosing
@pytest.mark.parametrize(("scores", "best"), [
    ([1.0, 3.0, 2.0], 1),
    ([-700.0, -701.0], 0),
    ([math.nan, -5.0, -4.0], 2),
    ([-5.0, math.nan], 0),
    ([math.inf, -5.0], 1),
    ([-math.inf, -1e30], 1),
])  # fmt: skip
def test_the_best_finite_restart_is_chosen(scores: list[float], best: int) -> None:
    assert best_restart(torch.tensor(scores, dtype=torch.float64)) == best


@pytest.mark.parametrize("scores", [[math.nan], [math.nan, math.inf, -math.inf]])
def test_nothing_is_chosen_if_all_restarts_diverged(scores: list[float]) -> None:
    with pytest.raises(DivergedError, match=f"none of {len(scores)}"):
        best_restart(torch.tensor(scores))


# ---------------------------------------------------------------------- end to end
@pytest.fixture(scope="module")
def npz(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("images") / "blobs.npz"
    np.savez(path, train=blobs(40, (1, 28, 28), 1)[:, 0].numpy(), test=blobs(TEST_IMAGES, (1, 28, 28), 2)[:, 0].numpy())
    return str(path)


@pytest.fixture(scope="module")
def spec(tiny, npz: str):
    def of(method: str, order: int | None = None, **fields) -> rme.RunSpec:
        settings = {"dataset": npz, "restarts": 2, "epochs": 2, "iwae_samples": 20, "seed": 5, **fields}
        return tiny.spec(method, order, **settings)

    return of


@pytest.fixture(scope="module")
def finished(spec) -> dict[str, Result]:
    """Results of a VAE, and of an RME that starts from it."""
    vae = rme.fit(spec("vae"), progress=False, device="cpu")
    return {"vae": vae, "rme": rme.fit(spec("rme", 2), progress=False, device="cpu", parent=vae)}


both = pytest.mark.parametrize("method", ["vae", "rme"])


@both
def test_a_result_is_complete_and_consistent(finished: dict[str, Result], method: str) -> None:
    result = finished[method]
    updates = {"vae": ["vae"], "rme": ["q_0", "q_1", "eps_1", "decoder"]}[method]
    assert result.updates == updates
    assert result.losses.shape == (2, len(updates), 2) and result.losses.isfinite().all()
    assert result.val_iwae.shape == result.val_elbo.shape == (2,)
    assert result.test_iwae.shape == result.test_elbo.shape == (TEST_IMAGES,)
    assert result.history_elbo.shape == (2, 2) and result.finished_at.shape == (2,)
    assert result.chosen == max(range(2), key=lambda r: result.val_iwae[r].item())
    assert (result.val_iwae > result.val_elbo).all() and (result.test_iwae > result.test_elbo).all()
    assert result.metrics["test/iwae"] == pytest.approx(sum(result.test_iwae.tolist()) / TEST_IMAGES)
    assert result.metrics["val/iwae"] == max(result.val_iwae.tolist())
    assert result.inference_ms > 0 and result.train_s > 0
    assert result.reconstructions.shape == (2, 16, 1, 28, 28) and result.samples.shape == (16, 1, 28, 28)
    assert len(result.test_images) == min(KEPT, TEST_IMAGES)
    assert torch.equal(result.test_images[:16], result.reconstructions[0])
    assert all(isinstance(value, str) for value in result.environment.values())


def test_a_results_curves_are_the_training_history(small) -> None:
    engines: list[Engine] = []
    specs = [small.spec(seed=seed, epochs=3, restarts=2) for seed in (0, 1)]
    found = train_runs(specs, small.images, torch.device("cpu"), on_epoch=engines.append)
    history = engines[-1].history
    for run, spec in enumerate(specs):
        members = slice(2 * run, 2 * run + 2)
        result = found[spec.key]
        assert isinstance(result, Result)
        assert torch.equal(result.losses, torch.stack(history.losses)[..., members])
        assert torch.equal(result.history_elbo, torch.stack(history.val_elbo)[:, members])
        assert result.history_elbo.isfinite().all() and result.history_elbo.dtype == torch.float64
        assert result.finished_at.tolist() == history.finished_at


def plain_posterior(result: Result, x: Tensor):
    """q(z|x) of the chosen model, with only torch.nn and torch.distributions; batch shape (N,)."""
    model, spec = result.method.double(), result.spec
    encoders = [model.encoder] if spec.method == "vae" else list(model.components)
    gaussians = []
    for encoder in encoders:
        twin = ConvEncoder(spec.dim, (1, 28, 28)).double()
        copy_member(encoder, 0, twin)
        gaussians.append(twin(x))
    if spec.method == "vae":
        return gaussians[0]
    twin = BaseBoundedRegressor((1, 28, 28), spec.eps_min, spec.eps_max, 10).double()
    copy_member(model.impacts[0], 0, twin)
    eps = twin(x)
    loc, scale = (torch.stack([getattr(g.base_dist, name) for g in gaussians], 1) for name in ("loc", "scale"))
    return MixtureSameFamily(Categorical(torch.stack([1 - eps, eps], 1)), Independent(Normal(loc, scale), 1))


@both
def test_the_test_score_is_eq_1(finished: dict[str, Result], method: str, npz: str) -> None:
    """Computed again from the saved parameters with torch.nn, torch.distributions, a loop over draws, other noise."""
    result = finished[method]
    model = result.method.double()
    with np.load(npz) as file:
        train, test = (torch.from_numpy(file[name]).double().unsqueeze(1) / 255 for name in ("train", "test"))
    own = data.get(npz).split(Images(blobs(40, (1, 28, 28), 1), blobs(TEST_IMAGES, (1, 28, 28), 2)), 5).train
    decoder = ConvDecoder(3, (1, 28, 28)).double()
    copy_member(model.decoder.mean, 0, decoder)
    scale = math.exp(model.decoder.logvar.item() / 2)
    repeats, samples = 10, 20
    iwae, elbo = [], []
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(123)
        x = test - train[own].mean(0)
        q = plain_posterior(result, x)
        for _ in range(repeats):
            log_w = []
            for _ in range(samples):
                z = q.sample()
                log_p = Normal(decoder.layers(z), scale).log_prob(x).sum((1, 2, 3)) + Normal(0, 1).log_prob(z).sum(1)
                log_w.append(log_p - q.log_prob(z))
            weights = torch.stack(log_w)
            iwae.append((weights.logsumexp(0) - math.log(samples)).mean().item())
            elbo.append(weights.mean().item())
    for found, estimates in ((result.test_iwae, iwae), (result.test_elbo, elbo)):
        # the result's score is another draw of the same estimator
        assert abs(found.mean().item() - np.mean(estimates)) < 5 * np.std(estimates, ddof=1)
    difference = np.mean(iwae) - np.mean(elbo)
    assert difference > 5 * np.std(elbo, ddof=1) / math.sqrt(repeats), "the test cannot distinguish IWAE and ELBO"


@both
def test_scores_are_reproduced_exactly_from_the_saved_model(finished: dict[str, Result], method: str) -> None:
    result = finished[method]
    found = evaluate.scores(
        result.method, blobs(TEST_IMAGES, (1, 28, 28), 2), torch.arange(TEST_IMAGES).unsqueeze(0), samples=20,
        generators=[noise.generator(5, result.chosen, noise.EVALUATE)],
    )  # fmt: skip
    torch.testing.assert_close(found.iwae[0], result.test_iwae, rtol=1e-6, atol=0)


def test_a_stage_starts_from_its_parents_models_and_changes_them(finished: dict[str, Result]) -> None:
    vae, stage = finished["vae"], finished["rme"]
    for restart in range(2):
        parent, child = vae.models[restart], stage.models[restart]
        for name, value in parent.items():
            if name.startswith("encoder."):
                name = name.replace("encoder.", "components.0.")
            distance = (child[name] - value).abs().max()
            assert distance < 0.05, name
            assert (distance > 0) == (name != "pixel_mean"), name


@both
def test_a_result_is_loaded_as_it_was_saved(finished: dict[str, Result], method: str, tmp_path: Path) -> None:
    result = finished[method]
    result.save(tmp_path)
    again = Result.load(tmp_path)
    assert again.spec == result.spec and again.spec.key == result.spec.key
    for name in ("chosen", "updates", "environment", "inference_ms", "train_s"):
        assert getattr(again, name) == getattr(result, name)
    for name in ("val_iwae", "val_elbo", "kept_epochs", "test_iwae", "test_elbo", "losses", "history_elbo",
                 "finished_at", "reconstructions", "samples", "test_images"):  # fmt: skip
        found, wanted = getattr(again, name), getattr(result, name)
        assert found.dtype == wanted.dtype
        torch.testing.assert_close(found, wanted, rtol=0, atol=0, equal_nan=True)
    assert len(again.models) == 2
    for found, wanted in zip(again.models, result.models, strict=True):
        assert found.keys() == wanted.keys() and all(torch.equal(found[n], wanted[n]) for n in wanted)
    assert again.metrics == result.metrics


def test_a_missing_or_truncated_result_is_refused(finished: dict[str, Result], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Result.load(tmp_path)
    finished["vae"].save(tmp_path)
    for path in sorted(tmp_path.iterdir()):
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(CorruptFile, match=path.name):
            Result.load(tmp_path)
        path.write_bytes(whole)
    (tmp_path / MARKER).unlink()
    with pytest.raises(FileNotFoundError):
        Result.load(tmp_path)


def test_a_result_is_one_file(finished: dict[str, Result], tmp_path: Path) -> None:
    finished["vae"].save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [MARKER]


# ---------------------------------------------------------------------- the parent
def test_a_parent_that_is_not_given_is_trained_first(spec, finished: dict[str, Result]) -> None:
    alone = rme.fit(spec("rme", 2), progress=False, device="cpu")
    assert torch.equal(alone.test_iwae, finished["rme"].test_iwae)


def test_the_wrong_parent_is_refused(spec, finished: dict[str, Result]) -> None:
    with pytest.raises(ValueError, match=r"RME\(2\) seed 6 does not start from .* VAE seed 5"):
        rme.fit(spec("rme", 2, seed=6), progress=False, device="cpu", parent=finished["vae"])
    with pytest.raises(ValueError, match=r"keep is best, not last$"):
        rme.fit(spec("rme", 2, keep="last"), progress=False, device="cpu", parent=finished["vae"])
    with pytest.raises(ValueError, match="VAE seed 5 does not start from"):
        rme.fit(spec("vae"), progress=False, device="cpu", parent=finished["vae"])


# ---------------------------------------------------------------------- interrupted
class Interrupted(Exception):
    pass


@pytest.mark.parametrize(("method", "order"), [("vae", None), ("rme", 2)])
def test_a_resumed_run_equals_the_uninterrupted_one(
    spec, method: str, order: int | None, tmp_path: Path, monkeypatch
) -> None:
    run = spec(method, order, epochs=3)
    undisturbed = rme.fit(run, progress=False, device="cpu")

    trained: list[tuple[str, int]] = []
    real = Engine.train_epoch

    def counting(engine: Engine) -> Tensor:
        losses = real(engine)
        trained.append((engine.spec.method, engine.epoch))
        return losses

    @contextmanager
    def interrupting(of, wanted):
        def advance(engine: Engine) -> None:
            if engine.spec.method == method and engine.epoch == 2:
                raise Interrupted

        yield advance

    monkeypatch.setattr(Engine, "train_epoch", counting)
    monkeypatch.setattr(training, "CHECKPOINT_SHARE", 1e9)  # after every epoch
    with monkeypatch.context() as patch:
        patch.setattr(fitting, "epoch_bar", interrupting)
        with pytest.raises(Interrupted):
            rme.fit(run, progress=False, device="cpu", checkpoint_dir=tmp_path)
    assert trained[-1] == (method, 2)
    trained.clear()
    result = rme.fit(run, progress=False, device="cpu", checkpoint_dir=tmp_path)
    assert trained == [(method, 3)], "an epoch, or the parent, was trained again"
    for name in ("val_iwae", "val_elbo", "test_iwae", "test_elbo", "losses", "history_elbo", "samples"):
        torch.testing.assert_close(getattr(result, name), getattr(undisturbed, name), rtol=0, atol=0, equal_nan=True)
    assert result.chosen == undisturbed.chosen
    assert len(result.finished_at) == 3


# ---------------------------------------------------------------------- divergence
def test_a_training_that_is_stopped_saves_the_epoch_and_resumes(small, tmp_path: Path, monkeypatch) -> None:
    """Also where no checkpoint is due after that epoch."""
    monkeypatch.setattr(training, "CHECKPOINT_SHARE", 1e-9)
    checkpoints = Checkpoints(tmp_path)
    spec = small.spec(epochs=6)

    def stop(engine: Engine) -> None:
        if engine.epoch == 4:
            raise StopTraining

    with pytest.raises(StopTraining):
        training.train(small.engine(spec), checkpoints, stop)
    newest = checkpoints.newest()
    assert newest is not None and int(newest[0]["counters"][0]) == 4
    resumed, whole = small.engine(spec), small.engine(spec)
    epochs: list[int] = []
    training.train(resumed, checkpoints, lambda engine: epochs.append(engine.epoch))
    training.train(whole)
    assert epochs == [5, 6]
    ours, theirs = resumed.method.state_dict(), whole.method.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_diverged_restart_is_not_chosen(tiny, spec) -> None:
    """A run with one finite restart has a result; a run with only diverged ones has none."""
    runs = [spec("vae", seed=s) for s in (1, 2)]
    images = Images(blobs(40, (1, 28, 28), 1), blobs(TEST_IMAGES, (1, 28, 28), 2))
    engine = training.build(runs, images, "cpu", None)
    training.train(engine)
    for parameter in engine.method.parameters():
        parameter[[0, 2, 3]] = math.nan
    found = results(engine)
    good, bad = found[runs[0].key], found[runs[1].key]
    assert isinstance(good, Result) and good.chosen == 1
    assert good.val_iwae[0].isnan() and good.test_iwae.isfinite().all()
    assert isinstance(bad, DivergedError)
    assert "seed 2" in str(bad) and "0.001" in str(bad)


def test_a_diverged_run_raises_with_its_learning_rate(spec) -> None:
    with pytest.raises(DivergedError, match=r"learning rate was 0\.9"):
        rme.fit(spec("vae", learning_rate=0.9, epochs=60), progress=False, device="cpu")


# ---------------------------------------------------------------------- devices
@pytest.mark.parametrize(("error", "lost"), [
    (RuntimeError("CUDA error: device-side assert triggered\nCompile with ..."), True),
    (RuntimeError("CUDA error: uncorrectable ECC error encountered"), True),
    (RuntimeError("CUDA error: unspecified launch failure"), True),
    (RuntimeError("CUDA error: operation not permitted when stream is capturing"), False),
    (torch.OutOfMemoryError("CUDA out of memory"), False),
    (ValueError("device-side assert"), False),
])  # fmt: skip
def test_errors_that_lose_the_gpu(error: Exception, lost: bool) -> None:
    assert is_lost(error) == lost


def test_an_unknown_device_is_refused() -> None:
    assert pick_device("cpu").type == "cpu"
    with pytest.raises(ValueError, match="'warp9' is no device"):
        pick_device("warp9")
    if not torch.cuda.is_available():
        assert pick_device("auto").type == "cpu"
        with pytest.raises(ValueError, match="no CUDA device"):
            pick_device("cuda")


def test_a_result_of_an_earlier_version_still_loads(finished: dict[str, Result], tmp_path: Path) -> None:
    """It has no test images, and no kept epochs, because each restart kept its last epoch."""
    finished["vae"].save(tmp_path)
    tensors, about = checkpoint.load(tmp_path / MARKER)
    del tensors["test_images"], tensors["kept_epochs"]
    checkpoint.save(tmp_path / MARKER, tensors, about)
    again = Result.load(tmp_path)
    assert torch.equal(again.test_images, again.reconstructions[0])
    assert again.kept_epochs.tolist() == [2, 2]
