"""The engine: pixels, data order, random streams, optimiser, validation, and that members are independent."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from rme import data, evaluate, noise
from rme.data import Images
from rme.engine import DivergedError, Engine, member_parameters, pixel_moments
from rme.model_file import as_method


def snapshot(engine: Engine) -> dict[str, Tensor]:
    """A copy of the state without times: the tensors of `state()` change with the training."""
    clocks = ("history.seconds", "history.finished_at")
    return {name: value.clone() for name, value in engine.state().items() if name not in clocks}


def assert_identical(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name, value in a.items():
        # NaN equals itself here
        assert value.dtype == b[name].dtype and value.shape == b[name].shape, name
        torch.testing.assert_close(value, b[name], rtol=0, atol=0, equal_nan=True, msg=lambda m, n=name: f"{n}: {m}")


# ---------------------------------------------------------------------- pixels
def test_mean_and_variance_equal_numpys(small) -> None:
    engine = small.engine([small.spec(seed=s, restarts=2, precision="float64") for s in (4, 5)])
    for run, seed in enumerate((4, 5)):
        index = engine.train_index[2 * run].numpy()
        values = small.images.train.numpy()[index].astype(np.float64) / 255
        assert len(index) == 36
        mean = values.mean(0)
        for i in (2 * run, 2 * run + 1):
            np.testing.assert_allclose(engine.method.pixel_mean[i].numpy(), mean, rtol=1e-13)
            variance = ((values - mean) ** 2).mean()
            assert engine.method.decoder.logvar[i].item() == pytest.approx(math.log(variance), abs=1e-12), seed
    x = engine.method.centred(small.images.train[engine.train_index])
    assert x.mean(1).abs().max() < 1e-14
    assert x.var(dim=(1, 2, 3, 4), correction=0).log().numpy() == pytest.approx(engine.method.decoder.logvar.numpy())


@pytest.mark.parametrize("at_once", [3, 4 * 1000, 2**24])
def test_moments_of_many_images_do_not_depend_on_the_parts_they_are_summed_in(monkeypatch, at_once: int) -> None:
    """Parts of one image with four pixels, parts of 1000 images with a smaller last one, and a single part."""
    monkeypatch.setattr("rme.engine.PIXELS_AT_ONCE", at_once)
    pixels = torch.randint(0, 256, (9000, 1, 2, 2), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    index = torch.arange(9000)[::2].contiguous()
    mean, variance = pixel_moments(pixels, index)
    values = pixels[::2].numpy() / 255.0
    np.testing.assert_allclose(mean.numpy(), values.mean(0), rtol=1e-12)
    assert variance == pytest.approx(values.var(0).mean(), rel=1e-10)


def test_images_without_variance_give_a_finite_log_variance(tiny) -> None:
    grey = torch.full((20, 1, 28, 28), 7, dtype=torch.uint8)
    engine = tiny.engine(tiny.spec(), Images(grey, grey[:2]))
    assert engine.method.decoder.logvar.isfinite().all()
    assert engine.train_epoch().isfinite().all()


# ---------------------------------------------------------------------- order
def recorded_epochs(engine: Engine, epochs: int) -> list[Tensor]:
    """The indices of the images that each member is trained on, in order; (B, n) for each epoch."""
    seen: list[Tensor] = []
    step = engine.train_step

    def recording(index: Tensor) -> Tensor:
        seen.append(index)
        return step(index)

    engine.train_step = recording
    out = []
    for _ in range(epochs):
        seen.clear()
        engine.train_epoch()
        assert [part.shape[1] for part in seen] == [16, 16, 4]
        out.append(torch.cat(seen, 1))
    return out


def test_each_member_sees_its_own_training_images_once_an_epoch_in_its_own_order(small) -> None:
    engine = small.engine([small.spec(seed=s, restarts=2) for s in (1, 2)])
    epochs = recorded_epochs(engine, 2)
    for order in epochs:
        for i, row in enumerate(order):
            assert torch.equal(row.sort().values, engine.train_index[i])
            assert not set(row.tolist()) & set(engine.val_index[i].tolist())
    rows = [tuple(row.tolist()) for order in epochs for row in order]
    assert len(set(rows)) == len(rows), "two orders are equal"
    assert engine.train_index[0].tolist() == engine.train_index[1].tolist() != engine.train_index[2].tolist()
    again = recorded_epochs(small.engine([small.spec(seed=s, restarts=2) for s in (1, 2)]), 2)
    assert all(torch.equal(a, b) for a, b in zip(epochs, again, strict=True))


def test_losses_of_an_epoch_are_means_over_images(small) -> None:
    engine = small.engine(small.spec(precision="float64"))
    kept: list[tuple[int, Tensor]] = []
    step = engine.train_step

    def recording(index: Tensor) -> Tensor:
        losses = step(index)
        kept.append((index.shape[1], losses))
        return losses

    engine.train_step = recording
    found = engine.train_epoch()
    assert found.shape == (1, 1)
    wanted = sum(n * losses.item() for n, losses in kept) / 36
    assert found.item() == pytest.approx(wanted, rel=1e-13)
    assert (engine.epoch, engine.iteration) == (1, 3)


# ---------------------------------------------------------------------- streams
def test_members_start_differently_and_streams_of_different_purposes_differ(small) -> None:
    engine = small.engine([small.spec(seed=s, restarts=2) for s in (1, 2)])
    heads = engine.method.encoder.head[0].weight
    assert len({tuple(w.flatten().tolist()) for w in heads}) == 4
    purposes = (noise.INIT, noise.ORDER, noise.TRAIN, noise.EVALUATE, noise.PICTURES, noise.GAPS)
    firsts = {
        torch.rand(1, generator=noise.generator(seed, restart, purpose), dtype=torch.float64).item()
        for seed in range(4) for restart in range(4) for purpose in purposes
    }  # fmt: skip
    assert len(firsts) == 4 * 4 * len(purposes)


def test_the_first_restart_does_not_depend_on_the_number_of_restarts(small) -> None:
    few, many = (small.engine(small.spec(restarts=r, precision="float64")) for r in (1, 3))
    for engine in (few, many):
        engine.train_epoch()
    theirs = member_parameters(many.method, 0)
    for name, value in member_parameters(few.method, 0).items():
        torch.testing.assert_close(theirs[name], value, rtol=1e-12, atol=1e-15)


def test_noise_of_the_wrong_number_of_members_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(3, 2\).*2 members"):
        noise.Noise([torch.Generator(), torch.Generator()]).normal((3, 2))


# ---------------------------------------------------------------------- the optimiser
def test_training_is_adam_on_the_mean_loss_at_the_specs_rate(small) -> None:
    """Three steps of the engine equal those of autograd and torch's Adam on a copy of the model."""
    engine = small.engine(small.spec(precision="float64", restarts=2, learning_rate=3e-3))
    twin = copy.deepcopy(engine.method).requires_grad_(True)
    before = {n: p.detach().clone() for n, p in twin.named_parameters()}
    adam = torch.optim.Adam(twin.parameters(), lr=3e-3, fused=False, foreach=False)
    streams = [noise.generator(0, r, noise.TRAIN) for r in range(2)]
    for index in torch.arange(24).view(3, 1, 8).expand(3, 2, 8):
        engine.train_step(index)
        x = small.images.train[index].double() / 255 - twin.pixel_mean.unsqueeze(1)
        q = twin.encoder(x)
        eps = torch.stack([torch.empty(8, 3, dtype=torch.float64).normal_(generator=g) for g in streams])
        normal = torch.distributions.Normal(q.mu, (q.logvar / 2).exp())
        prior = torch.distributions.Normal(torch.zeros_like(q.mu), torch.ones_like(q.mu))
        pixels = torch.distributions.Normal(
            twin.decoder(q.mu + normal.scale * eps), (twin.decoder.logvar / 2).exp().view(2, 1, 1, 1, 1)
        )
        kl = torch.distributions.kl_divergence(normal, prior).sum(-1)
        adam.zero_grad()
        (kl - pixels.log_prob(x).sum((2, 3, 4))).mean(1).sum().backward()
        adam.step()
    for name, wanted in twin.named_parameters():
        found = dict(engine.method.named_parameters())[name]
        change = (wanted - before[name]).detach()
        assert change.norm() > 0
        assert (found - before[name] - change).norm() < 1e-7 * change.norm(), name


