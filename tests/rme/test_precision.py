"""bf16 in training: what is rough, what is not, and that scores never are."""

from __future__ import annotations

import pytest
import torch

from rme import evaluate, methods, noise, precision


def test_only_the_networks_compute_in_bfloat16(tiny) -> None:
    engine = tiny.engine(tiny.spec(precision="bf16"))
    model, x = engine.method, engine.method.centred(engine.pixels[engine.train_index[:, :8]])
    fine = model.encoder(x).mu
    with precision.training("bf16"):
        rough = model.encoder(x).mu
    assert rough.dtype == fine.dtype == torch.float32
    # the encoder ends with a rounding to 8 bits of mantissa
    assert torch.equal(rough, rough.bfloat16().float()) and not torch.equal(fine, fine.bfloat16().float())
    torch.testing.assert_close(rough, fine, rtol=0.05, atol=0.01)


@pytest.mark.parametrize("name", [name for name in methods.names() if methods.get(name).trains])
def test_every_method_learns_in_bfloat16_with_parameters_in_float32(name: str, tiny) -> None:
    kind = methods.get(name)
    spec = tiny.spec(
        name, min(kind.orders) if kind.orders else None, decoder=kind.decoders[0], precision="bf16", restarts=2
    )
    engine = tiny.engine(spec)
    before = {key: value.clone() for key, value in engine.method.state_dict().items()}
    assert engine.train_epoch().isfinite().all()
    after = engine.method.state_dict()
    assert all(value.dtype == torch.float32 for value in engine.state().values() if value.is_floating_point()
               and value.dim() > 3)  # fmt: skip
    assert any(not torch.equal(before[key], after[key]) for key in before)


def test_scores_are_float32_whatever_trained(tiny) -> None:
    engine = tiny.engine(tiny.spec(precision="bf16"))
    engine.train_epoch()
    plain = tiny.engine(tiny.spec())
    plain.method.load_state_dict(engine.method.state_dict())

    def scored(one):
        generators = [noise.generator(0, 0, noise.EVALUATE)]
        return evaluate.scores(one.method, one.pixels, one.val_index, samples=5, generators=generators).iwae

    with precision.training("bf16"):
        assert torch.equal(scored(engine), scored(plain))
