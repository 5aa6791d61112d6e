"""bf16: only the networks compute in bfloat16, training still works, and scores are always float32."""

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
    # the encoder's output is rounded to bfloat16
    assert torch.equal(rough, rough.bfloat16().float()) and not torch.equal(fine, fine.bfloat16().float())
    torch.testing.assert_close(rough, fine, rtol=0.05, atol=0.01)


@pytest.mark.parametrize("name", [name for name in methods.names() if methods.get(name).trains])
def test_every_method_learns_in_bfloat16_what_it_learns_in_float32(name: str, tiny) -> None:
    """In an epoch the parameters, which stay float32, change as much and in nearly the same direction.

    Not in exactly the same: rounding can flip the sign of a gradient near zero, and Adam's steps do not depend on size.
    """
    kind = methods.get(name)
    order = min(kind.orders) if kind.orders else None
    changes = []
    for name_of_precision in ("bf16", "float32"):
        spec = tiny.spec(name, order, decoder=kind.decoders[0], precision=name_of_precision)
        method = (engine := tiny.engine(spec)).method
        before = parameters_to_vector(method.parameters()).clone()
        engine.train_epoch()
        changes.append(parameters_to_vector(method.parameters()) - before)
    rough, fine = changes
    assert rough.dtype == torch.float32
    assert torch.cosine_similarity(rough, fine, 0) > 0.7, "unrelated changes have a similarity within 0.001 of 0"
    assert (rough.norm() / fine.norm()).item() == pytest.approx(1, abs=0.05)


def test_scores_are_float32_whatever_the_training(tiny) -> None:
    engine = tiny.engine(tiny.spec(precision="bf16"))
    engine.train_epoch()
    plain = tiny.engine(tiny.spec())
    plain.method.load_state_dict(engine.method.state_dict())

    def scored(one):
        generators = [noise.generator(0, 0, noise.EVALUATE)]
        return evaluate.scores(one.method, one.pixels, one.val_index, samples=5, generators=generators).iwae

    with precision.training("bf16"):
        assert torch.equal(scored(engine), scored(plain))


def tf32_allowed() -> tuple[bool, bool]:
    """Whether matrix products and convolutions on a GPU may use TF32."""
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize("name", precision.DTYPES)
def test_training_uses_tf32_unless_it_is_left_out(name: str) -> None:
    before = tf32_allowed()
    with precision.without_tf32():
        assert tf32_allowed() == before, "only training is affected"
        with precision.training(name):
            assert tf32_allowed() == (False, False)
    with precision.training(name):
        assert tf32_allowed() == (True, True)
    assert tf32_allowed() == before


def test_tf32_is_allowed_again_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), precision.without_tf32(), precision.training("float32"):
        raise ZeroDivisionError
    with precision.training("float32"):
        assert tf32_allowed() == (True, True)
