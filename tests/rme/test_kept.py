"""The kept parameters: of the best epoch or the last, with or without patience, alone and in an array."""

from __future__ import annotations

import functools
import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rme import evaluate, noise, training
from rme.checkpoint import Checkpoints
from rme.engine import Engine, member_parameters
from rme.kept import Kept
from rme.selection import results
from rme.training import is_measured, train, trained

UP_AND_DOWN = [3.0, 5.0, 4.0, math.nan, 4.5, 6.0, 1.0]


def kept_of(elbos: list[list[float]], keep: str = "best", patience: int | None = None) -> tuple[Kept, Tensor]:
    """A `Kept` after epochs with these ELBOs, in which epoch e's parameters are e; and the parameters put back."""
    by_epoch = torch.tensor(elbos, dtype=torch.float64).T
    model = {"weight": torch.zeros(len(elbos), 2)}
    kept = Kept(model, keep, patience)  # type: ignore[arg-type]
    for epoch, elbo in enumerate(by_epoch, 1):
        model["weight"].fill_(epoch)
        kept.measured(epoch, elbo, model)
    kept.put_back(model)
    return kept, model["weight"][:, 0]


# ---------------------------------------------------------------------- by hand
def test_the_best_epoch_is_kept_member_by_member() -> None:
    falling = [9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0]
    never = [math.nan] * 7
    kept, weights = kept_of([UP_AND_DOWN, falling, never])
    assert weights.tolist() == [6, 1, 7], "if all ELBOs are NaN, the last epoch's are kept"
    assert kept.epochs(7).tolist() == [6, 1, 7]
    assert kept.elbo.tolist() == [6.0, 9.0, -math.inf]


def test_of_two_equal_epochs_the_first_is_kept() -> None:
    _, weights = kept_of([[1.0, 2.0, 2.0]])
    assert weights.tolist() == [2]


@pytest.mark.parametrize(("patience", "best", "end"), [(1, 2, 3), (2, 2, 4), (3, 2, 5), (4, 6, 0), (9, 6, 0)])
def test_patience_ends_a_member_once_its_best_is_that_old(patience: int, best: int, end: int) -> None:
    kept, weights = kept_of([UP_AND_DOWN], patience=patience)
    assert (weights.item(), kept.finished.item()) == (best, end)


def test_with_keep_last_patience_keeps_the_epoch_at_which_it_ended() -> None:
    kept, weights = kept_of([UP_AND_DOWN], "last", patience=2)
    assert weights.tolist() == [4] and kept.epochs(7).tolist() == [4]
    kept, weights = kept_of([UP_AND_DOWN], "last")
    assert weights.tolist() == [7] and kept.epochs(7).tolist() == [7]


def test_with_keep_last_only_finished_members_are_put_back() -> None:
    rising = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    kept, weights = kept_of([UP_AND_DOWN, rising], "last", patience=2)
    assert weights.tolist() == kept.epochs(7).tolist() == [4, 7]


def test_a_member_may_finish_after_its_first_epoch() -> None:
    kept, weights = kept_of([[math.nan, 1.0, 2.0]], "last", patience=1)
    assert weights.tolist() == kept.epochs(3).tolist() == kept.finished.tolist() == [1]


@pytest.mark.parametrize(("keep", "patience", "copies"), [("best", None, 1), ("last", 2, 1), ("last", None, 0)])
def test_before_the_first_measurement_nothing_is_best(keep: str, patience: int | None, copies: int) -> None:
    model = {"weight": torch.ones(3, 2)}
    kept = Kept(model, keep, patience)  # type: ignore[arg-type]
    assert kept.elbo.tolist() == [-math.inf] * 3 and kept.elbo.dtype == torch.float64
    assert kept.epoch.tolist() == kept.finished.tolist() == [0] * 3
    assert kept.epoch.dtype == kept.finished.dtype == torch.int64
    assert kept.epochs(5).tolist() == [5, 5, 5], "the last epoch's are kept"
    assert len(kept.model) == copies
    model["weight"].zero_()
    kept.put_back(model)
    assert (model["weight"] == 0).all()


