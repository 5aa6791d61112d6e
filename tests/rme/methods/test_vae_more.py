"""VAE-more: the finished VAE trained for longer, with no other difference."""

from __future__ import annotations

import torch

from rme import noise
from rme.config import RunSpec
from rme.noise import Noise
from rme.step import Step


def test_it_starts_as_the_finished_vae_and_has_its_loss(tiny) -> None:
    engine = tiny.engine(tiny.spec("vae-more", precision="float64", restarts=2))
    vae = tiny.engine(engine.spec.parent)
    vae.train_epoch()
    assert engine.spec.training_epochs == vae.spec.training_epochs and engine.spec.rate == vae.spec.rate
    assert [u.name for u in engine.updates] == [u.name for u in vae.updates]
    own = engine.method.state_dict()
    assert own.keys() == vae.method.state_dict().keys()
    for name, value in vae.method.state_dict().items():
        assert torch.equal(own[name], value), name

    def loss(method) -> torch.Tensor:
        streams = Noise([noise.generator(5, r, noise.TRAIN) for r in range(2)], torch.float64)
        return method.loss(Step(method.centred(tiny.images.train[:8].expand(2, -1, -1, -1, -1)), streams, 0))

    assert torch.equal(loss(engine.method), loss(vae.method))


def test_its_rate_is_that_of_its_stage_and_its_parent_has_the_vaes(tiny) -> None:
    spec = tiny.spec("vae-more")
    assert spec.rate == 1e-3 and tiny.spec("vae-more", stage_learning_rate=2e-3).rate == 2e-3
    assert tiny.spec("vae-more", stage_learning_rate=2e-3).parent.key == spec.parent.key
    keys = {
        s.key for s in (spec, tiny.spec("vae-more", stage_learning_rate=2e-3), tiny.spec("vae-more", stage_epochs=7))
    }
    assert len(keys) == 3
    assert tiny.spec("vae-more", stage_epochs=2).key == spec.key, "its default length is the VAE's"


def test_its_default_is_rmes_rate() -> None:
    """So that it is a fair control of RME."""
    control, rme = (RunSpec(method=m, order=o, dataset="digits", dim=3) for m, o in (("vae-more", None), ("rme", 2)))
    assert control.rate == rme.rate == 1e-6
    assert control.method_class.control and not rme.method_class.control
