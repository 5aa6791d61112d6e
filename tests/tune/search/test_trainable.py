"""What a sample's worker reports, also when memory is short; and that it looks at no test image."""

from __future__ import annotations

import pytest
import torch

from rme import array_halving, hooks
from rme.engine import Engine
from tests.tiny import write_npz
from tune.run.protocol import Job, Outcome
from tune.run.worker import Link
from tune.search import trainable
from tune.store.storage import Storage


@pytest.fixture
def train(tmp_path, tiny, monkeypatch):
    """Trains a sample of two runs of two restarts; what it reports, and how it ends."""
    npz = str(write_npz(tmp_path / "spots.npz", train=40))
    reported: list[Outcome] = []
    link = Link(reported.append, lambda: False)

    def of(folder: str, on_epoch=None, **fields) -> tuple[list[Outcome], Outcome]:
        reported.clear()
        monkeypatch.setattr(hooks, "on_epoch", lambda: on_epoch)
        settings = {"dataset": npz, "restarts": 2, "epochs": 4, "precision": "float64", **fields}
        runs = tuple(tiny.spec("vae", seed=seed, **settings) for seed in (0, 1))
        job = Job("0", "sample 0", runs, tmp_path, tmp_path / folder, tmp_path, 1, "cpu", 0.0)
        return reported, trainable._train(job, Storage(tmp_path), link)

    return of


def test_a_sample_that_memory_does_not_hold_is_trained_in_parts_with_the_same_reports(train):
    reports, whole = train("whole")
    reports = list(reports)
    assert [each.epoch for each in reports] == [1, 2, 3, 4]
    assert whole.epoch == 4 and whole.val_iwae is not None and len(whole.val_iwae) == 2
    sizes = set()

    def strained(engine: Engine) -> None:
        sizes.add(len(engine.members))
        if len(engine.members) > 1:
            raise MemoryError("none left")

    again, parts = train("parts", strained)
    assert sizes == {4, 2, 1}
    assert [each.epoch for each in again] == [1, 2, 3, 4]
    assert [each.val_elbo for each in again] == pytest.approx([each.val_elbo for each in reports], rel=1e-9)
    assert parts.val_iwae == pytest.approx(whole.val_iwae, rel=1e-9)


def test_a_resumed_sample_reports_what_was_reported_before(train, monkeypatch):
    """ASHA's rungs are empty in a new driver."""
    monkeypatch.setattr("rme.training.CHECKPOINT_SHARE", 1e9)  # a checkpoint after each epoch

    def interrupt(engine: Engine) -> None:
        if engine.epoch == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train("resumed", interrupt)
    reports, outcome = train("resumed")
    assert [each.epoch for each in reports] == [1, 2, 3, 4] and outcome.epoch == 4


def test_a_run_without_a_finite_score_makes_the_sample_diverge(train):
    def spoil(engine: Engine) -> None:
        if engine.epoch == 2:
            for parameter in engine.method.parameters():
                parameter[2:] = torch.nan  # both restarts of the second run

    _, outcome = train("diverged", spoil)
    assert outcome.val_iwae is None and outcome.diverged is not None and "finite" in outcome.diverged


def test_a_sample_of_which_no_member_fits_has_no_score_and_says_why(train):
    def never(engine: Engine) -> None:
        raise MemoryError("none left")

    _, outcome = train("never", never)
    assert outcome.val_iwae is None and outcome.diverged is not None and "one member at a time" in outcome.diverged


def test_no_member_gets_a_test_image(train, monkeypatch):
    seen = []
    real = array_halving.build

    def build(specs, images, *rest):
        seen.append(len(images.test))
        return real(specs, images, *rest)

    monkeypatch.setattr(array_halving, "build", build)
    train("untested")
    assert seen == [0]