@pytest.mark.parametrize(("keep", "patience"), [("best", None), ("best", 2), ("last", 2), ("last", None)])
def test_restoring_the_state_continues_as_without_interruption(keep: str, patience: int | None) -> None:
    whole, weights = kept_of([UP_AND_DOWN, UP_AND_DOWN[::-1]], keep, patience)
    model = {"weight": torch.zeros(2, 2)}
    half = Kept(model, keep, patience)  # type: ignore[arg-type]
    by_epoch = torch.tensor([UP_AND_DOWN, UP_AND_DOWN[::-1]], dtype=torch.float64).T
    for epoch, elbo in enumerate(by_epoch[:4], 1):
        model["weight"].fill_(epoch)
        half.measured(epoch, elbo, model)
    state = {name: value.clone() for name, value in half.state().items()}
    assert all(len(value) == 2 for value in state.values())
    again = Kept(model, keep, patience)  # type: ignore[arg-type]
    again.load_state(state)
    for epoch, elbo in enumerate(by_epoch[4:], 5):
        model["weight"].fill_(epoch)
        again.measured(epoch, elbo, model)
    again.put_back(model)
    assert torch.equal(model["weight"][:, 0], weights)
    for name, value in whole.state().items():
        assert torch.equal(again.state()[name], value), name
    for name in state:
        with pytest.raises(KeyError, match=name):
            Kept(model, keep, patience).load_state({n: v for n, v in state.items() if n != name})  # type: ignore[arg-type]


# ---------------------------------------------------------------------- the epochs that are measured
@pytest.mark.parametrize(("fields", "measured"), [
    ({"epochs": 8}, [1, 2, 3, 4, 5, 6, 7, 8]),
    ({"epochs": 205}, [*range(4, 205, 4), 205]),
    ({"epochs": 205, "patience": 3}, [*range(3, 205, 3), 205]),
    ({"epochs": 207, "finish_epochs": 3}, [*range(4, 205, 4), 205, 206, 207]),
])  # fmt: skip
def test_the_elbo_is_measured_about_fifty_times_and_at_every_epoch_of_short_phases(small, fields, measured) -> None:
    spec = small.spec(**fields)
    assert [epoch for epoch in range(1, spec.epochs + 1) if is_measured(spec, epoch)] == measured


# ---------------------------------------------------------------------- in a training
CASES = {
    "vae": ("vae", None, {"epochs": 6, "learning_rate": 0.02}),
    "vae, a finish": (
        "vae", None, {"epochs": 6, "learning_rate": 0.02, "finish_epochs": 2, "finish_learning_rate": 1e-4}
    ),
    "vae, patience": ("vae", None, {"epochs": 9, "learning_rate": 0.02, "patience": 2}),
    "vae, the last": ("vae", None, {"epochs": 4, "learning_rate": 0.02, "keep": "last"}),
    "rme": ("rme", 2, {"epochs": 2, "stage_epochs": 5, "stage_learning_rate": 5e-3}),
    "rme, the last": ("rme", 2, {"epochs": 2, "stage_epochs": 3, "stage_learning_rate": 5e-3, "stage_keep": "last"}),
}  # fmt: skip
every_case = pytest.mark.parametrize("case", CASES)


def runs(small, case: str, seeds=(1, 2, 3), **more):
    method, order, fields = CASES[case]
    return [small.spec(method, order, seed=s, precision="float64", batch_size=32, **{**fields, **more}) for s in seeds]


def watched(engine: Engine) -> list[dict[str, Tensor]]:
    """Train to the end and return the parameters after each epoch."""
    after = []
    train(engine, on_epoch=lambda e: after.append({n: v.clone() for n, v in e.method.state_dict().items()}))
    return after


class Whole:
    """A case's array trained without interruption; `after` holds the parameters after each epoch."""

    def __init__(self, small, case: str) -> None:
        self.specs = runs(small, case)
        self.engine = small.engine(self.specs)
        self.after = watched(self.engine)
        self.members = trained(self.engine)


@pytest.fixture(scope="module")
def whole(small):
    """The uninterrupted training of a case, run once and shared."""
    return functools.cache(lambda case: Whole(small, case))