def test_each_run_needs_a_split(small) -> None:
    specs = [small.spec(seed=seed) for seed in (1, 2)]
    with pytest.raises(ValueError, match="shorter"):
        Engine(specs, small.images, [data.get("digits").split(small.images, 1)])


# ---------------------------------------------------------------------- times
def test_times_are_stored_exactly(small) -> None:
    """Single precision would round seconds since 1970 to minutes."""
    engine = small.engine(small.spec())
    engine.train_epoch()
    again = small.engine(small.spec())
    again.load_state(engine.state())
    assert again.history.finished_at == engine.history.finished_at
    assert again.history.seconds == engine.history.seconds


# ---------------------------------------------------------------------- validation
def test_validation_leaves_training_untouched(small) -> None:
    quiet, watched = (small.engine(small.spec(restarts=2)) for _ in range(2))
    for engine in (quiet, watched):
        engine.train_epoch()
    values = watched.validate()
    assert torch.equal(watched.validate(), values), "validation does not use the same draws each time"
    for engine in (quiet, watched):
        engine.train_epoch()
    a, b = snapshot(quiet), snapshot(watched)
    assert a.pop("history.val_elbo").isnan().all()
    history = b.pop("history.val_elbo")
    assert torch.equal(history[0], values) and history[1].isnan().all()
    kept = {name: b.pop(name) for name in list(b) if name.startswith("kept.")}
    assert torch.equal(kept["kept.elbo"], values)
    assert_identical({name: value for name, value in a.items() if not name.startswith("kept.")}, b)


