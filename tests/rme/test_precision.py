"""bf16 in training: what is rough, what is not, and that scores never are."""

from __future__ import annotations

import pytest
import torch
from torch.nn.utils import parameters_to_vector

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
def test_every_method_learns_in_bfloat16_what_it_learns_in_float32(name: str, tiny) -> None:
    """An epoch moves the parameters, which stay float32, as far and in nearly the same direction.

    Rounded gradients that are near zero change sign, and Adam steps as far for these as for any.
    """
    kind = methods.get(name)
    order = min(kind.orders) if kind.orders else None
    moved = []
    for kept in ("bf16", "float32"):
        method = (engine := tiny.engine(tiny.spec(name, order, decoder=kind.decoders[0], precision=kept))).method
        before = parameters_to_vector(method.parameters()).clone()
        engine.train_epoch()
        moved.append(parameters_to_vector(method.parameters()) - before)
    rough, fine = moved
    assert rough.dtype == torch.float32
    assert torch.cosine_similarity(rough, fine, 0) > 0.7, "of no relation it would be within a thousandth of zero"
    assert (rough.norm() / fine.norm()).item() == pytest.approx(1, abs=0.05)


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