@every_case
def test_each_member_ends_with_its_best_epochs_parameters(whole, case: str) -> None:
    """Against all epochs' parameters, with validation ELBOs recomputed from them."""
    engine, after, members = whole(case).engine, whole(case).after, whole(case).members
    scores = []
    for parameters in after:
        engine.method.load_state_dict(parameters)
        streams = [noise.generator(m.spec.seed, m.restart, noise.EVALUATE) for m in engine.members]
        found = evaluate.scores(engine.method, engine.pixels, engine.val_index, samples=1, generators=streams)
        scores.append(found.elbo.mean(-1))
    by_epoch = torch.stack(scores)
    engine.keep()
    best = []
    for i, member in enumerate(members):
        epochs = len(after) if not engine.kept.finished[i] else int(engine.kept.finished[i])
        chosen = int(by_epoch[:epochs, i].argmax()) if engine.spec.own_keep == "best" else epochs - 1
        best.append(chosen + 1)
        assert member.kept_epoch == chosen + 1
        for model in (member.model, member_parameters(engine.method, i)):
            for name, value in model.items():
                assert torch.equal(value, after[chosen][name][i]), name
    if case == "vae":
        assert min(best) < len(after), "this test needs a best epoch that is not the last"
    if case == "vae, patience":
        finished = engine.kept.finished
        assert (finished > 0).any() and finished.unique().numel() > 1, "this test needs members that finish apart"


@every_case
def test_what_a_member_keeps_does_not_depend_on_the_other_members(small, whole, case: str) -> None:
    for member, own in zip(whole(case).members, whole(case).specs, strict=True):
        alone = small.engine(own)
        train(alone)
        (single,) = trained(alone)
        assert single.kept_epoch == member.kept_epoch
        for name in ("losses", "history_elbo"):
            torch.testing.assert_close(
                getattr(member, name), getattr(single, name), rtol=1e-11, atol=1e-11, equal_nan=True
            )
        torch.testing.assert_close(member.val_iwae, single.val_iwae, rtol=1e-11, atol=1e-11)
        for name, value in single.model.items():
            assert (value - member.model[name]).norm() <= 1e-10 * max(1.0, value.norm().item()), name