def test_validation_scores_the_validation_images(small) -> None:
    engine = small.engine([small.spec(seed=s, precision="float64") for s in (1, 2)])
    engine.train_epoch()
    found = engine.validate()
    for i, seed in enumerate((1, 2)):
        stream = noise.generator(seed, 0, noise.EVALUATE)
        x = small.images.train[engine.val_index[i]].double() / 255 - engine.method.pixel_mean[i]
        q = as_method(engine.spec, member_parameters(engine.method, i)).encoder(x.unsqueeze(0))
        z = q.mu + (q.logvar / 2).exp() * torch.empty(1, 4, 3, dtype=torch.float64).normal_(generator=stream)
        mean = as_method(engine.spec, member_parameters(engine.method, i)).decoder(z)
        log_p = torch.distributions.Normal(mean, (engine.method.decoder.logvar[i] / 2).exp()).log_prob(x).sum((2, 3, 4))
        log_prior = torch.distributions.Normal(0, 1).log_prob(z).sum(-1)
        log_q = torch.distributions.Normal(q.mu, (q.logvar / 2).exp()).log_prob(z).sum(-1)
        assert found[i].item() == pytest.approx((log_p + log_prior - log_q).mean().item(), rel=1e-12)


# ---------------------------------------------------------------------- invalid arguments
def test_runs_of_different_cells_are_refused(small) -> None:
    with pytest.raises(ValueError, match="one cell"):
        small.engine([small.spec(seed=0), small.spec(seed=1, dim=4)])
    with pytest.raises(ValueError, match="one cell"):
        small.engine([small.spec(seed=0), small.spec(seed=1, learning_rate=2e-3)])


def test_missing_or_superfluous_parents_are_refused(small) -> None:
    good = small.engine(small.spec("rme", 2))
    splits = [tiny_split(good)]
    with pytest.raises(ValueError, match=r"RME\(2\) starts from vae"):
        Engine([good.spec], small.images, splits)
    vae = small.engine(small.spec())
    with pytest.raises(ValueError, match="VAE starts from scratch"):
        Engine([vae.spec], small.images, splits, parents=vae.method.state_dict())
    part = {"decoder.logvar": torch.zeros(1)}
    with pytest.raises(KeyError, match=r"decoder\.mean\.0\.weight"):
        Engine([good.spec], small.images, splits, parents=part)
    whole = {name: value for name, value in vae.method.state_dict().items() if name.startswith("decoder.")}
    with pytest.raises(KeyError, match=r"encoder\.trunk\.0\.weight"):
        Engine([good.spec], small.images, splits, parents=whole)


def tiny_split(engine: Engine):
    from rme.data import Split

    return Split(engine.train_index[0], engine.val_index[0], engine.test_index[0])


def test_a_stage_starts_from_its_parents_restart_by_restart(small) -> None:
    specs = [small.spec("rme", 3, seed=s, restarts=2) for s in (1, 2)]
    engine = small.engine(specs)
    parents = [m for s in specs for m in small.models(s.parent, small.images)]
    for i, parent in enumerate(parents):
        own = member_parameters(engine.method, i)
        for name, value in parent.items():
            if name.startswith("decoder."):
                assert torch.equal(own[name], value), name
            if name.startswith("encoder."):
                for m in range(3):
                    assert torch.equal(own[name.replace("encoder", f"components.{m}")], value), name
        assert torch.equal(own["pixel_mean"], parent["pixel_mean"])


# ---------------------------------------------------------------------- divergence
@pytest.mark.parametrize(("method", "order"), [("vae", None), ("rme", 2)])
def test_a_diverged_member_does_not_affect_the_others(small, method: str, order: int | None) -> None:
    specs = [small.spec(method, order, seed=s) for s in (1, 2, 3)]
    whole, sick = small.engine(specs), small.engine(specs)
    for parameter in sick.method.parameters():
        parameter[1] = math.nan
    for engine in (whole, sick):
        for _ in range(2):
            engine.train_epoch()
            engine.check_alive()
            engine.validate()
    assert not sick.history.losses[-1][:, 1].isfinite().any()
    assert sick.history.val_elbo[-1][1].isnan()
    for i in (0, 2):
        a, b = member_parameters(whole.method, i), member_parameters(sick.method, i)
        assert all(torch.equal(a[name], b[name]) for name in a)
        assert torch.equal(whole.history.losses[-1][:, i], sick.history.losses[-1][:, i])
        assert torch.equal(whole.history.val_elbo[-1][i], sick.history.val_elbo[-1][i])


def test_training_stops_only_once_all_members_have_diverged(small) -> None:
    engine = small.engine([small.spec(seed=s) for s in (1, 2)])
    engine.check_alive()  # raises nothing before the first epoch
    for dead in range(2):
        for parameter in engine.method.parameters():
            parameter[dead] = math.nan
        engine.train_epoch()
        if dead == 0:
            engine.check_alive()
    with pytest.raises(DivergedError, match=r"seed 1 restart 0.*seed 2 restart 0.*0\.001"):
        engine.check_alive()


# ---------------------------------------------------------------------- a single member
def test_a_member_extracted_from_an_array_has_the_same_scores(small) -> None:
    engine = small.engine([small.spec("rme", 2, seed=s, precision="float64") for s in (1, 2, 3)])
    engine.train_epoch()
    pixels, index = small.images.test, torch.arange(5)

    def streams(*which: int) -> list[torch.Generator]:
        return [torch.Generator().manual_seed(i) for i in which]

    every = evaluate.scores(engine.method, pixels, index.expand(3, -1), samples=3, generators=streams(0, 1, 2))
    for i in range(3):
        alone = as_method(engine.spec, member_parameters(engine.method, i))
        own = evaluate.scores(alone, pixels, index.unsqueeze(0), samples=3, generators=streams(i))
        torch.testing.assert_close(own.iwae[0], every.iwae[i], rtol=1e-12, atol=0)
    assert not torch.allclose(every.iwae[0], every.iwae[1])


def test_state_of_another_model_is_refused(small) -> None:
    engine = small.engine(small.spec(restarts=2))
    other = small.engine(small.spec(restarts=2, dim=4))
    with pytest.raises((KeyError, RuntimeError)):
        engine.load_state(other.state())