@every_case
@pytest.mark.parametrize("cuts", [(1,), (3,), (1, 3)], ids=str)
def test_a_resumed_training_keeps_exactly_the_same(
    small, whole, case: str, cuts: tuple[int, ...], tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(training, "CHECKPOINT_SHARE", 1e9)  # after every epoch
    specs = whole(case).specs

    class Interrupted(Exception):
        pass

    for cut in cuts:

        def interrupt(engine: Engine, cut: int = cut) -> None:
            if engine.epoch == cut:
                raise Interrupted

        with pytest.raises(Interrupted):
            train(small.engine(specs), Checkpoints(tmp_path), interrupt)
    again = small.engine(specs)
    train(again, Checkpoints(tmp_path))
    for a, b in zip(whole(case).members, trained(again), strict=True):
        assert a.kept_epoch == b.kept_epoch and torch.equal(a.val_iwae, b.val_iwae)
        assert all(torch.equal(a.model[name], b.model[name]) for name in a.model)
        assert torch.equal(a.losses.nan_to_num(-1), b.losses.nan_to_num(-1))


def test_an_array_ends_with_its_last_member_and_finished_members_have_nan_histories(small) -> None:
    engine = small.engine(runs(small, "vae, patience", seeds=(1, 2, 3, 4)))
    train(engine)
    ends = engine.kept.finished
    if (ends > 0).all():
        assert engine.epoch == ends.max()
    for i, member in enumerate(trained(engine)):
        end = int(ends[i]) or engine.epoch
        assert member.losses[:end].isfinite().all() and member.losses[end:].isnan().all()
        assert member.history_elbo[end:].isnan().all()
        assert len(member.losses) == len(member.finished_at) == 9
        assert (member.finished_at[end - 1 :] == member.finished_at[end - 1]).all()


def test_a_member_that_diverges_has_no_result_though_an_earlier_epoch_was_good(small) -> None:
    """As when it trains alone, where divergence stops the training."""
    engine = small.engine(runs(small, "vae", seeds=(1, 2)))

    def spoil(e: Engine) -> None:
        if e.epoch == 3:
            for parameter in e.method.parameters():
                parameter[1] = math.nan

    train(engine, on_epoch=spoil)
    assert training.validate(engine)[0].isnan().tolist() == [False, True]
    good, bad = trained(engine)
    assert good.val_iwae.isfinite() and bad.val_iwae.isnan()
    found = results(engine)
    assert [type(each).__name__ for each in found.values()] == ["Result", "DivergedError"]


def test_a_finished_members_later_epochs_are_ignored(small, whole) -> None:
    engine = small.engine(runs(small, "vae, patience"))
    undisturbed = whole("vae, patience").engine
    first = int((undisturbed.kept.finished > 0).int().argmax())
    assert 0 < undisturbed.kept.finished[first] < undisturbed.epoch, "this test needs a member that finishes early"

    def spoil(e: Engine) -> None:
        if e.epoch == e.kept.finished[first]:
            for parameter in e.method.parameters():
                parameter[first] = math.nan

    train(engine, on_epoch=spoil)
    a, b = whole("vae, patience").members[first], trained(engine)[first]
    assert torch.equal(a.val_iwae, b.val_iwae) and a.kept_epoch == b.kept_epoch
    assert all(torch.equal(a.model[name], b.model[name]) for name in a.model)


# ---------------------------------------------------------------------- a finish
def stage_like_a_finish(small, fresh: bool) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Parameters of a VAE of 4 epochs whose last 2 are a finish; and of a VAE of 2 epochs, continued by `vae-more`.

    `fresh`: reset the first one's optimiser at its finish. The second continues the random streams of its VAE.
    """
    fields = {"precision": "float64", "keep": "last"}
    whole = small.engine(small.spec(epochs=4, finish_epochs=2, finish_learning_rate=1e-4, **fields))
    for _ in range(2):
        whole.train_epoch()
    streams = {name: value for name, value in whole.state().items() if name.startswith("stream.")}
    parents = {name: value.clone() for name, value in whole.method.state_dict().items()}
    if fresh:
        for adam in whole.optimisers:
            adam.load_state({name: torch.zeros_like(value) for name, value in adam.state().items()})
    more = small.spec("vae-more", epochs=2, stage_epochs=2, stage_learning_rate=1e-4, **fields)
    split = training.data.get("digits").split(small.images, more.seed)
    stage = Engine([more], small.images, [split], parents=parents)
    for name, value in streams.items():
        purpose = stage.order_streams if "order" in name else stage.noise.generators
        purpose[0].set_state(value)
    for _ in range(2):
        whole.train_epoch()
        stage.train_epoch()
    return member_parameters(whole.method, 0), member_parameters(stage.method, 0)


def test_a_finish_equals_the_control_with_as_many_epochs_at_that_rate(small) -> None:
    """Bit for bit, if both start with a new optimiser and the same random streams.

    In use three things differ. A finish continues Adam's state and the training's random streams, but a stage starts
    both anew. With `keep: best` a stage starts from the VAE's best epoch, a finish from the current one.
    """
    finish, control = stage_like_a_finish(small, fresh=True)
    assert all(torch.equal(finish[name], control[name]) for name in finish)
    finish, control = stage_like_a_finish(small, fresh=False)
    assert not torch.equal(finish["decoder.logvar"], control["decoder.logvar"]), "a finish continues Adam's state"


def test_the_finish_learns_at_its_own_rate(small) -> None:
    """Adam changes each parameter by about the learning rate per step, so a tiny rate hardly changes the model."""
    engine = small.engine(small.spec(epochs=3, finish_epochs=1, finish_learning_rate=1e-9, keep="last"))
    after = watched(engine)
    moved = [max((b[n] - a[n]).abs().max().item() for n in a) for a, b in pairwise(after)]
    assert moved[0] > 1e-4 and 0 < moved[1] < 1e-7
